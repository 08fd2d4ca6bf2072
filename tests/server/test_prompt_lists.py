"""Calls with several prompts: one job for each, answered as one."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from contracts.errors import EngineFailed, InvalidRequest
from contracts.jobs import JobQueue
from server import admission, streaming
from server.app import create_app

ROUTE = "/v1/completions"


@pytest.fixture
def post(client):
    """Send a call in the background; `join()` waits for its answer."""
    started = []

    class Call:
        def __init__(self, **fields):
            self._thread = threading.Thread(target=self._run, args=(fields,))
            self._thread.start()
            started.append(self)

        def _run(self, fields):
            self.response = client.post(ROUTE, json=fields)
            self.response.get_data()

        def join(self):
            self._thread.join(20)
            return self.response

    yield Call
    for call in started:
        call.join()


def statuses(redis):
    """How many jobs have each status."""
    found = [JobQueue(redis).read(key.decode().removeprefix("rq:job:")).status for key in redis.keys("rq:job:*")]
    return {status: found.count(status) for status in set(found)}


def take(worker, count):
    """The ids of so many jobs, by their prompt's first token."""
    ids = [worker.take() for _ in range(count)]
    return {worker.request(job_id).prompt_tokens[0]: job_id for job_id in ids}


def events_of(response):
    """The data of all events."""
    lines = response.get_data(as_text=True).splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")], lines


@pytest.mark.parametrize("prompts", [["a", "bc", "def"], [[0], [1, 2], [3, 4, 5]]])
def test_each_prompt_of_a_list_has_its_choices_in_their_order_and_usage_is_summed(post, worker, prompts):
    call = post(prompt=prompts, n=2, logprobs=0)
    jobs = take(worker, 3)
    for first, texts in ((3, ("five", "six")), (0, ("one", "two")), (1, ("three", "four"))):
        worker.finish(jobs[first], *texts)
    body = call.join().get_json()
    assert body["id"] == f"cmpl-{jobs[0]}"
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == list(
        enumerate(["one", "two", "three", "four", "five", "six"])
    )
    assert body["choices"][5]["logprobs"]["tokens"] == list("six")
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 22, "total_tokens": 28}


@pytest.mark.parametrize("seed", [5, None])
def test_every_prompt_of_a_list_is_drawn_with_the_seed_that_the_answer_names(post, worker, seed):
    call = post(prompt=["a", "b"], seed=seed)
    jobs = take(worker, 2)
    seeds = {worker.request(job_id).seed for job_id in jobs.values()}
    for job_id in jobs.values():
        worker.finish(job_id)
    assert seeds == {call.join().get_json()["seed"]}
    assert seed is None or seeds == {seed}


def test_a_list_of_one_is_answered_as_its_prompt_alone(post, worker):
    bodies = []
    for prompt in ("ab", ["ab"], [0, 1], [[0, 1]]):
        call = post(prompt=prompt, seed=1)
        worker.finish(worker.take())
        bodies.append(call.join().get_json() | {"id": "", "created": 0})
    assert all(body == bodies[0] for body in bodies)


def test_the_length_of_each_prompt_counts_by_itself(post, worker):
    call = post(prompt=["a", "abcde"], max_length=12, min_length=4)
    jobs = [worker.take() for _ in range(2)]
    limits = {len(r.prompt_tokens): (r.max_tokens, r.min_tokens) for r in map(worker.request, jobs)}
    assert limits == {1: (11, 3), 5: (7, 0)}
    for job_id in jobs:
        worker.finish(job_id)
    assert call.join().status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [EngineFailed("out of memory"), InvalidRequest("no such token")])
def test_a_prompt_that_fails_is_answered_and_takes_the_others_with_it(post, worker, redis, stream, error):
    call = post(prompt=["a", "b", "c"], stream=stream)
    jobs = take(worker, 3)
    worker.finish(jobs[0])
    worker.fail(jobs[2], error)
    answer = call.join()
    told = json.loads(events_of(answer)[0][-1]) if stream else answer.get_json()
    assert told == error.body()
    assert answer.status_code == (200 if stream else error.status)
    assert statuses(redis) == {"succeeded": 1, "failed": 1, "cancelled": 1}


@pytest.mark.parametrize("stream", [False, True])
def test_a_list_that_cannot_be_put_on_the_queue_whole_leaves_nothing_to_run(settings, worker, redis, stream):
    client = create_app(replace(settings, max_queued_jobs=2)).test_client()
    response = client.post(ROUTE, json={"prompt": ["a", "b", "c"], "stream": stream})
    assert (response.status_code, response.get_json()["error"]["code"]) == (429, "queue_full")
    assert statuses(redis) == {"cancelled": 2}


def test_the_prompts_of_a_stream_come_interleaved_each_under_its_index(client, worker, redis, eventually, monkeypatch):
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(streaming, "GLANCE_SECONDS", 0.02)
    fields = {"prompt": ["a", "b"], "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    response = client.post(ROUTE, json=fields, buffered=False)
    pieces = response.iter_encoded()
    while b"still working" not in next(pieces):  # now it listens
        pass
    jobs = take(worker, 2)
    eventually(lambda: redis.pubsub_numsub("kamishibai:deltas")[0][1] > 0)
    for first, choice, offset, text in [(0, 1, 0, "é"), (1, 0, 0, "x"), (0, 1, 2, "a"), (1, 1, 0, "y")]:
        worker.delta(jobs[first], offset, text, choice=choice)
    worker.finish(jobs[1], "xx", "y")
    chunks, ended = [], False
    for piece in pieces:
        assert not piece.startswith(b"id:"), "its jobs end with the connection: nothing can be resumed"
        if not piece.startswith(b"data: {"):
            continue
        chunks.append(json.loads(piece.removeprefix(b"data: ")))
        if sum(bool(choice["finish_reason"]) for chunk in chunks for choice in chunk["choices"]) == 2 and not ended:
            ended = True  # the second prompt is told to its end while the first goes on
            worker.finish(jobs[0], "", "éab")
    told = [(c["index"], c["text"], c["finish_reason"]) for chunk in chunks for c in chunk["choices"]]
    assert told == [
        *[(1, "é", None), (2, "x", None), (1, "a", None), (3, "y", None)],
        *[(2, "x", None), (2, "", "stop"), (3, "", "stop")],
        *[(1, "b", None), (0, "", "stop"), (1, "", "stop")],
    ]
    assert {chunk["id"] for chunk in chunks} == {f"cmpl-{jobs[0]}"}
    assert [chunk["usage"] for chunk in chunks if "usage" in chunk] == [chunks[-1]["usage"]]
    assert chunks[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}
    assert chunks[-1]["choices"] == []


def test_a_stream_of_several_prompts_ends_once_and_brings_usage_only_on_request(client, worker):
    with worker.working():
        data, lines = events_of(client.post(ROUTE, json={"prompt": ["a", "b", "c"], "stream": True}))
    assert data.count("[DONE]") == 1
    assert data[-1] == "[DONE]"
    assert "usage" not in "".join(data)
    assert not any(line.startswith("id:") for line in lines)


def test_closing_a_stream_cancels_the_jobs_of_all_prompts(client, worker, redis):
    response = client.post(ROUTE, json={"prompt": ["a", "b", "c"], "stream": True}, buffered=False)
    next(response.iter_encoded())
    worker.take()
    response.close()
    assert statuses(redis) == {"cancelled": 3}


def test_a_client_that_leaves_a_call_with_several_prompts_frees_all_of_them(server, worker, redis, eventually):
    connection = server.request("POST", ROUTE, json.dumps({"model": "tiny-text", "prompt": ["a", "b", "c"]}))
    eventually(lambda: len(redis.keys("rq:job:*")) == 3)
    worker.take()
    connection.close()
    eventually(lambda: statuses(redis) == {"cancelled": 3})


def test_answered_prompts_are_soon_forgotten(client, worker, redis, settings, eventually):
    with worker.working():
        assert client.post(ROUTE, json={"prompt": ["a", "b"]}).status_code == 200
    for key in redis.keys("rq:job:*"):
        eventually(lambda key=key: 0 < redis.ttl(key) <= settings.sync_result_seconds)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": [[0], [29]]}, "prompt", "'prompt.1': 'prompt' names token 29, but tiny-text has 29 tokens"),
        ({"prompt": ["a", "a" * 60]}, "max_tokens", "'prompt.1': 'prompt' has 60 tokens and 'max_tokens' is 16"),
        ({"prompt": ["a", "XYZ"]}, "prompt", "'prompt.1': 'prompt' holds nothing that tiny-text can read"),
        ({"prompt": ["a"] * 17, "n": 16}, "n", "'n' is 16 for each of 17 prompts, which makes 272 texts; ask for at"),
    ],
)
def test_what_is_wrong_with_one_prompt_is_told_with_its_place_and_none_is_run(client, redis, fields, param, message):
    before = sorted(redis.keys())
    response = client.post(ROUTE, json=fields)
    error = response.get_json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert message in error["message"]
    assert sorted(redis.keys()) == before


def test_the_prompts_of_a_call_have_no_more_tokens_together_than_one_alone(client, monkeypatch):
    monkeypatch.setattr(admission, "MAX_PROMPT_TOKENS", 60)
    response = client.post(ROUTE, json={"prompt": ["a" * 31, "a" * 30]})
    message = "'prompt' has 61 tokens in 2 prompts; give at most 60 in one call"
    assert (response.status_code, response.get_json()["error"]["message"]) == (400, message)


@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("prompt", ["aa", ["aa", "a"]])
def test_a_call_asks_for_a_bounded_number_of_log_probabilities(client, monkeypatch, worker, prompt, echo):
    tokens = len("".join(prompt)) * echo + 8 * (len(prompt) if isinstance(prompt, list) else 1)
    body = {"prompt": prompt, "echo": echo, "n": 4, "logprobs": 2, "max_tokens": 8}
    monkeypatch.setattr(admission, "MAX_CALL_SCORES", tokens * 4 * 3 - 1)
    refused = client.post(ROUTE, json=body)
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (400, "logprobs")
    assert f"{tokens * 4} tokens, which makes {tokens * 12}" in refused.get_json()["error"]["message"]
    monkeypatch.setattr(admission, "MAX_CALL_SCORES", tokens * 4 * 3)
    with worker.working():
        assert client.post(ROUTE, json=body).status_code == 200


@pytest.mark.parametrize("prompt", [["a", "b"], ["a"], [[0], [1]]])
def test_a_job_has_one_prompt_and_its_refusal_names_the_route_for_many(client, redis, prompt):
    before = sorted(redis.keys())
    response = client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": prompt}})
    error = response.get_json()["error"]
    assert (response.status_code, error["param"]) == (400, "prompt")
    assert f"a list of {len(prompt)} prompts" in error["message"]
    assert "/v1/jobs/bulk" in error["message"]
    assert sorted(redis.keys()) == before

"""Synchronous completions and pictures."""

from __future__ import annotations

import json
import threading

import pytest

from contracts import keys
from contracts.errors import EngineFailed, InvalidRequest, LeaseLost
from contracts.jobs import JobQueue
from contracts.requests import CompletionBody
from server import calls
from server.app import create_app
from server.services import EXTENSION

TEXT, IMAGE, JOBS = "/v1/completions", "/v1/images/generations", "/v1/jobs"


def test_a_completion_has_openais_shape_and_names_seed_and_version(client, worker):
    with worker.working():
        body = client.post(TEXT, json={"model": "tiny-text", "prompt": "abc", "seed": 7}).get_json()
    assert body.pop("id").startswith("cmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "text_completion",
        "system_fingerprint": "",
        "model": "tiny-text",
        "choices": [{"index": 0, "text": "hello", "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        "seed": 7,
        "version": 1,
    }


def test_pictures_have_openais_shape(client, worker):
    with worker.working():
        body = client.post(IMAGE, json={"prompt": "ignored", "n": 2, "size": "8x8", "seed": 3}).get_json()
    assert len(body["data"]) == 2
    assert all(set(picture) == {"b64_json"} for picture in body["data"])
    assert (body["model"], body["version"], body["seed"], body["output_format"]) == ("tiny-picture", 1, 3, "png")


def test_openais_defaults_are_accepted(client, worker):
    text = {"prompt": "a", "n": 1, "best_of": 1, "echo": False, "logprobs": None, "suffix": None, "stop": None}
    text |= {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "user": "me", "temperature": None}
    picture = {"prompt": "a", "n": None, "size": "auto", "quality": "auto", "response_format": "b64_json"}
    with worker.working():
        assert client.post(TEXT, json=text).status_code == 200
        assert client.post(IMAGE, json=picture).status_code == 200


def test_what_the_worker_gets_is_fixed(client, worker):
    seen = []

    def act(job_id):
        seen.append(worker.request(job_id))
        worker.finish(job_id)

    with worker.working(act):
        body = client.post(TEXT, json={"prompt": "ab", "stop": "c", "top_k": 3}).get_json()
    assert seen[0].prompt_tokens == (0, 1)
    assert (seen[0].stop, seen[0].top_k, seen[0].max_tokens, seen[0].stream) == (("c",), 3, 16, False)
    assert seen[0].target == worker.served[0].target
    assert seen[0].seed == body["seed"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_tokens": 16, "min_tokens": 0, "n": 1, "logprobs": None, "echo": False}),
        ({"prompt": [28, 0, 2]}, {"prompt_tokens": (28, 0, 2), "max_tokens": 16}),
        ({"max_new_tokens": 7}, {"max_tokens": 7}),
        ({"max_length": 7}, {"max_tokens": 4}),
        ({"max_length": 9, "min_length": 9}, {"max_tokens": 6, "min_tokens": 6}),
        ({"min_length": 2}, {"min_tokens": 0}),
        ({"min_tokens": 16}, {"min_tokens": 16}),
        ({"max_tokens": 0, "echo": True, "logprobs": 0}, {"max_tokens": 0, "echo": True, "logprobs": 0}),
        ({"max_length": 3, "echo": True}, {"max_tokens": 0}),
        ({"prompt": "a" * 64, "max_tokens": 0, "echo": True}, {"max_tokens": 0}),
        ({"logit_bias": {"28": -100, "3": 0.5, "11": 100}}, {"logit_bias": ((3, 0.5), (11, 100.0), (28, -100.0))}),
        ({"stop_token_ids": [5, 0]}, {"stop_token_ids": (5, 0)}),
        ({"n": 16, "best_of": 16}, {"n": 16}),
        ({"min_p": 0.1, "repetition_penalty": 1.2}, {"min_p": 0.1, "repetition_penalty": 1.2}),
        ({"presence_penalty": -2, "frequency_penalty": 2}, {"presence_penalty": -2.0, "frequency_penalty": 2.0}),
        ({"no_repeat_ngram_size": 3, "ignore_eos": True}, {"no_repeat_ngram_size": 3, "ignore_eos": True}),
    ],
    ids=repr,
)
def test_every_parameter_reaches_the_worker_with_its_lengths_counted_out(client, worker, given, expected):
    assert client.post(JOBS, json={"model": "tiny-text", "input": {"prompt": "abc", **given}}).status_code == 202
    request = worker.request(worker.take())
    assert {name: getattr(request, name) for name in expected} == expected


def test_a_field_that_is_null_is_a_field_left_out(client, worker):
    fields = dict.fromkeys(CompletionBody.model_fields) | {"prompt": "abc", "seed": 1}
    requests = []
    for given in (fields, {"prompt": "abc", "seed": 1}):
        client.post(JOBS, json={"model": "tiny-text", "input": {**given, "model": "tiny-text"}})
        requests.append(worker.request(worker.take()))
    assert requests[0] == requests[1]


def test_every_choice_is_in_the_answer_and_in_the_usage(client, worker):
    with worker.working(lambda job_id: worker.finish(job_id, "one", "four", finish_reason="length")):
        body = client.post(TEXT, json={"prompt": "ab", "n": 2}).get_json()
    assert body["choices"] == [
        {"index": 0, "text": "one", "finish_reason": "length", "logprobs": None},
        {"index": 1, "text": "four", "finish_reason": "length", "logprobs": None},
    ]
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9}


def test_log_probabilities_have_openais_legacy_shape(client, worker):
    with worker.working(lambda job_id: worker.finish(job_id, "xy")):
        (choice,) = client.post(TEXT, json={"prompt": "ab", "logprobs": 1}).get_json()["choices"]
    assert choice["logprobs"] == {
        "tokens": ["x", "y"],
        "token_logprobs": [-1.5, -1.5],
        "top_logprobs": [{"x": -1.5}, {"y": -1.5}],
        "text_offset": [0, 1],
    }


def test_a_text_is_scored_by_echo_with_log_probabilities_and_no_tokens(client, worker):
    fields = {"prompt": "abc", "echo": True, "logprobs": 1, "max_tokens": 0}
    with worker.working(lambda job_id: worker.finish(job_id, finish_reason="length")):
        body = client.post(TEXT, json=fields).get_json()
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("abc", "length")
    assert choice["logprobs"]["tokens"] == ["a", "b", "c"]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.5, -1.5]
    assert choice["logprobs"]["top_logprobs"] == [None, {"b": -1.5}, {"c": -1.5}]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}


def test_a_seed_is_drawn_for_each_request_that_gives_none(client, worker):
    with worker.working():
        first, second = (client.post(TEXT, json={"prompt": "a"}).get_json()["seed"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (EngineFailed("out of memory"), 500, "false"),
        (LeaseLost("the worker went away"), 500, "true"),
        (InvalidRequest("no such token"), 400, "false"),
    ],
)
def test_a_failed_job_answers_with_its_own_error(client, worker, error, status, retry):
    with worker.working(lambda job_id: worker.fail(job_id, error)):
        response = client.post(TEXT, json={"prompt": "a"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (status, error.code)
    assert response.get_json()["error"]["message"] == error.message
    assert response.headers["x-should-retry"] == retry


def test_a_cancelled_call_answers_409(app, client, worker):
    with worker.working(app.extensions[EXTENSION].jobs.cancel):
        response = client.post(TEXT, json={"prompt": "a"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (409, "cancelled")


def test_a_call_that_takes_too_long_is_cancelled(client, worker, redis, monkeypatch):
    monkeypatch.setattr(calls, "longest_wait_seconds", lambda here: 0.05)
    response = client.post(TEXT, json={"prompt": "a"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (504, "timeout")
    (job_key,) = redis.keys("rq:job:*")
    assert JobQueue(redis).read(job_key.decode().removeprefix("rq:job:")).status == "cancelled"


def test_without_a_ready_worker_the_answer_is_503(client, worker):
    worker.announce(ready=False)
    response = client.post(TEXT, json={"model": "tiny-text", "prompt": "a"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "no_worker")
    assert response.headers["Retry-After"] == "2"


def test_the_newest_version_that_a_ready_worker_serves_is_used(client, worker, store, redis):
    def copy(folder):
        source = store.open("tiny-text")
        for name in source.manifest.files:
            (folder / name).write_bytes((source.path / name).read_bytes())
        return source.manifest.model_dump(
            include={"family", "task", "config", "limits", "tokenizer", "variants", "example"}
        )

    newer = store.write("tiny-text", copy)
    with worker.working():
        assert client.post(TEXT, json={"prompt": "a"}).get_json()["version"] == 1
    served = worker.served[0].model_copy(update={"target": newer.target(), "digest": newer.digest})
    worker.announce(served=[served], name="worker-2")
    worker.queues.append(f"rq:queue:{newer.target().queue()}")
    with worker.working():
        assert client.post(TEXT, json={"prompt": "a"}).get_json()["version"] == newer.manifest.version


def test_workers_with_another_bundle_of_the_same_name_get_nothing(client, worker):
    worker.announce(served=[worker.served[0].model_copy(update={"digest": "0" * 64})])
    response = client.post(TEXT, json={"prompt": "a"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "no_worker")
    assert client.get("/v1/models").get_json()["data"] == []


def test_a_bundle_that_the_server_cannot_open_is_not_offered(settings, worker, tmp_path):
    elsewhere = create_app(settings.__class__(store=tmp_path, redis_url=settings.redis_url)).test_client()
    response = elsewhere.post(TEXT, json={"prompt": "a"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "no_worker")
    assert str(tmp_path) not in response.get_json()["error"]["message"]


# What Redis keeps of a call


def test_a_call_that_was_answered_is_soon_forgotten_and_one_that_was_not_is_kept_longer(
    client, worker, redis, settings, eventually
):
    for path, body in (
        ("/v1/completions", {"prompt": "ab"}),
        ("/v1/completions", {"prompt": "ab", "stream": True}),
        ("/v1/images/generations", {}),
    ):
        call = threading.Thread(target=lambda path=path, body=body: client.post(path, json=body).get_data())
        call.start()
        job_id = worker.take()
        assert int(redis.hget(f"rq:job:{job_id}", "result_ttl")) == settings.unread_result_seconds
        worker.finish(job_id)
        call.join()
        eventually(lambda job_id=job_id: 0 < redis.ttl(f"rq:job:{job_id}") <= settings.sync_result_seconds)
        assert 0 < redis.ttl(f"rq:results:{job_id}") <= settings.sync_result_seconds


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_whose_job_is_gone_can_be_sent_again(client, worker, redis, stream):
    answers = []

    def post():
        answer = client.post("/v1/completions", json={"prompt": "ab", "stream": stream})
        answers.append((answer.status_code, answer.headers.get("x-should-retry"), answer.get_data(as_text=True)))

    call = threading.Thread(target=post)
    call.start()
    job_id = worker.take()
    redis.delete(f"rq:job:{job_id}")
    redis.publish(keys.ENDED_CHANNEL, json.dumps([job_id]))
    call.join()
    ((status, retry, content),) = answers
    assert '"code": "queue_unavailable"' in content or '"code":"queue_unavailable"' in content
    assert (status, retry) == ((200, None) if stream else (503, "true"))

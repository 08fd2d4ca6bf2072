"""Whatever a client sends, it gets an answer in one line, and nothing of a refused request is left behind."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from contracts.jobs import JobQueue
from contracts.orders import Order
from contracts.requests import MAX_PROMPT_TOKENS, TextRequest
from server.services import EXTENSION
from server.waiting import Delta

TEXT = {
    "model": "tiny-text",
    "prompt": "abc",
    "max_tokens": 4,
    "temperature": 0.5,
    "n": 2,
    "logit_bias": {"1": 2.5},
    "stop": ["x"],
    "stop_token_ids": [3],
    "seed": 7,
}
TOKENS = {"prompt": [1, 2, 3], "model": "tiny-text", "echo": True, "logprobs": 2}
PICTURES = {"model": "tiny-picture", "n": 2, "size": "8x8", "seed": 1, "prompt": "a face"}
LABELS = {
    "model": "tiny-labels",
    "input": ["A pilot", "the sea"],
    "threshold": 0.3,
    "top_k": 1,
    "long_texts": "average",
}
CALLS = [
    ("/v1/completions", TEXT),
    ("/v1/completions", TOKENS),
    ("/v1/images/generations", PICTURES),
    ("/v1/classify", LABELS),
    ("/v1/jobs", {"model": "tiny-text", "input": TEXT}),
    ("/v1/jobs", {"model": "tiny-picture", "input": PICTURES}),
    ("/v1/jobs", {"model": "tiny-labels", "input": LABELS}),
    ("/v1/chat/completions", {"messages": []}),
]

often = hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def working(worker):
    with worker.working():
        yield worker


def assert_is_told_in_one_line(response) -> None:
    """Any answer that is not a success."""
    assert response.status_code in (400, 401, 403, 404, 405, 413, 503), response.get_data(as_text=True)[:500]
    assert len(response.get_data()) < 5000
    error = response.get_json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert 10 < len(error["message"]) <= 2000
    assert error["message"].isprintable()
    assert "Traceback" not in error["message"]


@often
@given(data=st.data())
def test_a_spoiled_body_is_run_or_refused_and_leaves_nothing(app, client, redis, working, spoiled, data):
    route, document = data.draw(st.sampled_from(CALLS))
    raw = data.draw(spoiled(document))
    before = set(redis.keys())
    response = client.post(route, data=raw)
    if response.status_code not in (200, 202):
        assert_is_told_in_one_line(response)
        # Jobs of bodies before this one are still being run, and leave their results meanwhile.
        fresh = {key for key in set(redis.keys()) - before if b"rq:job:" + key.split(b":")[-1] not in before}
        assert fresh == set()
    assert app.extensions[EXTENSION].waiting._mailboxes == {}


HEADERS = ["x-request-id", "Last-Event-ID", "Authorization", "Origin", "Content-Type", "Accept", "Content-Encoding"]
VALUES = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40) | st.sampled_from(
    ["http://[", "http://[::1", "null", "Bearer ", "Bearer kmb_", "1" * 9000, "-1", "0,0", "1e999", "gzip", "\xff"]
)
WAITS = st.sampled_from(["nan", "inf", "-inf", "-0", "1e999", "1_0", "٣", "0x1", " ", "9" * 5000, "\0", ""]) | st.text()


@often
@given(headers=st.dictionaries(st.sampled_from(HEADERS), VALUES), wait=WAITS, tail=st.text(max_size=90))
@example(headers={"Origin": "http://["}, wait="", tail="")
def test_any_header_query_and_path_get_an_answer(client, redis, ended_job, headers, wait, tail):
    before, tail = set(redis.keys()), quote(tail, safe="")
    for path in (f"/v1/jobs/{ended_job}/events", "/v1/models", f"/v1/jobs/{tail}", f"/v1/models/{tail}", f"/{tail}"):
        response = client.get(path, headers=headers, query_string={"wait": wait})
        assert len(response.headers["x-request-id"]) <= 128
        if response.status_code != 200:
            assert_is_told_in_one_line(response)
    assert set(redis.keys()) <= before


@pytest.fixture
def ended_job(redis, worker):
    job_id = JobQueue(redis).submit(Order(request=_request(worker), result_seconds=600, timeout_seconds=60))
    worker.finish(worker.take(), "hello")
    return job_id


@pytest.mark.parametrize("path", ["//v1/models", "/v1//models", "/v1/models/"])
def test_a_path_with_slashes_too_many_is_not_found(client, path):
    assert_is_told_in_one_line(client.get(path))


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [-1] * 6000},
        {"prompt": [[]] * 6000},
        {"prompt": "a", "stop": [1] * 6000},
        {"prompt": "a", "stop_token_ids": [-1] * 6000},
        {"prompt": "a", "logit_bias": {f"a{number}": "" for number in range(1500)}},
        {"fields": {str(number): 0 for number in range(1500)}},
        {str(number): 0 for number in range(1500)},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_thousands_of_faults_cost_as_much_as_one(client, fields):
    """A list of all of them would take 500 times the memory of the body, and seconds in which nobody else is served."""
    response = client.post("/v1/completions", json=fields)
    assert_is_told_in_one_line(response)
    assert len(response.get_json()["error"]["message"]) < 400


def test_a_prompt_longer_than_workers_keep_is_refused(app, client, settings, worker, monkeypatch):
    monkeypatch.setitem(app.config, "MAX_CONTENT_LENGTH", 1 << 20)
    response = client.post("/v1/completions", json={"model": "tiny-text", "prompt": "a" * (MAX_PROMPT_TOKENS + 1)})
    assert_is_told_in_one_line(response)
    assert f"'prompt' has {MAX_PROMPT_TOKENS + 1} tokens" in response.get_json()["error"]["message"]


# What others publish or leave in Redis


@often
@given(data=st.data())
def test_a_spoiled_message_reaches_no_waiter_and_stops_nothing(app, spoiled, data):
    waiting = app.extensions[EXTENSION].waiting
    channel = data.draw(st.sampled_from([b"kamishibai:ended", b"kamishibai:deltas"]))
    raw = data.draw(spoiled(["j"] if channel.endswith(b"ended") else [["j", 0, 3, "text"]]))
    with waiting.listen("j") as mailbox:
        waiting._dispatch({"type": "message", "channel": channel, "data": raw})
        mail = mailbox.get(0)
    assert mail is None or not isinstance(mail.news, Delta) or (mail.news.choice >= 0 and mail.news.offset >= 0)


@pytest.mark.parametrize("delta", [[9, 0, "x"], [-1, 0, "x"], [0, -5, "x"], [10**40, 0, "x"], [0, 10**40, "x"]])
def test_a_delta_that_is_none_of_a_jobs_does_not_end_its_stream(client, redis, worker, delta, eventually):
    request = _request(worker).model_copy(update={"stream": True})
    job_id = JobQueue(redis).submit(Order(request=request, result_seconds=60, timeout_seconds=60))
    worker.take()
    response = client.get(f"/v1/jobs/{job_id}/events", buffered=False)
    pieces = iter(response.response)
    assert b"connected" in next(pieces)
    redis.publish("kamishibai:deltas", json.dumps([[job_id, *delta]]))
    worker.finish(job_id, "abc")
    text = b"".join(pieces)
    assert b"error" not in text
    assert b"[DONE]" in text


@often
@given(data=st.data())
def test_a_job_whose_record_is_spoiled_is_answered_all_the_same(client, redis, worker, spoiled, data):
    job_id = JobQueue(redis).submit(Order(request=_request(worker), result_seconds=60, timeout_seconds=60))
    worker.finish(worker.take(), "hello")
    field = data.draw(st.sampled_from(["status", "created_at", "started_at", "ended_at", "meta", "data"]))
    redis.hset(f"rq:job:{job_id}", field, data.draw(spoiled({"owner": "x"})))
    for response in (client.get(f"/v1/jobs/{job_id}"), client.delete(f"/v1/jobs/{job_id}")):
        if response.status_code != 200:
            assert_is_told_in_one_line(response)


def _request(worker):
    return TextRequest(target=worker.served[0].target, seed=1, prompt_tokens=(0,), max_tokens=9)

"""POST /v1/classify and jobs of classifiers: what is admitted, what is answered."""

from __future__ import annotations

import json

import pytest

from contracts.requests import MAX_TEXTS

LONG = "the quick brown fox jumps over the lazy dog " * 3


@pytest.fixture
def classify(client, worker):
    def send(**body):
        with worker.working():
            return client.post("/v1/classify", json={"model": "tiny-labels", "input": "A pilot", **body})

    return send


def admitted(client, worker, **body):
    """The request that a body becomes."""
    job = client.post("/v1/jobs", json={"model": "tiny-labels", "input": {"input": "A pilot", **body}})
    assert job.status_code == 202, job.get_json()
    return worker.request(worker.take())


def test_a_text_gets_labels_and_scores(classify):
    answer = classify().get_json()
    assert answer.pop("id").startswith("classify-")
    assert isinstance(answer.pop("created"), int)
    tokens = answer["data"][0]["tokens"]
    assert answer == {
        "object": "list",
        "model": "tiny-labels",
        "version": 1,
        "data": [
            {
                "index": 0,
                "labels": ["War"],
                "scores": [{"label": "War", "score": 0.8}, {"label": "Drama", "score": 0.1}],
                "tokens": tokens,
                "windows": 1,
                "truncated": False,
            }
        ],
        "system_fingerprint": "fp_labels",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def test_texts_are_answered_in_their_order_and_counted_together(classify):
    answer = classify(input=["the fox", "a", LONG]).get_json()
    assert [each["index"] for each in answer["data"]] == [0, 1, 2]
    assert [each["truncated"] for each in answer["data"]] == [False, False, True]
    assert answer["usage"]["total_tokens"] == sum(each["tokens"] for each in answer["data"])


def test_threshold_and_top_k_go_with_the_request_and_the_bundle_has_its_own_threshold(client, worker):
    assert admitted(client, worker).threshold is None
    assert admitted(client, worker).top_k is None
    request = admitted(client, worker, threshold=0, top_k=1)
    assert (request.threshold, request.top_k) == (0.0, 1)


def test_a_text_is_framed_by_special_tokens(client, worker, encoder_tokenizer):
    (text,) = admitted(client, worker, input="the fox").texts
    assert [list(window) for window in text.windows] == [encoder_tokenizer("bert").encode("the fox").ids]


def test_the_beginning_of_a_long_text_is_read(client, worker, encoder_tokenizer):
    whole = encoder_tokenizer("bert").encode(LONG).ids
    (text,) = admitted(client, worker, input=LONG).texts
    assert [list(window) for window in text.windows] == [whole[:11] + whole[-1:]]
    assert text.truncated


def test_a_long_text_is_read_in_windows_where_that_is_asked_for(classify, client, worker, encoder_tokenizer):
    whole = encoder_tokenizer("bert").encode(LONG).ids
    short, long = admitted(client, worker, input=["the fox", LONG], long_texts="average").texts
    assert len(short.windows) == 1
    assert not long.truncated
    assert all(len(window) == 12 and (window[0], window[-1]) == (whole[0], whole[-1]) for window in long.windows)
    for place, window in enumerate(long.windows[:-1]):
        assert list(window[1:-1]) == whole[1 + 5 * place : 11 + 5 * place]
    assert list(long.windows[-1]) == whole[:1] + whole[-11:]
    answer = classify(input=LONG, long_texts="average").get_json()["data"][0]
    assert (answer["windows"], answer["tokens"]) == (len(long.windows), 12 * len(long.windows))


def test_a_text_that_takes_too_many_windows_is_refused(classify):
    answer = classify(input=" ".join(["the fox"] * 400), long_texts="average")
    assert answer.status_code == 400
    assert "windows; at most 64 are read" in answer.get_json()["error"]["message"]


def test_a_long_text_is_refused_where_that_is_asked_for(classify, redis):
    answer = classify(input=["a", LONG], long_texts="refuse")
    assert answer.status_code == 400
    error = answer.get_json()["error"]
    assert error["param"] == "input"
    assert "reads at most 12; shorten it" in error["message"]
    assert classify(input="the fox", long_texts="refuse").status_code == 200


def test_a_text_of_nothing_is_a_text(classify):
    assert classify(input=["", " "]).get_json()["usage"]["total_tokens"] == 4


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"input": []}, "input", "at least 1 item"),
        ({"input": ["a"] * (MAX_TEXTS + 1)}, "input", f"at most {MAX_TEXTS} items"),
        ({"input": None}, "input", "'input' is missing"),
        ({"input": [1]}, "input", "should be a valid string"),
        ({"input": {"text": "a"}}, "input", "should be a valid string"),
        ({"input": [["a"]]}, "input", "should be a valid string"),
        ({"threshold": 1.5}, "threshold", "less than or equal to 1"),
        ({"threshold": "0.5"}, "threshold", "'0.5'"),
        ({"top_k": 0}, "top_k", "greater than or equal to 1"),
        ({"long_texts": "no"}, "long_texts", "'truncate', 'average' or 'refuse'"),
        ({"truncate": True}, "truncate", "is not a field"),
        ({"seed": 1}, "seed", "is not a field"),
        ({"model": "tiny-text"}, "model", "which is for text; send it to POST /v1/completions"),
        ({"model": "nope"}, "model", "does not exist"),
    ],
)
def test_a_bad_body_is_refused_by_field(classify, redis, body, param, said):
    before = set(redis.keys())
    answer = classify(**body)
    error = answer.get_json()["error"]
    assert answer.status_code in (400, 404)
    assert (error["param"], said in error["message"]) == (param, True), error
    assert set(redis.keys()) <= before


def test_half_a_surrogate_pair_is_refused(client):
    answer = client.post("/v1/classify", data='{"model": "tiny-labels", "input": "a\\ud800"}')
    assert answer.status_code == 400
    assert "Unicode" in answer.get_json()["error"]["message"]


@pytest.mark.parametrize(("route", "body"), [("/v1/completions", {"prompt": "a"}), ("/v1/images/generations", {})])
def test_a_classifier_writes_and_draws_nothing(client, route, body):
    answer = client.post(route, json={"model": "tiny-labels", **body})
    assert answer.status_code == 400
    assert "which is for classify; send it to POST /v1/classify" in answer.get_json()["error"]["message"]


def test_the_model_may_be_left_out_while_it_is_the_only_classifier(client, worker):
    with worker.working():
        assert client.post("/v1/classify", json={"input": "a"}).get_json()["model"] == "tiny-labels"


def test_a_job_has_the_same_result_and_no_seed(client, worker):
    job = client.post("/v1/jobs", json={"model": "tiny-labels", "input": {"input": ["a", "b"]}}).get_json()
    assert "seed" not in job
    worker.finish(worker.take())
    record = client.get(f"/v1/jobs/{job['id']}").get_json()
    assert record["status"] == "succeeded"
    assert [each["labels"] for each in record["result"]["data"]] == [["War"], ["War"]]


def test_a_jobs_events_are_its_result(client, worker):
    job = client.post("/v1/jobs", json={"model": "tiny-labels", "input": {"input": "a"}}).get_json()
    worker.finish(worker.take())
    events = client.get(f"/v1/jobs/{job['id']}/events").get_data(as_text=True)
    result, done = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    assert json.loads(result)["data"][0]["labels"] == ["War"]


def test_a_model_says_what_its_labels_are(client):
    model = client.get("/v1/models/tiny-labels").get_json()
    assert model["task"] == "classify"
    assert model["limits"] == {"context_tokens": 12}
    assert model["labels"] == {"names": ["Drama", "War"], "activation": "sigmoid", "threshold": 0.4}


def test_a_result_of_fewer_texts_than_were_sent_is_none(client, worker, redis):
    job = client.post("/v1/jobs", json={"model": "tiny-labels", "input": {"input": ["a", "b"]}}).get_json()
    other = client.post("/v1/jobs", json={"model": "tiny-labels", "input": {"input": "a"}}).get_json()
    for _ in range(2):
        worker.finish(worker.take())
    redis.delete(f"rq:results:{job['id']}")
    redis.rename(f"rq:results:{other['id']}", f"rq:results:{job['id']}")
    assert client.get(f"/v1/jobs/{job['id']}").get_json()["error"]["code"] == "engine_failed"

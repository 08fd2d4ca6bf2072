"""The result cache: what it answers, for whom, and what it never keeps."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from contracts.api_keys import ApiKeys
from server.app import create_app
from server.services import EXTENSION

TEXT = ("/v1/completions", {"model": "tiny-text", "prompt": "ab", "seed": 5})
PICTURES = ("/v1/images/generations", {"model": "tiny-picture", "n": 2, "seed": 5})
LATENTS = ("/v1/images/generations", {"model": "tiny-picture", "latents": [[0, 0.5, -1]], "layout": "grid"})
LABELS = ("/v1/classify", {"model": "tiny-labels", "input": "ab"})


@pytest.fixture
def workers(worker):
    """A worker whose engines have a fingerprint, as its results do."""
    worker.fingerprint = "tested"
    worker.served = [each.model_copy(update={"fingerprint": "tested"}) for each in worker.served]
    worker.announce()
    return worker


@pytest.fixture
def make(settings, workers):
    def make(most_bytes=1 << 20):
        return create_app(replace(settings, result_cache_bytes=most_bytes))

    return make


@pytest.fixture
def client(make):
    return make().test_client()


def said(response):
    assert response.status_code == 200, response.get_json()
    return response.headers.get("x-kamishibai-cache")


@pytest.mark.parametrize(
    ("route", "body"), [TEXT, PICTURES, LATENTS, LABELS], ids=["text", "pictures", "latents", "labels"]
)
def test_an_equal_request_has_the_same_answer_without_a_worker(client, workers, route, body):
    with workers.working():
        first = client.post(route, json=body)
    again = client.post(route, json=body)
    assert (said(first), said(again)) == ("miss", "hit")
    assert again.get_json() == first.get_json()


@pytest.mark.parametrize(
    "change",
    [{"seed": 6}, {"prompt": "b"}, {"temperature": 0.5}, {"max_tokens": 3}, {"n": 2}, {"stop": "x"}],
    ids=str,
)
def test_another_request_is_computed(client, workers, change):
    route, body = TEXT
    with workers.working():
        client.post(route, json=body)
        assert said(client.post(route, json=body | change)) == "miss"


@pytest.mark.parametrize("change", [{"cache": False}, {"seed": None}], ids=str)
def test_what_must_not_or_cannot_come_again_is_neither_asked_for_nor_kept(client, workers, redis, change):
    route, body = TEXT
    with workers.working():
        for _ in range(2):
            assert said(client.post(route, json=body | change)) is None
        assert said(client.post(route, json=body)) == "miss"
    assert len(redis.keys("rq:job:*")) == 3


def test_streams_jobs_and_pictures_by_url_are_computed(client, workers, redis):
    with workers.working():
        for _ in range(2):
            client.post(TEXT[0], json=TEXT[1] | {"stream": True}).get_data()
            client.post(PICTURES[0], json=PICTURES[1] | {"response_format": "url"})
            job = client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "ab", "seed": 5}}).get_json()
            client.get(f"/v1/jobs/{job['id']}?wait=5")
    assert len(redis.keys("rq:job:*")) == 6


def test_of_several_prompts_those_that_are_new_are_computed(client, workers, redis):
    route, body = TEXT
    with workers.working():
        alone = client.post(route, json=body).get_json()["choices"][0]
        mixed = client.post(route, json=body | {"prompt": ["b", "ab", "a"]})
    again = client.post(route, json=body | {"prompt": ["a", "ab", "b"]})
    assert (said(mixed), said(again)) == ("partial", "hit")
    assert [choice["index"] for choice in mixed.get_json()["choices"]] == [0, 1, 2]
    assert mixed.get_json()["choices"][1]["text"] == alone["text"]
    assert len(redis.keys("rq:job:*")) == 3


def test_a_key_is_never_answered_with_what_another_has_asked(make, redis, workers):
    client = make().test_client()
    keys = {name: ApiKeys(redis).create(name, "infer") for name in ("one", "two")}
    time.sleep(1.1)  # for the server to look at the keys again
    with workers.working():
        for name in ("one", "two"):
            headers = {"Authorization": f"Bearer {keys[name]}"}
            assert [said(client.post(*TEXT[:1], json=TEXT[1], headers=headers)) for _ in range(2)] == ["miss", "hit"]
    ApiKeys(redis).forget_all()


def test_workers_with_another_fingerprint_are_asked_and_while_they_differ_nobody_is_answered_from_it(client, workers):
    route, body = TEXT
    with workers.working():
        assert [said(client.post(route, json=body)) for _ in range(2)] == ["miss", "hit"]
        other = [each.model_copy(update={"fingerprint": "other"}) for each in workers.served]
        workers.announce(served=other, name="worker-2")
        assert [said(client.post(route, json=body)) for _ in range(2)] == ["miss", "miss"]
        workers.announce(served=other)
        assert said(client.post(route, json=body)) == "miss"


def test_it_keeps_no_more_than_it_was_given_and_forgets_what_was_not_asked_for_longest(make, workers):
    app = make(most_bytes=3 * 5000)
    client, cache = app.test_client(), app.extensions[EXTENSION].results
    route, body = TEXT
    with workers.working():
        for seed in range(3):
            client.post(route, json=body | {"seed": seed})
            assert cache._bytes <= 15_000
        assert said(client.post(route, json=body | {"seed": 0})) == "hit"
        assert said(client.post(route, json=body | {"seed": 9})) == "miss"
        assert said(client.post(route, json=body | {"seed": 0})) == "hit"
        assert said(client.post(route, json=body | {"seed": 1})) == "miss"
    assert len(cache._kept) == 3
    assert cache._bytes == sum(each.bytes for each in cache._kept.values()) <= 15_000


def test_an_answer_larger_than_the_cache_leaves_the_others_in_it(make, workers):
    client = make(most_bytes=5000).test_client()
    with workers.working():
        client.post(TEXT[0], json=TEXT[1])
        client.post(TEXT[0], json=TEXT[1] | {"n": 16, "logprobs": 5})
        assert said(client.post(TEXT[0], json=TEXT[1])) == "hit"


def test_it_is_off_by_default(app, workers):
    with workers.working():
        assert [said(app.test_client().post(*TEXT[:1], json=TEXT[1])) for _ in range(2)] == [None, None]


def test_hits_and_misses_are_counted(client, workers):
    with workers.working():
        for _ in range(3):
            client.post(TEXT[0], json=TEXT[1])
    text = client.get("/metrics").get_data(as_text=True)
    assert 'kamishibai_result_cache_total{outcome="hit"} 2.0' in text
    assert 'kamishibai_result_cache_total{outcome="miss"} 1.0' in text
    (size,) = (line for line in text.splitlines() if line.startswith("kamishibai_result_cache_bytes "))
    assert 4096 < float(size.split()[1]) < 5000

"""How jobs are ordered over HTTP: bulk, lists, idempotency, priorities, deadlines, estimates, and what is refused."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from openai import OpenAI, RateLimitError

from contracts.announcements import EngineCounters
from contracts.api_keys import ApiKeys
from contracts.errors import JobExpired
from contracts.orders import JobMeta
from server.app import create_app

INPUT = {"prompt": "ab", "seed": 5}
BODY = {"model": "tiny-text", "input": INPUT}
SPARE = EngineCounters(slots=4, work_per_second=100.0, seconds_per_work=0.1)
BUSY = SPARE.model_copy(update={"slots_used": 4})


@pytest.fixture
def limited(settings, worker):
    """Clients of applications with settings of their own."""

    def client(**changes):
        return create_app(replace(settings, **changes)).test_client()

    return client


def post(client, headers=None, **changes):
    return client.post("/v1/jobs", json=BODY | changes, headers=headers)


def code_of(response):
    return response.get_json()["error"]["code"]


# What a job is told beside its request


def test_metadata_priority_and_deadline_come_back_with_the_job(client):
    response = post(client, metadata={"a": "ä"}, priority="high", deadline_seconds=60)
    job = client.get(response.headers["Location"]).get_json()
    assert (job["metadata"], job["priority"]) == ({"a": "ä"}, "high")
    assert abs(job["deadline_at"] - time.time() - 60) < 5


def test_a_job_lives_as_long_as_it_was_asked_to(client, redis):
    job_id = post(client, result_seconds=77).get_json()["id"]
    assert redis.hget(f"rq:job:{job_id}", "result_ttl") == b"77"
    assert client.delete(f"/v1/jobs/{job_id}").get_json()["status"] == "cancelled"
    assert 70 < redis.ttl(f"rq:job:{job_id}") <= 77


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", "urgent"),
        ("deadline_seconds", 0),
        ("deadline_seconds", 1e9),
        ("result_seconds", 0),
        ("result_seconds", 604_801),
        ("metadata", {"a": 1}),
        ("metadata", {"": "a"}),
        ("metadata", {"a": "x" * 513}),
        ("metadata", {str(number): "a" for number in range(17)}),
        ("webhook", ""),
        ("webhook", "x" * 2049),
    ],
)
def test_what_a_job_cannot_be_told_is_refused_by_name(client, redis, field, value):
    response = post(client, **{field: value})
    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == field
    assert not redis.keys("rq:job:*")


# Bulk


def test_many_jobs_are_made_by_one_call_in_their_order(client, redis, worker):
    bodies = [{"model": "tiny-text", "input": {"prompt": "a", "seed": seed}} for seed in range(150)]
    answer = client.post("/v1/jobs/bulk", json={"jobs": bodies})
    assert answer.status_code == 202
    body = answer.get_json()
    assert (body["accepted"], body["refused"]) == (150, 0)
    assert [client.get(f"/v1/jobs/{each['id']}").get_json()["seed"] for each in body["data"][::40]] == [0, 40, 80, 120]
    assert [worker.take() for _ in range(150)] == [each["id"] for each in body["data"]]


def test_each_job_of_a_bulk_is_judged_by_itself(client, redis):
    bodies = [BODY, {**BODY, "priority": "x"}, {"model": "nobody", "input": {}}, {**BODY, "input": {"prompt": 5}}, BODY]
    body = client.post("/v1/jobs/bulk", json={"jobs": bodies}).get_json()
    assert (body["accepted"], body["refused"]) == (2, 3)
    codes = [each["error"]["code"] if "error" in each else each["status"] for each in body["data"]]
    assert codes == ["queued", "invalid_value", "model_not_found", "invalid_value", "queued"]
    assert len(redis.keys("rq:job:*")) == 2


def test_a_bulk_of_which_nothing_is_accepted_answers_with_its_first_fault(client):
    answer = client.post("/v1/jobs/bulk", json={"jobs": [{"model": "nobody", "input": {}}, BODY | {"priority": 1}]})
    assert (answer.status_code, code_of(answer)) == (404, "model_not_found")


@pytest.mark.parametrize("jobs", [[], [5], {}, [BODY] * 1001], ids=["none", "number", "object", "1001"])
def test_a_bulk_that_is_none_is_refused(client, redis, jobs):
    assert client.post("/v1/jobs/bulk", json={"jobs": jobs}).status_code == 400
    assert not redis.keys("rq:job:*")


def test_a_bulk_may_be_larger_than_other_bodies(client, settings):
    bodies = [BODY | {"metadata": {"a": "x" * 500}}] * 100
    assert len(json.dumps(bodies)) > settings.max_body_bytes
    assert client.post("/v1/jobs/bulk", json={"jobs": bodies}).get_json()["accepted"] == 100
    assert client.post("/v1/jobs", data=b" " * (settings.max_body_bytes + 1)).status_code == 413


# Lists


def test_jobs_are_listed_newest_first_page_by_page(client, worker):
    ids = [post(client).get_json()["id"] for _ in range(7)]
    with worker.working():
        client.post("/v1/completions", json={"prompt": "a"})  # a call's job is its client's alone
    found, query = [], "?limit=3"
    while query:
        page = client.get(f"/v1/jobs{query}").get_json()
        assert page["object"] == "list"
        found += [job["id"] for job in page["data"]]
        query = f"?limit=3&after={page['last_id']}" if page["has_more"] else ""
    assert found == ids[::-1]


def test_lists_are_filtered_by_status_and_model_over_all_pages(client, worker):
    ids = [post(client).get_json()["id"] for _ in range(100)]
    pictures = client.post("/v1/jobs", json={"model": "tiny-picture", "input": {}}).get_json()["id"]
    for job_id in ids[:2]:
        client.delete(f"/v1/jobs/{job_id}")
    cancelled = client.get("/v1/jobs?status=cancelled&limit=1").get_json()
    assert [job["id"] for job in cancelled["data"]] == [ids[1]]
    assert cancelled["has_more"]
    rest = client.get(f"/v1/jobs?status=cancelled&after={ids[1]}").get_json()
    assert [job["id"] for job in rest["data"]] == [ids[0]]
    assert [job["id"] for job in client.get("/v1/jobs?model=tiny-picture").get_json()["data"]] == [pictures]
    assert client.get("/v1/jobs?status=expired").get_json()["data"] == []


def test_a_list_has_no_results_and_forgotten_jobs_are_not_in_it(client, worker):
    kept, gone = (post(client).get_json()["id"] for _ in range(2))
    for job_id in (worker.take(), worker.take()):
        worker.finish(job_id)
    client.delete(f"/v1/jobs/{gone}")
    (job,) = client.get("/v1/jobs").get_json()["data"]
    assert (job["id"], job["status"]) == (kept, "succeeded")
    assert "result" not in job


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=²", "status=done"])
def test_a_query_that_cannot_be_answered_is_refused(client, query):
    answer = client.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, query.partition("=")[0])


def test_a_list_behind_a_job_that_is_not_listed_says_so(client):
    assert client.get("/v1/jobs?after=nobody").status_code == 404


def test_a_key_lists_its_own_jobs(redis, app, worker):
    keys = {name: ApiKeys(redis).create(name, "infer") for name in ("one", "two")}
    client = app.test_client()
    headers = {name: {"Authorization": f"Bearer {key}"} for name, key in keys.items()}
    time.sleep(1.1)  # for the server to look at the keys again
    job_id = post(client, headers["one"]).get_json()["id"]
    assert [job["id"] for job in client.get("/v1/jobs", headers=headers["one"]).get_json()["data"]] == [job_id]
    assert client.get("/v1/jobs", headers=headers["two"]).get_json()["data"] == []
    ApiKeys(redis).forget_all()
    time.sleep(1.1)


# Idempotency


def test_a_repeated_post_is_the_same_job_and_says_so(client, redis):
    headers = {"Idempotency-Key": "order 5"}
    first, again = post(client, headers), post(client, headers)
    assert again.status_code == 202
    assert again.get_json()["id"] == first.get_json()["id"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = post(client, headers, priority="low")
    assert (other.status_code, code_of(other)) == (422, "idempotency_conflict")
    assert len(redis.keys("rq:job:*")) == 1


def test_a_repeated_bulk_makes_only_what_was_refused_before(limited, redis):
    headers = {"Idempotency-Key": "bulk"}
    bodies = {"jobs": [BODY] * 5}
    first = limited(max_queued_jobs=3).post("/v1/jobs/bulk", json=bodies, headers=headers).get_json()
    assert (first["accepted"], first["refused"]) == (3, 2)
    again = limited().post("/v1/jobs/bulk", json=bodies, headers=headers).get_json()
    assert [each["status"] for each in again["data"]] == ["repeated"] * 3 + ["queued"] * 2
    assert [each["id"] for each in again["data"][:3]] == [each["id"] for each in first["data"][:3]]
    assert len(redis.keys("rq:job:*")) == 5


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_idempotency_key_of_the_wrong_length_is_refused(client, key):
    answer = post(client, {"Idempotency-Key": key})
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "Idempotency-Key")


def test_duplicate_posts_at_the_same_instant_to_two_processes_make_one_job(start, redis):
    servers = [start(), start()]
    begin, ids = threading.Barrier(8), []

    def send(number):
        with OpenAI(base_url=f"{servers[number % 2].url}/v1", api_key="none", max_retries=0) as client:
            begin.wait()
            headers = {"Idempotency-Key": "same"}
            job = client.post("/jobs", body=BODY, cast_to=dict[str, Any], options={"headers": headers})
            ids.append(job["id"])

    threads = [threading.Thread(target=send, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert len(redis.keys("rq:job:*")) == 1


# Admission


def test_a_full_queue_says_when_there_will_be_room(limited, worker):
    worker.announce(counters=SPARE.model_copy(update={"work_per_second": 2.0}))
    client = limited(max_queued_jobs=2)
    assert [post(client).status_code for _ in range(2)] == [202, 202]
    refused = post(client)
    assert (refused.status_code, code_of(refused)) == (429, "queue_full")
    assert refused.headers["Retry-After"] == "9"  # 18 tokens, 2 a second
    assert refused.headers["x-should-retry"] == "true"


def test_a_call_meets_the_same_limits_and_the_sdk_knows_the_error(start, worker):
    server = start(max_queued_jobs=1)
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        client.post("/jobs", body=BODY, cast_to=object)
        with pytest.raises(RateLimitError) as caught:
            client.completions.create(model="tiny-text", prompt="a")
        with pytest.raises(RateLimitError):
            client.completions.create(model="tiny-text", prompt="a", stream=True)
    assert caught.value.code == "queue_full"
    assert int(caught.value.response.headers["Retry-After"]) >= 1


def test_a_key_has_its_own_rate_and_number_of_unfinished_jobs(redis, app, worker):
    keys = {
        "slow": ApiKeys(redis).create("slow", "infer", jobs_per_minute=2),
        "few": ApiKeys(redis).create("few", "infer", unfinished_jobs=1),
        "free": ApiKeys(redis).create("free", "infer"),
    }
    headers = {name: {"Authorization": f"Bearer {key}"} for name, key in keys.items()}
    client = app.test_client()
    time.sleep(1.1)  # for the server to look at the keys again
    slow = [post(client, headers["slow"]) for _ in range(3)]
    assert [each.status_code for each in slow] == [202, 202, 429]
    assert code_of(slow[2]) == "rate_limit_exceeded"
    assert 25 <= int(slow[2].headers["Retry-After"]) <= 30
    few = [post(client, headers["few"]) for _ in range(2)]
    assert [each.status_code for each in few] == [202, 429]
    assert code_of(few[1]) == "too_many_jobs"
    client.delete(few[0].headers["Location"], headers=headers["few"])
    assert post(client, headers["few"]).status_code == 202
    assert [post(client, headers["free"]).status_code for _ in range(5)] == [202] * 5
    ApiKeys(redis).forget_all()
    time.sleep(1.1)


def test_a_model_without_worker_is_refused_or_waits_as_the_server_was_told(limited, worker, store):
    body = {"model": "unserved", "input": {"seed": 1}}
    refused = limited().post("/v1/jobs", json=body)
    assert (refused.status_code, code_of(refused)) == (503, "no_worker")
    waits = limited(without_worker="accept")
    assert waits.post("/v1/jobs", json=body).status_code == 202
    assert waits.post("/v1/jobs", json={"model": "nobody", "input": {}}).status_code == 404
    wrong = waits.post("/v1/completions", json={"model": "unserved", "prompt": "a"})
    assert (wrong.status_code, wrong.get_json()["error"]["param"]) == (400, "model")


# Estimates and deadlines


def test_a_waiting_job_has_its_place_and_an_estimate(client, worker):
    worker.announce(counters=BUSY)
    first, second = (post(client).get_json()["id"] for _ in range(2))
    urgent = post(client, priority="high").get_json()["id"]
    jobs = {job_id: client.get(f"/v1/jobs/{job_id}").get_json() for job_id in (urgent, first, second)}
    assert [job["position"] for job in jobs.values()] == [1, 2, 3]
    work = 2 + 16  # prompt and output of each
    for place, job in enumerate(jobs.values(), start=1):
        assert abs(job["estimated_start_at"] - time.time() - place * work / 100) < 1
        assert abs(job["estimated_end_at"] - job["estimated_start_at"] - work * 0.1) < 0.01


def test_a_job_that_finds_a_place_begins_at_once_and_a_running_one_has_its_end(client, worker):
    worker.announce(counters=SPARE)
    job_id = post(client).get_json()["id"]
    job = client.get(f"/v1/jobs/{job_id}").get_json()
    assert (job["position"], round(job["estimated_start_at"] - time.time())) == (1, 0)
    worker.take()
    running = client.get(f"/v1/jobs/{job_id}").get_json()
    assert "position" not in running
    assert abs(running["estimated_end_at"] - time.time() - 1.8) < 1
    worker.finish(job_id)
    assert "estimated_end_at" not in client.get(f"/v1/jobs/{job_id}").get_json()


def test_nothing_is_estimated_before_a_first_job_has_ended(client):
    job = client.get(post(client, deadline_seconds=0.5).headers["Location"]).get_json()
    assert job["position"] == 1
    assert "estimated_start_at" not in job


def test_a_deadline_that_cannot_be_met_is_refused_with_the_estimate(client, worker, redis):
    worker.announce(counters=BUSY)
    refused = post(client, deadline_seconds=1.5)
    assert (refused.status_code, code_of(refused)) == (422, "deadline_unreachable")
    assert "about 2.0 seconds" in refused.get_json()["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert post(client, deadline_seconds=5).status_code == 202
    assert len(redis.keys("rq:job:*")) == 1


def test_an_expired_job_says_so(client, redis, worker):
    job_id = post(client, deadline_seconds=60).get_json()["id"]
    worker.take()
    worker.fail(job_id, JobExpired("The job's deadline passed while it ran; it was stopped."))
    job = client.get(f"/v1/jobs/{job_id}").get_json()
    assert (job["status"], job["error"]["code"]) == ("expired", "expired")
    assert JobMeta.read(redis.hget(f"rq:job:{job_id}", "meta")).deadline == job["deadline_at"]

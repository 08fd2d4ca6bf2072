"""The life of a job over HTTP."""

from __future__ import annotations

import threading
import time

import pytest
from rq import Queue

from contracts.errors import EngineFailed
from server import waiting
from server.services import EXTENSION

INPUT = {"prompt": "ab", "seed": 5}
BODY = {"model": "tiny-text", "input": INPUT}


@pytest.fixture
def job_id(client):
    return client.post("/v1/jobs", json=BODY).get_json()["id"]


def test_a_job_is_accepted_run_and_read(client, worker):
    accepted = client.post("/v1/jobs", json=BODY)
    job = accepted.get_json()
    assert accepted.status_code == 202
    assert accepted.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["object"], job["status"], job["model"], job["version"], job["seed"]) == (
        "job",
        "queued",
        "tiny-text",
        1,
        5,
    )
    assert abs(job["created_at"] - time.time()) < 60

    worker.take()
    running = client.get(accepted.headers["Location"]).get_json()
    assert (running["status"], running["ended_at"]) == ("running", None)
    assert running["started_at"] is not None

    worker.finish(job["id"])
    ended = client.get(accepted.headers["Location"]).get_json()
    assert ended["status"] == "succeeded"
    assert ended["ended_at"] is not None
    assert "error" not in ended


@pytest.mark.parametrize(
    ("route", "model", "fields"),
    [
        ("/v1/completions", "tiny-text", {"prompt": "a", "seed": 1}),
        ("/v1/completions", "tiny-text", {"prompt": [0, 1], "seed": 1, "n": 3, "echo": True, "logprobs": 2}),
        ("/v1/images/generations", "tiny-picture", {"seed": 1}),
    ],
)
def test_a_jobs_result_is_what_the_synchronous_call_answers(client, worker, route, model, fields):
    with worker.working():
        direct = client.post(route, json=fields).get_json()
        job = client.post("/v1/jobs", json={"model": model, "input": fields}).get_json()
        result = client.get(f"/v1/jobs/{job['id']}?wait=5").get_json()["result"]
    for varying in ("id", "created"):
        direct.pop(varying, None)
        result.pop(varying, None)
    assert result == direct


def test_the_model_may_stand_inside_the_input(client):
    assert client.post("/v1/jobs", json={"input": INPUT | {"model": "tiny-text"}}).status_code == 202
    assert client.post("/v1/jobs", json=BODY | {"input": INPUT | {"model": "tiny-text"}}).status_code == 202


def test_a_failed_job_has_openais_inner_error(client, worker, job_id):
    worker.fail(worker.take(), EngineFailed("out of memory"))
    job = client.get(f"/v1/jobs/{job_id}").get_json()
    assert job["status"] == "failed"
    assert job["error"] == {"message": "out of memory", "type": "server_error", "param": None, "code": "engine_failed"}
    assert "result" not in job


def test_a_long_poll_wakes_at_once(client, worker, job_id):
    worker.take()
    timer = threading.Timer(0.2, worker.finish, [job_id])
    timer.start()
    began = time.monotonic()
    job = client.get(f"/v1/jobs/{job_id}?wait=30").get_json()
    timer.join()
    assert job["status"] == "succeeded"
    assert 0.15 < time.monotonic() - began < 0.6


def test_a_long_poll_ends_with_the_job_as_it_is(client, job_id):
    began = time.monotonic()
    assert client.get(f"/v1/jobs/{job_id}?wait=0.2").get_json()["status"] == "queued"
    assert 0.2 <= time.monotonic() - began < 1


def test_a_lost_message_only_delays_the_answer(client, worker, job_id, monkeypatch):
    monkeypatch.setattr(waiting, "RECHECK_SECONDS", 0.3)
    monkeypatch.setattr(waiting, "GLANCE_SECONDS", 0.1)
    timer = threading.Timer(0.1, worker.finish, [job_id], {"publish": False})
    timer.start()
    began = time.monotonic()
    assert client.get(f"/v1/jobs/{job_id}?wait=30").get_json()["status"] == "succeeded"
    assert time.monotonic() - began < 1.5
    timer.join()


def test_a_broken_subscription_is_made_again_and_wakes_who_waits(app, client, worker, job_id, redis, eventually):
    mailboxes = app.extensions[EXTENSION].waiting._mailboxes
    answers = []
    waiter = threading.Thread(
        target=lambda: answers.append(app.test_client().get(f"/v1/jobs/{job_id}?wait=30").get_json())
    )
    waiter.start()
    eventually(lambda: job_id in mailboxes)
    redis.client_kill_filter(_type="pubsub")
    worker.finish(job_id)  # published to nobody
    waiter.join(timeout=3)
    assert answers[0]["status"] == "succeeded"
    assert job_id not in mailboxes


def test_messages_that_are_not_ours_are_skipped(client, worker, job_id, redis):
    worker.take()
    for message in ("", "{", "7", '{"a": 1}', '[["x"]]', "[1]"):
        redis.publish("kamishibai:ended", message)
        redis.publish("kamishibai:deltas", message)
    timer = threading.Timer(0.1, worker.finish, [job_id])
    timer.start()
    began = time.monotonic()
    assert client.get(f"/v1/jobs/{job_id}?wait=30").get_json()["status"] == "succeeded"
    assert time.monotonic() - began < 1
    timer.join()


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "soon", ""])
def test_a_wait_out_of_bounds_is_refused(client, job_id, wait):
    response = client.get(f"/v1/jobs/{job_id}?wait={wait}")
    assert response.status_code == 400
    assert "from 0 to 60" in response.get_json()["error"]["message"]


def test_deleting_a_job_cancels_it_then_forgets_it(client, job_id, redis):
    route = f"/v1/jobs/{job_id}"
    cancelled = client.delete(route)
    assert (cancelled.status_code, cancelled.get_json()["status"]) == (200, "cancelled")
    assert client.get(route).get_json()["status"] == "cancelled"
    assert client.delete(route).get_json() == {"id": job_id, "deleted": True}
    for gone in (client.get(route), client.delete(route)):
        assert (gone.status_code, gone.get_json()["error"]["code"]) == (404, "not_found")
    assert not redis.keys(f"*{job_id}*")


def test_a_running_job_can_be_cancelled_while_somebody_waits(app, client, worker, job_id, eventually):
    worker.take()
    timer = threading.Timer(0.1, lambda: app.test_client().delete(f"/v1/jobs/{job_id}"))
    timer.start()
    assert client.get(f"/v1/jobs/{job_id}?wait=30").get_json()["status"] == "cancelled"
    timer.join()


@pytest.mark.parametrize("job_id", ["0" * 32, "no:such*job", "x" * 65, "%0a", "%F0%9F%8E%AD"])
def test_a_job_that_never_was_is_404(client, job_id):
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404


def test_a_draining_server_answers_long_polls_at_once(settings, worker, eventually):
    from server.app import create_app

    app = create_app(settings)
    here = app.extensions[EXTENSION].waiting
    job_id = app.test_client().post("/v1/jobs", json=BODY).get_json()["id"]
    timer = threading.Timer(0.1, here.drain)
    timer.start()
    began = time.monotonic()
    assert app.test_client().get(f"/v1/jobs/{job_id}?wait=30").get_json()["status"] == "queued"
    assert time.monotonic() - began < 1
    timer.join()


@pytest.mark.parametrize("status", ["failed", "finished"])
def test_an_end_without_a_readable_result_is_an_error(client, redis, job_id, status):
    redis.hset(f"rq:job:{job_id}", "status", status)
    response = client.get(f"/v1/jobs/{job_id}")
    assert response.get_json()["error"]["code"] == "engine_failed"


def test_a_job_of_another_application_on_the_same_redis_is_not_ours_to_show_or_delete(client, redis):
    foreign = Queue("mail", connection=redis).enqueue("mail.send", "somebody").id
    assert client.get(f"/v1/jobs/{foreign}").status_code == 404
    assert client.delete(f"/v1/jobs/{foreign}").status_code == 404
    assert redis.exists(f"rq:job:{foreign}")

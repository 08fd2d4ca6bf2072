"""A job's events: from the beginning or from behind the last one seen, on any server, and leaving harms nobody."""

from __future__ import annotations

import json

import pytest

from contracts.errors import EngineFailed
from contracts.jobs import JobQueue
from server.app import create_app


@pytest.fixture
def submit(client):
    """Accept a job; its id."""

    def accept(model="tiny-text", **fields):
        default = {"prompt": "ab", "stream": True} if model == "tiny-text" else {}
        response = client.post("/v1/jobs", json={"model": model, "input": default | fields})
        assert response.status_code == 202, response.get_json()
        return response.get_json()["id"]

    return accept


def _open(client, job_id, last_event_id=None):
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    return client.get(f"/v1/jobs/{job_id}/events", headers=headers, buffered=False)


def _events(response):
    """(id or None, data) of every event, comments left out."""
    for piece in response.iter_encoded():
        fields = dict(line.split(": ", 1) for line in piece.decode().splitlines() if not line.startswith(":") and line)
        if fields:
            data = fields["data"]
            yield fields.get("id"), data if data == "[DONE]" else json.loads(data)


def _text(events):
    return "".join(data["choices"][0]["text"] for _, data in events if data != "[DONE]" and data.get("choices"))


def test_a_job_that_has_ended_is_told_whole(client, submit, worker):
    job_id = submit()
    worker.finish(worker.take(), "hello world")
    *chunks, done = _events(_open(client, job_id))
    assert done == (None, "[DONE]")
    assert _text(chunks) == "hello world"
    assert chunks[-1][1]["usage"]["prompt_tokens"] == 2
    assert chunks[0][0] == "11"


def test_a_late_reader_gets_what_is_written_so_far_at_once(client, submit, worker):
    job_id = submit()
    worker.take()
    worker.delta(job_id, 0, "héllo", publish=False)
    response = _open(client, job_id)
    events = _events(response)
    event_id, chunk = next(events)
    assert (event_id, chunk["choices"][0]["text"]) == ("6", "héllo")
    response.close()


@pytest.mark.parametrize("seen", ["0", "1", "6", "11"])
def test_a_reader_goes_on_behind_the_last_event_it_saw_on_another_server(settings, submit, worker, seen):
    job_id = submit()
    worker.take()
    worker.delta(job_id, 0, "hello ", publish=False)
    worker.finish(job_id, "hello world")
    other = create_app(settings).test_client()
    assert _text(list(_events(_open(other, job_id, seen)))[:-1]) == "hello world"[int(seen) :]


@pytest.mark.parametrize("written", ["", "héllo ", "héllo wörld"], ids=["nothing", "some", "all"])
def test_a_reader_that_resumes_at_every_offset_misses_nothing_and_sees_nothing_twice(client, submit, worker, written):
    text = "héllo wörld ä"
    for offset in [len(text[:end].encode()) for end in range(len(text) + 1)]:
        job_id = submit()
        worker.take()
        worker.delta(job_id, 0, written, publish=False)
        response = _open(client, job_id, str(offset))
        events = _events(response)
        seen = [next(events)] if offset < len(written.encode()) else []
        worker.finish(job_id, text)
        seen += events
        assert _text(seen) == text.encode()[offset:].decode()
        assert seen[-1] == (None, "[DONE]")
        assert [int(event_id) for event_id, _ in seen if event_id][-1] == len(text.encode())


def test_each_choice_has_an_offset_of_its_own(client, submit, worker):
    job_id = submit(n=2)
    worker.finish(worker.take(), "abc", "xyz")
    chunks = [data for _, data in _events(_open(client, job_id, "1,2")) if data != "[DONE]"]
    texts = {choice["index"]: choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["text"]}
    assert texts == {0: "bc", 1: "z"}


def test_an_offset_inside_a_character_harms_nothing(client, submit, worker):
    job_id = submit()
    worker.take()
    worker.delta(job_id, 0, "é", publish=False)
    response = _open(client, job_id, "1")
    assert next(_events(response))[1]["choices"][0]["text"] == "\ufffd"
    response.close()


@pytest.mark.parametrize("given", ["x", "1,2", "-1", "1.5", "٣", "9" * 30, "1,"])
def test_what_is_no_id_of_the_jobs_events_is_refused_by_name(client, submit, given):
    response = _open(client, submit(), given.encode().decode("latin-1"))
    assert response.status_code == 400
    error = response.get_json()["error"]
    assert error["param"] == "Last-Event-ID"
    assert "1 byte offsets" in error["message"]


def test_leaving_does_not_cancel_the_job(client, submit, worker, redis):
    job_id = submit()
    worker.take()
    response = _open(client, job_id)
    next(response.iter_encoded())
    response.close()
    assert JobQueue(redis).read(job_id).status == "running"


def test_pictures_come_whole(client, submit, worker):
    job_id = submit("tiny-picture")
    worker.finish(worker.take())
    (_, body), (_, done) = _events(_open(client, job_id))
    assert body["data"]
    assert done == "[DONE]"


def test_a_failed_job_ends_with_its_error(client, submit, worker):
    job_id = submit()
    worker.fail(worker.take(), EngineFailed("it broke"))
    ((_, body),) = _events(_open(client, job_id))
    assert body["error"]["message"] == "it broke"


def test_events_of_a_job_that_is_not_there_are_a_404(client):
    assert _open(client, "nope").status_code == 404

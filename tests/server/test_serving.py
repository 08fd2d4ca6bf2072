"""A real server process: gunicorn, gevent, sockets, and OpenAI's own client."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from openai import AuthenticationError, OpenAI

from contracts.api_keys import ApiKeys
from contracts.jobs import JobQueue
from contracts.orders import Order
from contracts.requests import TextRequest


def read_until(connection, expected):
    received = b""
    while expected not in received:
        piece = connection.recv(65536)
        assert piece, f"the connection ended with {received!r}"
        received += piece


def test_openais_client_works_as_it_is(start, worker):
    server = start()
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as openai, worker.working():
        assert [model.id for model in openai.models.list()] == ["tiny-labels", "tiny-picture", "tiny-text"]
        completion = openai.completions.create(model="tiny-text", prompt="ab", seed=7)
        assert completion.choices[0].text == "hello"
        assert completion.usage is not None
        assert completion.usage.total_tokens == 7
        assert completion.model_extra == {"seed": 7, "version": 1}
        chunks = list(
            openai.completions.create(
                model="tiny-text", prompt="ab", stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "hello"
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 5
        scored = openai.completions.create(model="tiny-text", prompt=[0, 1], n=2, echo=True, logprobs=1, max_tokens=0)
        assert [choice.text for choice in scored.choices] == ["ab", "ab"]
        assert scored.choices[1].logprobs is not None
        assert scored.choices[1].logprobs.text_offset == [0, 1]
        pictures = openai.images.generate(model="tiny-picture", prompt="a face", n=2)
        assert len(pictures.data or []) == 2
    assert server.stop() == 0
    assert server.log() == ""  # no warning of gevent's about ssl, nothing about a normal end


def test_openais_client_sends_its_key(start, worker, redis):
    key = ApiKeys(redis).create("one", "infer")
    url = f"{start().url}/v1"
    with OpenAI(base_url=url, api_key=key, max_retries=0) as openai, worker.working():
        assert openai.completions.create(model="tiny-text", prompt="ab").choices[0].text == "hello"
        stream = openai.completions.create(model="tiny-text", prompt="ab", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == "hello"
    with (
        OpenAI(base_url=url, api_key="sk-wrong", max_retries=0) as openai,
        pytest.raises(AuthenticationError, match="not known here or was revoked"),
    ):
        openai.models.list()


@pytest.mark.parametrize(
    "given_id", ["a\rset-cookie: b=c", "a\r\n set-cookie: b=c", "a\nset-cookie: b=c", "%0d%0aset-cookie: b"]
)
def test_no_header_of_a_client_becomes_one_of_the_answer(server, given_id, read_all):
    connection = server.connect()
    connection.sendall(
        f"GET /healthz HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\nx-request-id: {given_id}\r\n\r\n".encode()
    )
    head = read_all(connection).split(b"\r\n\r\n")[0].lower()
    assert b"set-cookie" not in head
    assert head.startswith((b"http/1.1 200", b"http/1.1 400"))


def test_a_refused_client_that_sends_much_still_reads_its_answer(start, worker, redis, read_all):
    ApiKeys(redis).create("one", "infer")
    answer = read_all(start().request("POST", "/v1/completions", "x" * 5_000_000))
    assert b"401" in answer.splitlines()[0]
    assert b"invalid_api_key" in answer


def test_listening_beyond_this_machine_without_a_key_is_warned_of_at_the_start(start, worker, redis, eventually):
    server = start(host="0.0.0.0")  # noqa: S104
    eventually(lambda: "anybody who reaches 0.0.0.0 may use this server" in server.log())
    assert "kamishibai keys create" in server.log()


def test_pieces_of_a_stream_arrive_while_the_job_runs(start, worker, redis, eventually, read_all):
    server, subscribers = start(), _subscribers(redis)
    with server.request("POST", "/v1/completions", '{"prompt": "a", "stream": true}') as connection:
        read_until(connection, b": connected")
        job_id = worker.take()
        eventually(lambda: _subscribers(redis) > subscribers)
        for offset, text in enumerate("abc"):
            worker.delta(job_id, offset, text)
            read_until(connection, f'"text": "{text}"'.encode())
        worker.finish(job_id, "abc")
        assert b"[DONE]" in read_all(connection)


def test_a_body_over_the_limit_is_answered_although_nobody_reads_it(server, read_all):
    answer = read_all(server.request("POST", "/v1/completions", "x" * 2_000_000))
    assert b"413" in answer.splitlines()[0]
    assert b"body_too_large" in answer
    chunked = "POST /v1/completions HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection = server.connect()
    connection.sendall(chunked.encode() + b"10000\r\n" + b"x" * 65536 + b"\r\n0\r\n\r\n")
    assert b"body_too_large" in read_all(connection)


@pytest.mark.parametrize("fields", ['"stream": true', '"stream": false'])
def test_a_client_that_vanishes_takes_its_job_with_it(server, worker, redis, eventually, fields):
    connection = server.request("POST", "/v1/completions", f'{{"prompt": "a", {fields}}}')
    job_id = worker.take()
    connection.close()
    eventually(lambda: JobQueue(redis).read(job_id).status == "cancelled")


def test_a_vanished_long_poll_leaves_its_job_alone(server, worker, redis):
    job_id = JobQueue(redis).submit(Order(request=_any_request(worker), result_seconds=60, timeout_seconds=60))
    server.request("GET", f"/v1/jobs/{job_id}?wait=60").close()
    time.sleep(1.5)
    assert JobQueue(redis).read(job_id).status == "queued"


def test_sigterm_releases_long_polls_and_lets_calls_finish(start, worker, redis, read_all):
    server = start()
    call = server.request("POST", "/v1/completions", '{"prompt": "a"}')
    called = worker.take()
    waited = JobQueue(redis).submit(Order(request=_any_request(worker), result_seconds=60, timeout_seconds=60))
    poll = server.request("GET", f"/v1/jobs/{waited}?wait=60")
    time.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert b'"status":"queued"' in read_all(poll)
    assert time.monotonic() - began < 2
    worker.finish(called)
    assert b"hello" in read_all(call)
    assert server.stop() == 0
    assert time.monotonic() - began < 10


def test_five_hundred_waiters_hold_one_subscription(server, worker, redis, read_all):
    jobs = JobQueue(redis)
    job_ids = [
        jobs.submit(Order(request=_any_request(worker), result_seconds=60, timeout_seconds=60)) for _ in range(500)
    ]
    polls = [server.request("GET", f"/v1/jobs/{job_id}?wait=60") for job_id in job_ids]
    time.sleep(1)
    subscribers = _subscribers(redis)
    began = time.monotonic()
    for job_id in job_ids:
        worker.finish(job_id)
    assert all(b'"succeeded"' in read_all(poll) for poll in polls)
    assert time.monotonic() - began < 5
    assert subscribers <= 1 + sum(thread.name == "waiting" for thread in threading.enumerate())


def _subscribers(redis):
    """Subscriptions of the server and of the applications in the tests' own process."""
    return len(redis.client_list(_type="pubsub"))


def _any_request(worker):
    return TextRequest(target=worker.served[0].target, seed=1, prompt_tokens=(0,))

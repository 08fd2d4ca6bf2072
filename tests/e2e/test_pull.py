"""A worker that shares no folder with its server: over real HTTP, with real processes and a link that breaks."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cli.pull import pull
from contracts.announcements import read_announcements
from contracts.bundle import WEIGHTS
from contracts.errors import StoreError
from contracts.requests import TextRequest
from contracts.store import Store
from tests.ports import free_port
from workers.local import LocalModel

SEED, TOKENS = 7, 40
CUT_BYTES = 8000  # the weights have 49 kB


class BreakingLink:
    """Before a server: the first connection on which so many bytes come back is cut there."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.has_broken = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                threading.Thread(target=self._pass, args=(client, server, None), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, CUT_BYTES), daemon=True).start()

    def _pass(self, giver: socket.socket, taker: socket.socket, most: int | None) -> None:
        with giver, taker, suppress(OSError):
            while piece := giver.recv(1000):
                taker.sendall(piece)
                if most is not None and not self.has_broken and (most := most - len(piece)) <= 0:
                    self.has_broken = True
                    giver.shutdown(socket.SHUT_RDWR)
                    taker.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def origin(store, tmp_path) -> Store:
    made = Store(tmp_path / "origin")
    shutil.copytree(store.root, made.root)
    return made


@pytest.fixture
def server(origin, redis_url) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    settings = {"KAMISHIBAI_REDIS_URL": redis_url, "KAMISHIBAI_SHARE_STORE": "on", "KAMISHIBAI_PORT": str(port)}
    command = [sys.executable, "-P", "-m", "cli.main", "serve", "--store", str(origin.root)]
    process = subprocess.Popen(command, env=os.environ | settings)
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").close()
            break
        except OSError:
            assert time.monotonic() < deadline, "the server did not answer within 30 s"
            time.sleep(0.05)
    yield process, port
    process.terminate()
    process.wait(30)


def complete(port: int) -> dict:
    body = {"model": "lstm", "prompt": "A story", "max_tokens": TOKENS, "seed": SEED, "temperature": 1}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_empty_worker_pulls_serves_the_same_and_needs_the_server_no_more(
    start_worker, server, origin, tmp_path, connection
):
    process, port = server
    link, cache = BreakingLink(port), tmp_path / "cache"
    options = ("--store", str(cache), "--store-from", link.url, "--models", "lstm")
    worker = start_worker("elsewhere", *options)
    assert link.has_broken
    assert contents(cache / "lstm" / "1") == contents(origin.root / "lstm" / "1")
    assert sorted(path.name for path in cache.iterdir()) == ["lstm"]

    answer = complete(port)
    local = LocalModel(origin.open("lstm"))
    tokens = tuple(local.bundle.tokenizer().encode("A story"))
    request = TextRequest(target=local.bundle.target(), seed=SEED, prompt_tokens=tokens, max_tokens=TOKENS)
    assert answer["choices"][0]["text"] == local.text(request).choices[0].text
    assert answer["system_fingerprint"] == local.fingerprint

    worker.terminate()
    assert worker.wait(30) == 0
    process.terminate()
    process.wait(30)
    link.close()
    start_worker("again", *options)  # waits until it is ready
    (announced,) = read_announcements(connection)
    assert announced.models[0].digest == origin.open("lstm").digest


def test_a_tampered_file_is_refused_and_a_digest_picks_one_bundle(server, origin, tmp_path):
    url, here = f"http://127.0.0.1:{server[1]}", tmp_path / "here"
    digest = origin.open("gpt2").digest
    with pytest.raises(StoreError, match=f"with the digest {digest}, not {'0' * 64}"):
        pull("gpt2", url, "0" * 64, None, here)
    weights = origin.root / "gpt2" / "1" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StoreError, match=f"{WEIGHTS} of gpt2@1 has the SHA-256"):
        pull("gpt2", url, digest, None, here)
    assert Store(here).names() == []
    content[-1] ^= 1
    weights.write_bytes(content)
    pull("gpt2@1", url, digest, None, here)
    assert contents(here / "gpt2" / "1") == contents(origin.root / "gpt2" / "1")

"""Streams survive: whatever is killed in mid-text, the client reads one unbroken text, the one of its seed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from typing import Any

import pytest

from contracts.requests import TextRequest
from tests.ports import free_port
from workers.embedded_redis import running_url
from workers.local import LocalModel

BODY = {"prompt": "the quick brown fox ", "max_tokens": 3000, "temperature": 1.0, "seed": 11, "n": 2, "stream": True}
JSON_BODY = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def expected(store):
    local = LocalModel(store.open("lstm"))
    tokens = tuple(local.bundle.tokenizer().encode(str(BODY["prompt"])))
    request = TextRequest(
        target=local.bundle.target(), seed=11, prompt_tokens=tokens, max_tokens=3000, temperature=1.0, n=2
    )
    return [choice.text for choice in local.text(request).choices]


class Reader:
    """Reads the events of one stream and keeps what a client keeps: the texts, and the id of the last event."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.last_event_id = ""
        self.done = False

    def read(self, url: str, body: dict[str, Any] | None = None) -> Generator[None]:
        """Yields after every event."""
        data = None if body is None else json.dumps(body).encode()
        headers = JSON_BODY | ({"Last-Event-ID": self.last_event_id} if self.last_event_id else {})
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
            for line in answer:
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "id":
                    self.last_event_id = value
                elif field == "data" and value == "[DONE]":
                    self.done = True
                elif field == "data":
                    event = json.loads(value)
                    assert "error" not in event, event
                    for choice in event["choices"]:
                        self.texts[choice["index"]] += choice["text"]
                    yield


@pytest.fixture
def other_server(store, product):
    """A second server on the product's Redis; its URL."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "cli.main", "serve", "--store", str(store.root), "--port", str(port)]
    environment = os.environ | {"KAMISHIBAI_REDIS_URL": running_url(store.root) or ""}
    process = subprocess.Popen(command, env=environment)
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{url}/readyz").close()
            break
        except OSError:
            time.sleep(0.1)
    yield url
    process.terminate()
    process.wait(30)


@pytest.mark.parametrize("victim", ["workers.engine_child", "cli.main worker"])
def test_a_stream_whose_worker_is_killed_in_mid_text_goes_on_at_the_next_character(product, expected, victim):
    reader = Reader(["", ""])
    for count, _ in enumerate(reader.read(f"{product.url}/v1/completions", BODY | {"model": "lstm"})):
        if count == 3:
            assert 0 < len(reader.texts[0]) < len(expected[0])
            for process in product.processes(victim):
                process.send_signal(signal.SIGKILL)
    assert reader.done
    assert reader.texts == expected


def test_a_jobs_stream_is_resumed_on_another_server_while_its_worker_is_killed(product, other_server, expected):
    status, job = product.post("/v1/jobs", {"model": "lstm", "input": BODY})
    assert status == 202
    reader = Reader(["", ""])
    connection = reader.read(f"{product.url}/v1/jobs/{job['id']}/events")
    for _ in range(4):
        next(connection)
    connection.close()
    assert 0 < len(reader.texts[0]) < len(expected[0])
    for process in product.processes("workers.engine_child"):
        process.send_signal(signal.SIGKILL)
    for _ in reader.read(f"{other_server}/v1/jobs/{job['id']}/events"):
        pass
    assert reader.done
    assert reader.texts == expected
    _, ended = product.get(f"/v1/jobs/{job['id']}")
    assert [choice["text"] for choice in ended["result"]["choices"]] == expected

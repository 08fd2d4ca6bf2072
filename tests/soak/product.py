"""The product as an operator starts it: `kamishibai up`, everything in it, its output in a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
from redis import Redis

from contracts.settings import Settings, variable
from contracts.store import Store
from tests.chaos.fleet import START_SECONDS, answers, holds
from tests.ports import free_port
from workers.embedded_redis import DATA_FOLDER, running_url
from workers.processes import python_module
from workers.supervisor import Part

# By what their command lines hold. The arbiter is gunicorn's own process, which starts the servers.
_OF_SUPERVISOR = {
    "redis.sock": "redis",
    "cli.main serve": "arbiter",
    "cli.main worker": "worker",
    "cli.main clerk": "clerk",
}
_OF_PARENT = {"arbiter": "server", "worker": "engine"}
ROLES = ("supervisor", "redis", "arbiter", "server", "worker", "engine", "clerk")


class Product:
    """Stops with whoever started it."""

    def __init__(self, store: Store, folder: Path, settings: Settings) -> None:
        """`folder` takes the log."""
        self.port = free_port()
        self.log = folder / "up.log"
        self.append_only_folder = store.root / DATA_FOLDER / "appendonlydir"
        self._store = store
        up = [*python_module("cli.main"), "up", "--store", str(store.root), "--device", "cpu"]
        environment = replace(settings, port=self.port).to_environment() | {"OMP_NUM_THREADS": "1"}
        del environment[variable("redis_url")]  # with one, `up` would start none
        command = ["/bin/sh", "-c", 'exec "$@" >>"$0" 2>&1', str(self.log), *up]
        self._part = Part("up", command, environment, stop_seconds=90.0)

    def start(self) -> None:
        """Until it serves. Raises TimeoutError."""
        self._part.start()
        deadline = time.monotonic() + START_SECONDS
        while not holds(lambda: answers(f"http://127.0.0.1:{self.port}/readyz")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the product was not ready within {START_SECONDS:.0f} s; see {self.log}")
            time.sleep(0.1)
        self.redis = Redis.from_url(running_url(self._store.root) or "", socket_timeout=5)

    def stop(self) -> None:
        self._part.stop()

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """Every process with its role. What Redis forks to rewrite its append-only file is Redis, too."""
        process = self._part.process
        if process is None:
            return
        up = psutil.Process(process.pid)
        yield "supervisor", up
        for part in up.children():
            role = _role(part, _OF_SUPERVISOR)
            yield role, part
            for child in part.children():
                yield _OF_PARENT.get(role, role), child


def _role(process: psutil.Process, roles: dict[str, str]) -> str:
    with suppress(psutil.Error):
        command = " ".join(process.cmdline())
        return next((role for part, role in roles.items() if part in command), "other")
    return "other"

"""A Redis with a replica and a sentinel, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.ports import free_port
from workers.embedded_redis import find_server

START_SECONDS = 30.0
MASTER = "main"


class Watched:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ports = [free_port() for _ in range(3)]
        self.url = f"redis+sentinel://127.0.0.1:{self._ports[2]}/{MASTER}/0"

    def __enter__(self) -> Watched:
        master, replica, sentinel = self._ports
        self._start(master)
        self._start(replica, "--replicaof", "127.0.0.1", str(master))
        for port in (master, replica):
            _await(port)
        settings = self._folder / "sentinel.conf"
        settings.write_text(
            f"port {sentinel}\nbind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {master} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 4000\n"
        )
        self._run(str(settings), "--sentinel", "--dir", str(self._folder))
        _await(sentinel)
        self._await(lambda about: about["num-slaves"] == 1, "the sentinel knows the replica")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def kill_master(self) -> None:
        self._processes[0].send_signal(signal.SIGKILL)
        self._processes[0].wait()

    def await_other_master(self) -> None:
        self._await(lambda about: about["port"] == self._ports[1], "the replica is the master")

    def _await(self, condition, what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        with Redis(port=self._ports[2]) as sentinel:
            while not condition(sentinel.sentinel_master(MASTER)):
                assert time.monotonic() < deadline, f"within {START_SECONDS:.0f} s it was not so that {what}"
                time.sleep(0.05)

    def _start(self, port: int, *options: str) -> None:
        folder = self._folder / str(port)
        folder.mkdir()
        common = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]
        self._run(*common, "--repl-diskless-sync-delay", "0", *options)

    def _run(self, *arguments: str) -> None:
        command = [find_server(), *arguments, "--loglevel", "warning"]
        self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))


def _await(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    with Redis(port=port) as client:
        while True:
            try:
                client.ping()
                return
            except RedisConnectionError:
                assert time.monotonic() < deadline, f"nothing answers on port {port}"
                time.sleep(0.05)

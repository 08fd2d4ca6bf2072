"""Hosts of our own on one machine: network namespaces, each with a link to the one where Redis and server run."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

IP = shutil.which("ip") or ""
CLONE_NEWNET = 0x40000000
CENTRE = "centre"

Value = TypeVar("Value")


def can_be_made() -> bool:
    """It takes root, iproute2 and a kernel that lets us."""
    if not IP or os.geteuid() != 0:
        return False
    name = f"kmb-probe-{uuid.uuid4().hex[:6]}"
    if subprocess.run([IP, "netns", "add", name], capture_output=True).returncode:
        return False
    return not subprocess.run([IP, "netns", "delete", name], capture_output=True).returncode


class Hosts:
    """A centre and others, which reach nobody but it. Names are short: an interface's has at most 15 characters."""

    def __init__(self, *others: str) -> None:
        self._others = others
        self._mark = uuid.uuid4().hex[:4]
        self._threads: list[ThreadPoolExecutor] = []

    def __enter__(self) -> Hosts:
        for name in (CENTRE, *self._others):
            self._ip("netns", "add", self._space(name))
            self._ip("-n", self._space(name), "link", "set", "lo", "up")
        for number, name in enumerate(self._others, 1):
            ends = {CENTRE: f"{self._mark}-c{number}", name: f"{self._mark}-h{number}"}
            self._ip("link", "add", ends[CENTRE], "type", "veth", "peer", "name", ends[name])
            for place, (host, end) in enumerate(ends.items(), 1):
                self._ip("link", "set", end, "netns", self._space(host))
                self._ip("-n", self._space(host), "address", "add", f"10.77.{number}.{place}/24", "dev", end)
                self._ip("-n", self._space(host), "link", "set", end, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.shutdown(wait=False)
        for name in (CENTRE, *self._others):
            subprocess.run([IP, "netns", "delete", self._space(name)], check=False)

    def centre_for(self, name: str) -> str:
        """The centre's address, as this host sees it."""
        return f"10.77.{self._others.index(name) + 1}.1"

    def start(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        """On this host, in a process group of its own."""
        inside = [IP, "netns", "exec", self._space(name), *command]
        with log.open("wb") as written:
            return subprocess.Popen(inside, env=os.environ | environment, start_new_session=True, stderr=written)

    def cut(self, name: str) -> None:
        """The link of this host, without a word to either side."""
        self._set_link(name, "down")

    def mend(self, name: str) -> None:
        self._set_link(name, "up")

    def call(self, function: Callable[..., Value], *arguments: Any) -> Future[Value]:
        """In a thread whose new sockets are the centre's."""
        thread = ThreadPoolExecutor(1, initializer=self._enter)
        self._threads.append(thread)
        return thread.submit(function, *arguments)

    def _enter(self) -> None:
        descriptor = os.open(f"/run/netns/{self._space(CENTRE)}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def _set_link(self, name: str, state: str) -> None:
        end = f"{self._mark}-h{self._others.index(name) + 1}"
        self._ip("-n", self._space(name), "link", "set", end, state)

    def _space(self, name: str) -> str:
        return f"kmb-{self._mark}-{name}"

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run([IP, *arguments], check=True)

"""The parent's view of its engine child: start it, talk to it, notice its end."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from contracts.requests import Target
from contracts.settings import Settings
from workers.channel import Channel, ChannelClosed
from workers.processes import python_module
from workers.silence import Silence

log = logging.getLogger("kamishibai.worker")

_LONGEST_BACKOFF_SECONDS = 10.0
_QUICK_REPLACEMENTS = 3


class Child:
    """One engine child at a time. Nothing here ever waits for it."""

    def __init__(
        self,
        store: Path,
        targets: list[Target],
        device: str,
        kv_bytes: int,
        step_seconds: float = Settings.step_seconds,
        load_seconds: float = Settings.load_seconds,
        worker: str | None = None,
    ) -> None:
        """`kv_bytes` for each of its models. It hangs if it is silent for longer than `step_seconds` while it has work,
        or than `load_seconds` while it loads. `worker` is its parent's name, for the log."""
        self._order = {
            "store": str(store),
            "targets": [target.model_dump() for target in targets],
            "device": device,
            "kv_bytes": kv_bytes,
            "worker": worker,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._step_seconds = step_seconds
        self._load_seconds = load_seconds
        self._silence = Silence(time.monotonic())
        self._failures = 0  # deaths since it was last ready
        self._next_start = 0.0
        self._was_ready = False
        self.ready = False

    @property
    def channel(self) -> Channel | None:
        """None while there is no child."""
        return self._channel

    @property
    def dependable(self) -> bool:
        """Whether new jobs should be sent our way: it is ready, or has been and is just being replaced."""
        return self.ready or (self._was_ready and self._failures <= _QUICK_REPLACEMENTS)

    def ensure_started(self) -> None:
        """Start a child if there is none and its back-off is over. It is spawned, never forked: CUDA asks for that."""
        if self._channel is not None or time.monotonic() < self._next_start:
            return
        ours, theirs = socket.socketpair()
        order = json.dumps({**self._order, "socket": theirs.fileno()})
        self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            [*python_module("workers.engine_child"), order],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._channel = Channel(ours, blocking=False)
        self._silence.broken(time.monotonic())
        log.info("engine child %d started", self._process.pid)

    def send(self, message: dict[str, Any]) -> None:
        """Raises ChannelClosed if it has gone."""
        if self._channel is None:
            raise ChannelClosed
        self._channel.send(message)

    def receive(self) -> list[dict[str, Any]]:
        """Its messages so far. Raises ChannelClosed if it has gone."""
        if self._channel is None:
            return []
        messages = self._channel.receive()
        if messages:
            self._silence.broken(time.monotonic())
        if any(message["op"] == "ready" for message in messages):
            self.ready, self._was_ready, self._failures = True, True, 0
        return messages

    def hangs(self, busy: bool) -> bool:
        """Whether it has been silent for too long; `busy` says that it has work. To be asked about once a second."""
        if self._channel is None or (self.ready and not busy):
            self._silence.broken(time.monotonic())
            return False
        budget_seconds = self._step_seconds if self.ready else self._load_seconds
        return self._silence.look(time.monotonic()) > budget_seconds

    def bury(self) -> int:
        """After ChannelClosed, or when it hangs: kill it if it lives, clean up and set the back-off.

        Returns the exit status, negative for a signal.
        """
        if self._channel is not None:
            self._channel.close()
        self._channel, self.ready = None, False
        status = 0
        if self._process is not None:
            self._process.kill()
            try:
                status = self._process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:  # stuck in its driver; the kernel lets go of it when it can
                status = -signal.SIGKILL
        self._process = None
        doublings = min(self._failures, 10)  # 2**1024 is no float
        self._next_start = time.monotonic() + min(0.2 * 2**doublings - 0.2, _LONGEST_BACKOFF_SECONDS)
        self._failures += 1
        return status

    def stop(self) -> None:
        """End it now."""
        if self._process is not None:
            self.bury()

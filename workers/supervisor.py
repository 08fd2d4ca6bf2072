"""Runs the parts of `kamishibai up`: starts them in order, restarts what dies, stops all in reverse order."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from workers.processes import die_with_parent

log = logging.getLogger("kamishibai.up")

POLL_SECONDS = 0.1
_STEADY_SECONDS = 10.0  # a part that has run this long is given its first back-off again
_LONGEST_BACKOFF_SECONDS = 10.0


@dataclass
class Part:
    """One process. `stop_seconds` is what it may take to stop in order before it is killed."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    stop_seconds: float = 30.0
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    next_start: float = 0.0
    failures: int = 0

    def start(self) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - commands of `up`, no shell
            self.command,
            env=os.environ | self.environment,
            # Its own session: a Ctrl-C in the terminal reaches the supervisor alone, which then stops all in order.
            start_new_session=True,
            preexec_fn=_die_with_supervisor,  # one prctl call, its library loaded before the fork
        )
        self.started_at = time.monotonic()

    def has_died(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def note_death(self) -> None:
        """Set the time of its next start: 0.1 s after a steady run, then 0.2, 0.4, ... 10 s."""
        status = self.process.returncode if self.process else 0
        if time.monotonic() - self.started_at > _STEADY_SECONDS:
            self.failures = 0
        delay = min(0.1 * 2 ** min(self.failures, 10), _LONGEST_BACKOFF_SECONDS)  # 2**1024 is no float
        self.failures += 1
        self.next_start = time.monotonic() + delay
        self.process = None
        log.error("%s died (status %d); it starts again in %.1f s", self.name, status, delay)

    def stop(self) -> None:
        """SIGTERM, then, if it takes too long, SIGKILL."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            log.error("%s did not stop within %.0f s and is killed", self.name, self.stop_seconds)
            self.process.kill()
            self.process.wait()


class Supervisor:
    """`parts` in the order in which they are started; they are stopped in the reverse order."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._stop_asked = False

    def run(self, while_running: Callable[[], None] = lambda: None) -> None:
        """Until SIGTERM or SIGINT. `while_running` is called a few times a second."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            while not self._stop_asked:
                self._keep_running()
                while_running()
                time.sleep(POLL_SECONDS)
        finally:
            for part in reversed(self._parts):
                log.info("stopping %s", part.name)
                part.stop()

    def _on_signal(self, *_: object) -> None:
        self._stop_asked = True

    def _keep_running(self) -> None:
        for part in self._parts:
            if part.has_died():
                part.note_death()
            if part.process is None and time.monotonic() >= part.next_start:
                part.start()


def _die_with_supervisor() -> None:
    die_with_parent(signal.SIGTERM)

"""How a run is stopped by hand, to be gone on with."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SECONDS_BETWEEN_CHECKPOINTS = 300.0  # what a crash may cost; a stop costs nothing


class Stopped(Exception):
    """Somebody asked the run to stop; it can be gone on with."""

    def __init__(self, run: Path, step: int, steps: int) -> None:
        super().__init__(f"{run} stopped after step {step:,} of {steps:,}")
        self.run = run


@contextmanager
def stop_asked() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C or SIGTERM; the second Ctrl-C is the usual one."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

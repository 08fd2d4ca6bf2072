"""Bars of training loops."""

from __future__ import annotations

import sys
from typing import NoReturn

from tqdm import tqdm


def progress_bar(steps: int, name: str, *, done: int = 0, show: bool = True, unit: str = "step") -> tqdm[NoReturn]:
    """On stderr, with speed and time left. A log file, which wants no animation, gets a line every few seconds."""
    interval = 0.1 if sys.stderr.isatty() else 5.0
    return tqdm(total=steps, initial=done, desc=name, unit=unit, disable=not show, mininterval=interval)

"""How often a process that serves looks for cycles among its objects."""

from __future__ import annotations

import gc

NEW_OBJECTS = 50_000  # a few megabytes, instead of 700 objects


def collect_rarely() -> None:
    """What has been imported stays, and is not looked at again. Every request makes hundreds of objects that are gone
    with it, without a cycle: to look for cycles as often as Python does takes a server an eighth of its time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 100)

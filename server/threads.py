"""Work that blocks, away from the loop that serves all clients of a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import gevent

Given = ParamSpec("Given")
Found = TypeVar("Found")


def in_thread(work: Callable[Given, Found], *given: Given.args, **named: Given.kwargs) -> Found:
    """Its result, or what it raises, as soon as a thread of the hub's pool has it. Others are served meanwhile."""
    caught: list[Exception] = []

    def attempt() -> Found | None:
        try:
            return work(*given, **named)
        except Exception as error:  # gevent would write a traceback of it to stderr, whoever catches it here
            caught.append(error)
            return None

    found: Found = gevent.get_hub().threadpool.apply(attempt)
    if caught:
        raise caught[0]
    return found

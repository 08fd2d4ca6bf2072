"""Looks every few seconds what the worker should do: in a thread, since disks can be slow."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from redis.exceptions import RedisError

from workers.wanted import Wish

log = logging.getLogger("kamishibai.worker")

WATCH_SECONDS = 2.0


class Watch:
    """`look()` says what is wanted now, and `on_change()` is called from the thread when there is news."""

    def __init__(self, look: Callable[[], Wish], on_change: Callable[[], None]) -> None:
        self._look = look
        self._on_change = on_change
        self._found: SimpleQueue[Wish] = SimpleQueue()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def news(self) -> Wish | None:
        """What was last seen to be wanted, once."""
        found: Wish | None = None
        while True:
            try:
                found = self._found.get_nowait()
            except Empty:
                return found

    def _run(self) -> None:
        last: Wish | None = None  # the first one is news, also where it is to serve nothing
        while True:
            time.sleep(WATCH_SECONDS)
            try:
                wish = self._look()
                if last is None or (wish.models.keys(), *wish[1:]) != (last.models.keys(), *last[1:]):
                    last = wish
                    self._found.put(wish)
                    self._on_change()
            except RedisError:
                continue  # it is away; the parent says so
            except OSError as error:
                log.warning("the store cannot be read (%s); what is served stays", error)

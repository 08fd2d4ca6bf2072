"""Looks every few seconds whether the worker should serve other models: in a thread, since disks can be slow."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from redis.exceptions import RedisError

from workers.crews import Wanted

log = logging.getLogger("kamishibai.worker")

WATCH_SECONDS = 2.0


class Watch:
    """`look()` says what is wanted now, and `on_change()` is called from the thread when there is news."""

    def __init__(self, look: Callable[[], Wanted], on_change: Callable[[], None]) -> None:
        self._look = look
        self._on_change = on_change
        self._found: SimpleQueue[Wanted] = SimpleQueue()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def news(self) -> Wanted | None:
        """What was last seen to be wanted, once."""
        found: Wanted | None = None
        while True:
            try:
                found = self._found.get_nowait()
            except Empty:
                return found

    def _run(self) -> None:
        last: Wanted = {}
        while True:
            time.sleep(WATCH_SECONDS)
            try:
                wanted = self._look()
                if wanted and wanted.keys() != last.keys():
                    last = wanted
                    self._found.put(wanted)
                    self._on_change()
            except RedisError:
                continue  # it is away; the parent says so
            except OSError as error:
                log.warning("the store cannot be read (%s); what is served stays", error)

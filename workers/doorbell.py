"""Waiting for work: a thread that sleeps on the bells of our engines.

A bell is a list with at most one token, left by whoever puts work on the queue. A worker waits for it only while it has
room: one that is full leaves the token to others. A token lost to a crash costs at most the parent's poll of a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from contracts import keys


class Doorbell:
    """`on_ring()` is called from the thread, once per `arm`."""

    def __init__(self, connection: Redis, on_ring: Callable[[], None]) -> None:
        self._redis = connection
        self._on_ring = on_ring
        self._bells: list[str] = []
        self._armed = threading.Condition()
        threading.Thread(target=self._listen, name="doorbell", daemon=True).start()

    def arm(self, engines: list[str]) -> None:
        """Wait for work for any of these; an empty list waits for none."""
        with self._armed:
            self._bells = [keys.bell(engine) for engine in engines]
            self._armed.notify()

    def _listen(self) -> None:
        while True:
            with self._armed:
                self._armed.wait_for(lambda: self._bells)
                bells = self._bells
            try:
                rung = self._redis.blpop(bells, timeout=1)
            except RedisError:
                time.sleep(0.5)  # Redis is away; the parent notices by itself
                continue
            if rung:
                with self._armed:
                    self._bells = []
                self._on_ring()

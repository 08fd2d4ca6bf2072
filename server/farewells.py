"""Calls that have been answered: what Redis keeps of them goes soon.

Until its answer is on its way a call's result lives longer, so that it is still there when Redis comes back to a server
that could not reach it.
"""

from __future__ import annotations

import logging
import threading
import time

from redis import RedisError

from contracts.jobs import JobQueue, JobRecord

FLUSH_SECONDS = 1.0
MOST_RECORDS = 4096  # that wait while Redis is away; more are left to their own lifetime

log = logging.getLogger(__name__)


class Farewells:
    """Told one by one, passed on to Redis many at a time by a thread, which begins with the first."""

    def __init__(self, jobs: JobQueue, seconds: int) -> None:
        """`seconds` is how long a record lives on."""
        self._jobs = jobs
        self._seconds = seconds
        self._lock = threading.Lock()
        self._records: list[JobRecord] = []
        self._thread: threading.Thread | None = None

    def add(self, record: JobRecord) -> None:
        """Nobody will ask for this one again."""
        with self._lock:
            if len(self._records) < MOST_RECORDS:
                self._records.append(record)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="farewells", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(FLUSH_SECONDS)
            with self._lock:
                records, self._records = self._records, []
            try:
                self._jobs.shorten(records, self._seconds)
            except RedisError as error:
                log.warning("%d answered calls stay longer than they should: %s", len(records), error)

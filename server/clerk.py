"""The clerk: a process that carries batches out, sends webhooks and compares versions. Any number of them may run on
one Redis; a batch has one at a time.

It holds nothing that is not in Redis or on disk, but for comparisons under way, so it may die at any moment.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from redis import Redis, RedisError

from contracts.connection import connect
from contracts.errors import StorageFull
from contracts.jobs import JobQueue
from contracts.settings import Settings
from contracts.store import Store
from server.admission import Admission
from server.batch_requests import BatchRequests
from server.batch_run import BatchRun, Desk
from server.batches import Batches
from server.catalogue import Catalogue
from server.files import FileStore
from server.shadowing import Shadowing
from server.webhook_addresses import WebhookAddresses
from server.webhook_queue import WebhookQueue
from server.webhook_secrets import WebhookSecrets
from server.webhooks import WebhookSender

LOOK_SECONDS = 1.0
RETRY_SECONDS = 5.0  # before a batch that could not go on is tried again
TIDY_SECONDS = 600.0
MOST_BATCHES = 16  # that one clerk carries out at once

log = logging.getLogger(__name__)


def run_clerk(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises ValueError for a bad URL of Redis."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    Clerk(settings, connect(settings.redis_url), stopping).run()


class Clerk:
    """Looks for batches that nobody has, and carries each out in a thread."""

    def __init__(self, settings: Settings, connection: Redis, stopping: threading.Event) -> None:
        jobs = JobQueue(connection)
        catalogue = Catalogue(connection, Store(settings.store), without_worker=settings.without_worker == "accept")
        self._stopping = stopping
        self._desk = Desk(
            settings=settings,
            batches=Batches(connection),
            files=FileStore(settings.files_folder, settings.file_seconds),
            jobs=jobs,
            requests=BatchRequests(Admission(settings, catalogue), jobs),
            rest=stopping.wait,
        )
        self._webhooks = WebhookSender(
            WebhookQueue(connection), jobs, WebhookSecrets(connection), WebhookAddresses(settings)
        )
        self._shadowing = Shadowing(settings, connection, jobs, catalogue)
        self._running: dict[str, str] = {}  # batch id -> owner
        self._not_before: dict[str, float] = {}  # batch id -> monotonic seconds, of those that could not go on
        self._tidy_at = 0.0
        self._broken = False

    def run(self) -> None:
        """Until it is to stop. Batches are then left to the next clerk."""
        webhooks = threading.Thread(target=self._webhooks.run, args=(self._stopping.is_set,), name="webhooks")
        webhooks.start()
        shadowing = threading.Thread(
            target=self._shadowing.run, args=(self._stopping.is_set, self._stopping.wait), name="shadowing"
        )
        shadowing.start()
        with ThreadPoolExecutor(MOST_BATCHES, "batch") as threads:
            while not self._stopping.is_set():
                try:
                    self._start_batches(threads)
                    self._tidy_if_due()
                    self._broken = False
                except (RedisError, OSError) as error:
                    if not self._broken:  # said once, however long it lasts
                        log.warning("the clerk cannot work, trying again: %s", error)
                    self._broken = True
                self._stopping.wait(LOOK_SECONDS)
        webhooks.join()
        shadowing.join()

    def _start_batches(self, threads: ThreadPoolExecutor) -> None:
        """Those of owners who have few that run come first."""
        now = time.monotonic()
        self._not_before = {batch_id: at for batch_id, at in self._not_before.items() if at > now}
        for batch_id, owner in self._waiting():
            if len(self._running) >= MOST_BATCHES:
                return
            self._running[batch_id] = owner
            threads.submit(self._carry_out, batch_id)

    def _waiting(self) -> list[tuple[str, str]]:
        """Open batches that are not ours yet, with their owners, in the order in which they should come."""
        counts = Counter(list(self._running.values()))  # threads take theirs out
        ranked = []
        for owner, batch_id in self._desk.batches.open():
            if batch_id not in self._running and batch_id not in self._not_before:
                ranked.append((counts[owner], batch_id, owner))
                counts[owner] += 1
        return [(batch_id, owner) for _, batch_id, owner in sorted(ranked)]

    def _carry_out(self, batch_id: str) -> None:
        try:
            BatchRun(self._desk, batch_id).carry_out()
        except (RedisError, OSError, StorageFull) as error:
            log.warning("%s cannot go on, trying again: %s", batch_id, error)
            self._not_before[batch_id] = time.monotonic() + RETRY_SECONDS
        except Exception:
            log.exception("%s failed in a way that nobody foresaw, trying again", batch_id)
            self._not_before[batch_id] = time.monotonic() + RETRY_SECONDS
        finally:
            del self._running[batch_id]

    def _tidy_if_due(self) -> None:
        if time.monotonic() < self._tidy_at:
            return
        self._desk.files.tidy()
        self._desk.batches.tidy()
        self._tidy_at = time.monotonic() + TIDY_SECONDS

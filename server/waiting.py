"""Waiting for jobs: one Redis subscription per server process, however many requests wait.

Pub/sub may lose messages (a reconnect, a stock worker that publishes nothing), so a message is only a hint: whoever
waits looks at the job itself after registering, every few seconds, and after each reconnect.
"""

from __future__ import annotations

import enum
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from redis import Redis, RedisError

from contracts import keys
from contracts.errors import one_line
from contracts.jobs import JobQueue, JobRecord
from contracts.requests import Count, describe
from server.counters import RequestCounters

RECHECK_SECONDS = 5.0
GLANCE_SECONDS = 1.0  # how often a waiting request looks whether its client is still there
RECONNECT_SECONDS = 0.5

log = logging.getLogger(__name__)


class Delta(NamedTuple):
    """A piece of the text of a streaming job's choice and where it begins, in UTF-8 bytes."""

    choice: int
    offset: int
    text: str


class Look(enum.Enum):
    """Told to one who waits: look at the job again."""

    AGAIN = enum.auto()


_ENDED = TypeAdapter(Annotated[list[str], Field(fail_fast=True)])
_DELTAS = TypeAdapter(Annotated[list[tuple[str, Count, Count, str]], Field(fail_fast=True)])


class Mailbox:
    """What one waiting request is told of its job."""

    def __init__(self) -> None:
        self._mail: queue.SimpleQueue[Delta | Look] = queue.SimpleQueue()
        self._look_at = time.monotonic() + RECHECK_SECONDS

    def put(self, mail: Delta | Look) -> None:
        self._mail.put(mail)

    def get(self, timeout_seconds: float) -> Delta | Look | None:
        """The next mail, or None if none came in time. Looking again is due after some silence, too."""
        try:
            mail = self._mail.get(timeout=timeout_seconds)
        except queue.Empty:
            if time.monotonic() < self._look_at:
                return None
            mail = Look.AGAIN
        self._look_at = time.monotonic() + RECHECK_SECONDS
        return mail


class Waiting:
    """Knows who waits for which job. The subscription begins with the first who waits."""

    def __init__(self, connection: Redis, jobs: JobQueue, counters: RequestCounters) -> None:
        self._redis = connection
        self._counters = counters
        self._jobs = jobs
        self._lock = threading.Lock()
        self._mailboxes: dict[str, list[Mailbox]] = {}  # job id -> those who wait for it, never an empty list
        self._subscriber: threading.Thread | None = None
        self.draining = False

    def wait_ended(self, job_id: str, timeout_seconds: float, still_there: Callable[[], bool]) -> JobRecord:
        """The job as it is once it has ended, the time is up, or `still_there` says that nobody waits any more.

        Raises NotFound for a job that does not exist (any more).
        """
        deadline = time.monotonic() + timeout_seconds
        with self._counters.waiting_answers.track_inprogress(), self.listen(job_id) as mailbox:
            record = self._jobs.read(job_id)
            while not record.ended and still_there() and (left := deadline - time.monotonic()) > 0:
                if mailbox.get(min(left, GLANCE_SECONDS)) is Look.AGAIN:
                    record = self.look_again(record)
        return record

    def look_again(self, record: JobRecord) -> JobRecord:
        """The job as it is now; while Redis is away, as it was: it has been accepted, and its waiter stays."""
        try:
            return self._jobs.read(record.id)
        except RedisError as error:
            log.warning("job %s cannot be read, trying again: %s", record.id, error)
            return record

    @contextmanager
    def stream(self, job_id: str) -> Iterator[Mailbox]:
        """As `listen`, for a client that is sent what comes."""
        with self._counters.open_streams.track_inprogress(), self.listen(job_id) as mailbox:
            yield mailbox

    @contextmanager
    def listen(self, job_id: str) -> Iterator[Mailbox]:
        """A mailbox for a job's deltas and end. Look at the job once after registering: mail from before is lost."""
        mailbox = Mailbox()
        with self._lock:
            self._mailboxes.setdefault(job_id, []).append(mailbox)
            if self._subscriber is None:
                self._subscriber = threading.Thread(target=self._subscribe, name="waiting", daemon=True)
                self._subscriber.start()
        try:
            yield mailbox
        finally:
            with self._lock:
                self._mailboxes[job_id].remove(mailbox)
                if not self._mailboxes[job_id]:
                    del self._mailboxes[job_id]

    def drain(self) -> None:
        """The server is about to stop: long polls are answered now. Calls and streams in flight go on."""
        self.draining = True
        self._wake_all()

    def _subscribe(self) -> None:
        broken = False
        while True:
            try:
                with self._redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(keys.ENDED_CHANNEL, keys.DELTA_CHANNEL)
                    if broken:
                        log.warning("the subscription to Redis is back")
                    broken = False
                    while True:
                        self._dispatch(subscription.get_message(timeout=RECHECK_SECONDS))
            except RedisError as error:
                if not broken:  # said once, however long Redis is away
                    log.warning("the subscription to Redis broke, trying again: %s", error)
                broken = True
            time.sleep(RECONNECT_SECONDS)

    def _dispatch(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        if message["type"] == "subscribe":
            self._wake_all()  # what was published before is lost
            return
        try:
            if message["channel"] == keys.ENDED_CHANNEL.encode():
                for job_id in _ENDED.validate_json(message["data"]):
                    self._deliver(job_id, Look.AGAIN)
            else:
                for job_id, choice, offset, text in _DELTAS.validate_json(message["data"]):
                    self._deliver(job_id, Delta(choice, offset, text))
        except ValidationError as error:
            log.warning("skipped a message that is not ours on %s: %s", message["channel"], one_line(describe(error)))

    def _deliver(self, job_id: str, mail: Delta | Look) -> None:
        with self._lock:
            for mailbox in self._mailboxes.get(job_id, ()):
                mailbox.put(mail)

    def _wake_all(self) -> None:
        with self._lock:
            for mailbox in [each for several in self._mailboxes.values() for each in several]:
                mailbox.put(Look.AGAIN)

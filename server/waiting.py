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
from collections.abc import Callable, Iterator, Sequence
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


class Mail(NamedTuple):
    """What is told of one of the jobs that somebody waits for; `place` is the job's among theirs."""

    place: int
    news: Delta | Look


_ENDED = TypeAdapter(Annotated[list[str], Field(fail_fast=True)])
_DELTAS = TypeAdapter(Annotated[list[tuple[str, Count, Count, str]], Field(fail_fast=True)])


class Mailbox:
    """What one waiting request is told of its jobs."""

    def __init__(self, places: int = 1) -> None:
        self._mail: queue.SimpleQueue[Mail] = queue.SimpleQueue()
        self._places = places
        self._look_at = time.monotonic() + RECHECK_SECONDS

    def put(self, mail: Mail) -> None:
        self._mail.put(mail)

    def look_again(self) -> None:
        """At all of the jobs."""
        for place in range(self._places):
            self.put(Mail(place, Look.AGAIN))

    def get(self, timeout_seconds: float) -> Mail | None:
        """The next mail, or None if none came in time. Looking again is due after some silence, too."""
        try:
            mail = self._mail.get(timeout=timeout_seconds)
        except queue.Empty:
            if time.monotonic() < self._look_at:
                return None
            self.look_again()
            mail = self._mail.get()
        self._look_at = time.monotonic() + RECHECK_SECONDS
        return mail


class Waiting:
    """Knows who waits for which job. The subscription begins with the first who waits."""

    def __init__(self, connection: Redis, jobs: JobQueue, counters: RequestCounters) -> None:
        self._redis = connection
        self._counters = counters
        self._jobs = jobs
        self._lock = threading.Lock()
        # Job id -> those who wait for it, each with the job's place among theirs; never an empty list.
        self._mailboxes: dict[str, list[tuple[Mailbox, int]]] = {}
        self._subscriber: threading.Thread | None = None
        self.draining = False

    def wait_ended(self, job_id: str, timeout_seconds: float, still_there: Callable[[], bool]) -> JobRecord:
        """The job as it is once it has ended, the time is up, or `still_there` says that nobody waits any more.

        Raises NotFound for a job that does not exist (any more).
        """
        (record,) = self.wait_all_ended([job_id], timeout_seconds, still_there)
        return record

    def wait_all_ended(
        self, job_ids: Sequence[str], timeout_seconds: float, still_there: Callable[[], bool]
    ) -> list[JobRecord]:
        """As `wait_ended`, for several jobs: all have ended then, or one of them has failed.

        Raises NotFound for a job that does not exist (any more).
        """
        deadline = time.monotonic() + timeout_seconds
        with self._counters.waiting_answers.track_inprogress(), self.listen(*job_ids) as mailbox:
            records = list(map(self._jobs.read, job_ids))
            while _goes_on(records) and still_there() and (left := deadline - time.monotonic()) > 0:
                mail = mailbox.get(min(left, GLANCE_SECONDS))
                if mail is not None and mail.news is Look.AGAIN and not records[mail.place].ended:
                    records[mail.place] = self.look_again(records[mail.place])
        return records

    def look_again(self, record: JobRecord) -> JobRecord:
        """The job as it is now; while Redis is away, as it was: it has been accepted, and its waiter stays."""
        try:
            return self._jobs.read(record.id)
        except RedisError as error:
            log.warning("job %s cannot be read, trying again: %s", record.id, error)
            return record

    @contextmanager
    def stream(self, *job_ids: str) -> Iterator[Mailbox]:
        """As `listen`, for a client that is sent what comes."""
        with self._counters.open_streams.track_inprogress(), self.listen(*job_ids) as mailbox:
            yield mailbox

    @contextmanager
    def listen(self, *job_ids: str) -> Iterator[Mailbox]:
        """A mailbox for the deltas and ends of jobs. Look at each once after registering: mail from before is lost."""
        mailbox = Mailbox(len(job_ids))
        with self._lock:
            for place, job_id in enumerate(job_ids):
                self._mailboxes.setdefault(job_id, []).append((mailbox, place))
            if self._subscriber is None:
                self._subscriber = threading.Thread(target=self._subscribe, name="waiting", daemon=True)
                self._subscriber.start()
        try:
            yield mailbox
        finally:
            with self._lock:
                for place, job_id in enumerate(job_ids):
                    self._mailboxes[job_id].remove((mailbox, place))
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

    def _deliver(self, job_id: str, news: Delta | Look) -> None:
        with self._lock:
            for mailbox, place in self._mailboxes.get(job_id, ()):
                mailbox.put(Mail(place, news))

    def _wake_all(self) -> None:
        with self._lock:
            for mailbox in {mailbox for several in self._mailboxes.values() for mailbox, _ in several}:
                mailbox.look_again()


def _goes_on(records: list[JobRecord]) -> bool:
    """Whether some jobs have not ended, and all others have succeeded."""
    ended = [record for record in records if record.ended]
    return len(ended) < len(records) and all(record.status == "succeeded" for record in ended)

"""Waiting for jobs: one Redis subscription per server process, however many requests wait.

Pub/sub may lose messages (a reconnect, a stock worker that publishes nothing), so a message is only a hint: whoever
waits looks at the job itself after registering, unless it is put on its queue after that, every few seconds, and after
each reconnect. Jobs that have ended are read for all who wait for them, many in one round trip.
"""

from __future__ import annotations

import enum
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from redis import Redis, RedisError

from contracts import keys
from contracts.enqueue import MOST_AT_ONCE
from contracts.errors import one_line
from contracts.jobs import JobQueue, JobRecord
from contracts.requests import Count, Request, describe
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
    """What is told of one of the jobs that somebody waits for; `place` is the job's among theirs. A record is that of a
    job that has ended."""

    place: int
    news: Delta | JobRecord | Look


_ENDED = TypeAdapter(Annotated[list[str], Field(fail_fast=True)])
_DELTAS = TypeAdapter(Annotated[list[tuple[str, Count, Count, str]], Field(fail_fast=True)])


class Mailbox:
    """What one waiting request is told of its jobs."""

    def __init__(self, places: int = 1) -> None:
        self._mail: queue.SimpleQueue[Mail] = queue.SimpleQueue()
        self._places = places
        self.records: list[JobRecord] = []  # the jobs as they were last seen, once they were
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
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()  # jobs that somebody waits for, still to be read
        self._begun = False
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
        with self.answer(*job_ids) as mailbox:
            return self.until_ended(mailbox, list(map(self._jobs.read, job_ids)), timeout_seconds, still_there)

    def until_ended(
        self, mailbox: Mailbox, records: list[JobRecord], timeout_seconds: float, still_there: Callable[[], bool]
    ) -> list[JobRecord]:
        """As `wait_all_ended`, for the jobs of this mailbox. `records` are as they were when it was made, or later."""
        mailbox.records = records
        deadline = time.monotonic() + timeout_seconds
        while _goes_on(records) and still_there() and (left := deadline - time.monotonic()) > 0:
            mail = mailbox.get(min(left, GLANCE_SECONDS))
            if mail is None or isinstance(mail.news, Delta) or records[mail.place].ended:
                continue
            records[mail.place] = self.read(mail.news, records[mail.place])
        return records

    def read(self, news: JobRecord | Look, record: JobRecord) -> JobRecord:
        """The job of this record after these news; while Redis is away, as it was: it has been accepted, and its waiter
        stays."""
        if isinstance(news, JobRecord):
            return news
        try:
            return self._jobs.read(record.id)
        except RedisError as error:
            log.warning("job %s cannot be read, trying again: %s", record.id, error)
            return record

    @contextmanager
    def answer(self, *job_ids: str) -> Iterator[Mailbox]:
        """As `listen`, for a client that is sent an answer when all have ended."""
        with self._counters.waiting_answers.track_inprogress(), self.listen(*job_ids) as mailbox:
            yield mailbox

    @contextmanager
    def stream(self, *job_ids: str) -> Iterator[Mailbox]:
        """As `listen`, for a client that is sent what comes."""
        with self._counters.open_streams.track_inprogress(), self.listen(*job_ids) as mailbox:
            yield mailbox

    @contextmanager
    def listen(self, *job_ids: str) -> Iterator[Mailbox]:
        """A mailbox for the deltas and ends of jobs. Put them on their queue, or look at each once, after registering:
        mail from before is lost."""
        mailbox = Mailbox(len(job_ids))
        with self._lock:
            for place, job_id in enumerate(job_ids):
                self._mailboxes.setdefault(job_id, []).append((mailbox, place))
            if not self._begun:
                self._begun = True
                for name, work in {"waiting": self._subscribe, "reading": self._read_ended}.items():
                    threading.Thread(target=work, name=name, daemon=True).start()
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
                    if job_id in self._mailboxes:
                        self._ended.put(job_id)
            else:
                for job_id, choice, offset, text in _DELTAS.validate_json(message["data"]):
                    self._deliver(job_id, Delta(choice, offset, text))
        except ValidationError as error:
            log.warning("skipped a message that is not ours on %s: %s", message["channel"], one_line(describe(error)))

    def _read_ended(self) -> None:
        """While one round trip is under way the next jobs gather. Who gets no record from it looks at the job alone."""
        while True:
            job_ids = [self._ended.get()]
            while len(job_ids) < MOST_AT_ONCE and not self._ended.empty():
                job_ids.append(self._ended.get())
            try:
                found = self._jobs.read_all(job_ids, known=self._requests(job_ids))
                records = {record.id: record for record in found if record.ended}
            except Exception:  # whatever it is, whoever waits for the job that is to blame meets it
                records = {}
            for job_id in job_ids:
                self._deliver(job_id, records.get(job_id, Look.AGAIN))

    def _requests(self, job_ids: Iterable[str]) -> dict[str, Request]:
        """What these jobs were asked to do, as far as those who wait know it."""
        with self._lock:
            waiters = [waiter for job_id in job_ids for waiter in self._mailboxes.get(job_id, ())]
        seen = (mailbox.records[place] for mailbox, place in waiters if mailbox.records)
        return {record.id: record.request for record in seen}

    def _deliver(self, job_id: str, news: Delta | JobRecord | Look) -> None:
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

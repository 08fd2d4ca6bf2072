"""One batch on its way: from its file to its end, by the clerk that holds its lease.

A line is done when its answer is on disk; Redis is told later. So whoever begins anew knows from the files what is
done, and finds the jobs of the rest under the same ids as before: no line is answered twice, and none is forgotten.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice

from redis import RedisError

from contracts.enqueue import MOST_AT_ONCE, Accepted
from contracts.errors import KamishibaiError, NotFound
from contracts.jobs import JobQueue, JobRecord
from contracts.keys import owner as owner_name
from contracts.logs import REQUESTS
from contracts.orders import Order, OrderLimits
from contracts.settings import Settings
from server.batch_folder import BatchFolder, FolderInUse
from server.batch_lines import Answer, FileCheck, Line, Stop, failure, parse_line, raw_lines, stopped
from server.batch_requests import BatchRequests, job_id_of
from server.batches import OPEN, Batches, BatchFault, BatchRecord, BatchStatus, Beat, Outcome
from server.files import FileStore
from server.ids import new_id

ROUND_SECONDS = 0.5
BEAT_SECONDS = 0.5  # between two looks at a batch's status and time, however often they are asked for
MOST_UNWRITTEN_BYTES = 4 << 20  # of answers in memory

log = logging.getLogger(REQUESTS)


class LeftAlone(Exception):
    """Another clerk has the batch now, or this one is to stop."""


@dataclass(frozen=True)
class Desk:
    """What clerks work with."""

    settings: Settings
    batches: Batches
    files: FileStore
    jobs: JobQueue
    requests: BatchRequests
    rest: Callable[[float], bool]  # waits for so many seconds; true, and at once, when the clerk is to stop


class BatchRun:
    """Not to be used again once it has raised."""

    def __init__(self, desk: Desk, batch_id: str) -> None:
        self._desk = desk
        self._id = batch_id
        self._token = secrets.token_hex(8)
        self._folder = BatchFolder(desk.files.batch_folder(batch_id), batch_id)
        self._beat: Beat
        self._beat_at = float("-inf")  # monotonic seconds
        self._unread: Iterator[Line]  # lines that have no answer and no job in flight
        self._in_flight: dict[str, Line] = {}  # by job id, without their bodies
        self._answers = _Answers()

    def carry_out(self) -> None:
        """To its end, unless another clerk has it or this one is to stop.

        Raises redis.RedisError, OSError and StorageFull; then begin anew after a while.
        """
        with suppress(LeftAlone, FolderInUse):
            try:
                self._look()
                with self._folder.opened():
                    self._go_on(self._desk.batches.read(self._id))
                self._folder.remove()
            finally:
                with suppress(RedisError):
                    self._desk.batches.release(self._id, self._token)

    def _go_on(self, record: BatchRecord) -> None:
        """From wherever it is to its end."""
        try:
            if not record.total and record.outcome is None and not record.ended:
                record = self._check_input(record)
            if record.outcome is None and not record.ended:
                record = self._settle(record, self._run(record))
            if not record.ended:
                self._publish(record)
        except FileNotFoundError:
            fault = BatchFault(code="file_not_found", message="The batch's file is not there any more.")
            self._change(record, OPEN, status="failed", errors=_json([fault]))

    def _look(self) -> Beat:
        """Renew the lease, and see how the batch is now. Raises LeftAlone."""
        if time.monotonic() - self._beat_at >= BEAT_SECONDS:
            counts = len(self._folder.completed), len(self._folder.failed)
            beat = self._desk.batches.beat(self._id, self._token, *counts)
            if beat is None or self._desk.rest(0):
                raise LeftAlone
            self._beat, self._beat_at = beat, time.monotonic()
        return self._beat

    # Before the first line runs

    def _check_input(self, record: BatchRecord) -> BatchRecord:
        """The batch in progress, or failed for its faults, or, where it was to be cancelled meanwhile, that."""
        self._take_input(record)
        check = FileCheck(record.endpoint, self._desk.settings.max_body_bytes)
        for raw in raw_lines(self._folder.input, self._desk.settings.max_body_bytes):
            check.look_at(raw)
            self._look()
            if check.enough:
                break
        check.end()
        if not check.faults:
            if not self._change_if(record, ("validating",), status="in_progress", total=check.total):
                self._change(record, ("cancelling",), total=check.total)
        elif not self._change_if(record, ("validating",), status="failed", errors=_json(check.faults)):
            self._change(record, ("cancelling",), outcome="cancelled")
        return self._desk.batches.read(self._id)

    def _take_input(self, record: BatchRecord) -> None:
        """Raises FileNotFoundError."""
        files = self._desk.files
        if not self._folder.input.exists():
            try:
                self._folder.take_input(files.path_of(files.find(record.input_file_id, None)))
            except NotFound as error:
                raise FileNotFoundError(error.message) from None

    # Lines

    def _run(self, record: BatchRecord) -> Outcome:
        """All lines have their answers when this returns."""
        self._unread = self._open_lines(record)
        while True:
            beat = self._look()
            if beat.status == "cancelling":
                self._stop(record, "batch_cancelled")
                return "cancelled"
            if len(self._folder.completed) + len(self._folder.failed) == record.total:
                return "completed"
            if beat.now >= record.expires_at:
                self._stop(record, "batch_expired")
                return "expired"
            ended = self._collect(record)
            self._fill(record)
            if ended < self._desk.settings.batch_jobs // 2:  # else the jobs are faster than our rounds
                self._desk.rest(ROUND_SECONDS)

    def _open_lines(self, record: BatchRecord) -> Iterator[Line]:
        """Lines that nobody has answered and no job in flight is for, from the file's beginning."""
        most_bytes = self._desk.settings.max_body_bytes
        for raw in raw_lines(self._folder.input, most_bytes):
            if not self._folder.done(raw.number) and job_id_of(self._id, raw.number) not in self._in_flight:
                yield parse_line(raw, record.endpoint, most_bytes)

    def _collect(self, record: BatchRecord) -> int:
        """Write the answers of jobs that have ended; how many those were. What has vanished is asked for again."""
        job_ids = list(self._in_flight)
        gone = 0
        ended = 0
        for job_id, has_ended in zip(job_ids, self._desk.jobs.ended(job_ids), strict=True):
            self._look()
            if has_ended is False:
                continue
            line = self._in_flight.pop(job_id)
            if has_ended and (answer := self._answer_of(line, job_id)):
                ended += 1
                self._add(*answer)
            else:
                gone += 1
        self._write()
        if gone:
            self._unread = self._open_lines(record)
        return ended

    def _answer_of(self, line: Line, job_id: str) -> tuple[Answer, JobRecord] | None:
        """None if the job is past its lifetime, or what it has made is."""
        try:
            record = self._desk.jobs.read(job_id)
        except NotFound:
            return None
        try:
            return self._desk.requests.answer(self._id, line, record), record
        except NotFound:
            self._desk.jobs.delete(record)
            return None

    def _fill(self, record: BatchRecord) -> None:
        """Put the next lines on the queue, as many as may be in flight."""
        while (room := self._desk.settings.batch_jobs - len(self._in_flight)) > 0:
            lines = list(islice(self._unread, min(room, MOST_AT_ONCE)))
            left = self._ask_all(record, lines)
            self._unread = chain(left, self._unread)
            if left or not lines:
                break
        self._write()

    def _ask_all(self, record: BatchRecord, lines: list[Line]) -> list[Line]:
        """Those that have to wait."""
        job_ids = [job_id_of(self._id, line.number) for line in lines]
        asked: list[tuple[Line, Order]] = []
        later: list[Line] = []
        for line, job_id, known in zip(lines, job_ids, self._desk.jobs.ended(job_ids), strict=True):
            self._look()
            if known is not None:  # a clerk before this one has asked for it
                self._in_flight[job_id] = line._replace(body={})
                continue
            try:
                asked.append((line, self._order(record, line, job_id)))
            except KamishibaiError as error:
                self._refuse(line, job_id, error, later)
        for (line, order), outcome in zip(asked, self._enqueue([order for _, order in asked], record), strict=True):
            if isinstance(outcome, Accepted):
                self._in_flight[order.job_id] = line._replace(body={})
            else:
                self._refuse(line, order.job_id, outcome, later)
        return later

    def _refuse(self, line: Line, job_id: str, error: KamishibaiError, later: list[Line]) -> None:
        """A line that cannot be enqueued waits, or has its answer."""
        if error.retryable:
            later.append(line)
        else:
            self._add(failure(self._id, line, job_id, error))

    def _order(self, record: BatchRecord, line: Line, job_id: str) -> Order:
        """Raises the KamishibaiErrors of the live route."""
        return Order(
            request=self._desk.requests.request(record.endpoint, self._id, line),
            result_seconds=self._desk.settings.job_result_seconds,
            timeout_seconds=self._desk.settings.job_timeout_seconds,
            job_id=job_id,
            priority="low",
            owner=record.owner,
            request_id=job_id,
        )

    def _enqueue(self, orders: list[Order], record: BatchRecord) -> list[Accepted | KamishibaiError]:
        """What becomes of each. A batch takes no more than half of what a model's queue may hold."""
        settings = self._desk.settings
        limits = OrderLimits(
            queued_jobs=max(1, settings.max_queued_jobs // 2),
            queued_work=max(1, settings.max_queued_work // 2),
            queued_bytes=max(1, settings.max_queued_bytes // 2),
            jobs_per_minute=record.jobs_per_minute,
            unfinished_jobs=record.unfinished_jobs,
        )
        return self._desk.jobs.enqueue(orders, limits)

    def _stop(self, record: BatchRecord, why: Stop) -> None:
        """Answer every line that is left; jobs that still wait or run are cancelled."""
        self._in_flight.clear()
        lines = self._open_lines(record)
        while some := list(islice(lines, MOST_AT_ONCE)):
            job_ids = [job_id_of(self._id, line.number) for line in some]
            for line, job_id, known in zip(some, job_ids, self._desk.jobs.ended(job_ids), strict=True):
                self._look()
                last = None if known is None else self._last_answer_of(line, job_id)
                self._add(*(last or (stopped(self._id, line, why),)))
        self._write()

    def _last_answer_of(self, line: Line, job_id: str) -> tuple[Answer, JobRecord] | None:
        """That of a job which had ended; None where it is cancelled now."""
        with suppress(NotFound):
            self._desk.jobs.cancel(job_id)
        answer = self._answer_of(line, job_id)
        return None if answer is None or answer[1].status == "cancelled" else answer

    def _add(self, answer: Answer, record: JobRecord | None = None) -> None:
        self._answers.add(answer, record)
        if self._answers.enough:
            self._write()

    def _write(self) -> None:
        answers, self._answers = self._answers, _Answers()
        self._folder.write(answers.written)
        # Their results are on disk now.
        self._desk.jobs.shorten(answers.records, self._desk.settings.sync_result_seconds)

    # When all lines have their answers

    def _settle(self, record: BatchRecord, outcome: Outcome) -> BatchRecord:
        """Fix how it ends, and under which ids its files can be had: whoever begins anew makes the same ones."""
        counts = {"completed": len(self._folder.completed), "failed": len(self._folder.failed)}
        fields: dict[str, str | int | None] = {
            **counts,
            "output_file_id": new_id("file-") if counts["completed"] else None,
            "error_file_id": new_id("file-") if counts["failed"] else None,
        }
        if outcome != "completed":
            self._change(record, ("in_progress", "cancelling"), outcome=outcome, **fields)
        elif not self._change_if(record, ("in_progress",), status="finalizing", outcome=outcome, **fields):
            self._change(record, ("cancelling",), outcome="cancelled", **fields)
        return self._desk.batches.read(self._id)

    def _publish(self, record: BatchRecord) -> None:
        """Its owner can read the files, and then sees that it has ended."""
        made = (
            (record.output_file_id, self._folder.output, "output"),
            (record.error_file_id, self._folder.errors, "error"),
        )
        for file_id, content, kind in made:
            if file_id is not None:
                name, owner = f"{self._id}_{kind}.jsonl", owner_name(record.owner)
                seconds = record.output_seconds
                self._desk.files.keep(content, owner, name, "batch_output", seconds=seconds, file_id=file_id)
        self._change(record, OPEN, status=record.outcome)
        log.info("%s: %s, %d lines completed, %d failed", self._id, record.outcome, record.completed, record.failed)

    def _change_if(self, record: BatchRecord, expected: tuple[BatchStatus, ...], **fields: str | int | None) -> bool:
        return self._desk.batches.change(record, self._token, expected=expected, **fields)

    def _change(self, record: BatchRecord, expected: tuple[BatchStatus, ...], **fields: str | int | None) -> None:
        """Raises LeftAlone where it cannot be."""
        if not self._change_if(record, expected, **fields):
            raise LeftAlone


class _Answers:
    """Those that are to be written, and the jobs that have given them."""

    def __init__(self) -> None:
        self.written: list[Answer] = []
        self.records: list[JobRecord] = []
        self._bytes = 0

    def add(self, answer: Answer, record: JobRecord | None) -> None:
        self.written.append(answer)
        self._bytes += len(answer.written)
        if record is not None:
            self.records.append(record)

    @property
    def enough(self) -> bool:
        return len(self.written) >= MOST_AT_ONCE or self._bytes >= MOST_UNWRITTEN_BYTES


def _json(faults: list[BatchFault]) -> str:
    return json.dumps([fault.model_dump() for fault in faults])

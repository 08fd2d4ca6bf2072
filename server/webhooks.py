"""Webhooks: word of ended jobs to their makers' URLs, signed as Standard Webhooks says (standardwebhooks.com).

Part of the clerk. A webhook is sent at least once: where a clerk dies after sending and before noting it, another sends
it again, under the same id.
"""

from __future__ import annotations

import json
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import NamedTuple
from urllib.parse import urlsplit

from redis import RedisError

from contracts.errors import KamishibaiError, NotFound
from contracts.jobs import JobQueue, JobRecord
from contracts.requests import ImageRequest
from server.responses import job_body, job_summary
from server.webhook_addresses import AddressRefused, WebhookAddresses
from server.webhook_post import PostFailed, post
from server.webhook_queue import CLAIM_SECONDS, MOST_CLAIMED, Claim, WebhookQueue
from server.webhook_secrets import WebhookSecrets, signature

RETRY_SECONDS = (5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600)  # after each failure; after one more it is given up
POST_SECONDS = 10.0
MOST_AT_ONCE = 64
MOST_AT_ONCE_PER_HOST = 8
MOST_AT_ONCE_PER_OWNER = 32
MOST_WAITING = 4096
MOST_WAITING_PER_HOST = 256
OVERFLOW_SECONDS = 300  # before a webhook is looked at again for whose host too many wait
CLAIM_EVERY_SECONDS = 0.5
_GONE = 410

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """A webhook that waits for its turn in this process."""

    claim: Claim
    url: str
    owner: str | None
    claimed_at: float  # monotonic seconds

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.lower()

    @property
    def lanes(self) -> tuple[tuple[str, int], ...]:
        """What it counts as while it runs, and how many of that may run at once."""
        return (
            ("all", MOST_AT_ONCE),
            (f"host {self.host}", MOST_AT_ONCE_PER_HOST),
            (f"owner {self.owner}", MOST_AT_ONCE_PER_OWNER),
        )

    @property
    def stale(self) -> bool:
        """So old that another clerk may take it before it has been sent."""
        return time.monotonic() - self.claimed_at > CLAIM_SECONDS - 2 * POST_SECONDS


class Attempt(NamedTuple):
    """How one has ended."""

    reason: str
    delivered: bool
    wanted: bool  # False: the receiver wants no more of it


class WebhookSender:
    """Takes what is due and sends it, each in a thread of its own. No host and no owner gets all of them."""

    def __init__(
        self, queue: WebhookQueue, jobs: JobQueue, secrets: WebhookSecrets, addresses: WebhookAddresses
    ) -> None:
        self._queue = queue
        self._jobs = jobs
        self._secrets = secrets
        self._addresses = addresses
        self._tls = ssl.create_default_context()
        self._waiting: list[Delivery] = []
        self._running: Counter[str] = Counter()  # deliveries by host and by owner, and `all` of them
        self._ended: SimpleQueue[Delivery] = SimpleQueue()
        self._claim_at = 0.0  # monotonic seconds
        self._broken = False

    def run(self, stopping: Callable[[], bool]) -> None:
        """Until `stopping` says so; what has not been sent then is another clerk's after a while."""
        with ThreadPoolExecutor(MOST_AT_ONCE, "webhook") as threads:
            while not stopping():
                try:
                    self._take_if_due()
                    self._broken = False
                except RedisError as error:
                    if not self._broken:  # said once, however long Redis is away
                        log.warning("webhooks wait, for Redis does not answer: %s", error)
                    self._broken = True
                self._start(threads)
                self._note_ended()

    def _take_if_due(self) -> None:
        """Claim what is due, as far as there is room for it."""
        now = time.monotonic()
        if now < self._claim_at or len(self._waiting) >= MOST_WAITING:
            return
        claims = self._queue.claim(MOST_CLAIMED)
        if len(claims) < MOST_CLAIMED:
            self._claim_at = now + CLAIM_EVERY_SECONDS
        records = {record.id: record for record in self._jobs.read_all([claim.job_id for claim in claims])}
        waiting = Counter(delivery.host for delivery in self._waiting)
        for claim in claims:
            record = records.get(claim.job_id)
            if record is None or record.meta.webhook is None or not record.ended:
                self._give_up(claim.job_id, "its job is not there any more")
                continue
            delivery = Delivery(claim, record.meta.webhook, record.meta.owner, now)
            waiting[delivery.host] += 1
            if waiting[delivery.host] > MOST_WAITING_PER_HOST:
                self._queue.defer(claim.job_id, OVERFLOW_SECONDS * _about_one())
            else:
                self._waiting.append(delivery)

    def _start(self, threads: ThreadPoolExecutor) -> None:
        """Whatever has its turn. What has waited for so long that it may be another clerk's is forgotten here."""
        waiting, self._waiting = self._waiting, []
        for delivery in waiting:
            if delivery.stale:
                continue
            if all(self._running[lane] < most for lane, most in delivery.lanes):
                self._running.update(lane for lane, _ in delivery.lanes)
                threads.submit(self._carry_out, delivery)
            else:
                self._waiting.append(delivery)

    def _note_ended(self) -> None:
        """Waits for a moment while nothing ends."""
        with suppress(Empty):
            delivery = self._ended.get(timeout=CLAIM_EVERY_SECONDS)
            while True:
                self._running.subtract(lane for lane, _ in delivery.lanes)
                self._running = +self._running  # without those of which there are none
                delivery = self._ended.get_nowait()

    def _carry_out(self, delivery: Delivery) -> None:
        job_id = delivery.claim.job_id
        try:
            self._deliver(delivery)
        except RedisError as error:
            log.warning("the webhook of job %s may be sent again, for Redis does not answer: %s", job_id, error)
        except Exception:
            log.exception("the webhook of job %s failed in a way that nobody foresaw", job_id)
        finally:
            self._ended.put(delivery)

    def _deliver(self, delivery: Delivery) -> None:
        """One attempt, and what follows from it."""
        job_id, attempts = delivery.claim
        try:
            reason, delivered, wanted = self._attempt(delivery)
        except NotFound:
            self._give_up(job_id, "its job is not there any more")
        except AddressRefused as error:
            self._give_up(job_id, str(error))
        else:
            if delivered:
                self._queue.end(job_id, "delivered")
            elif not wanted or attempts >= len(RETRY_SECONDS):
                self._give_up(job_id, f"after {attempts + 1} attempts: {reason}")
            else:
                self._queue.retry(job_id, RETRY_SECONDS[attempts] * _about_one())

    def _attempt(self, delivery: Delivery) -> Attempt:
        """Raises NotFound, AddressRefused and redis.RedisError."""
        record = self._jobs.read(delivery.claim.job_id)
        body = message_of(record, self._jobs)
        try:
            destination = self._addresses.resolve(delivery.url)
            status = post(destination, self._headers(record, body), body, self._tls, POST_SECONDS)
        except (OSError, PostFailed) as error:
            return Attempt(str(error), delivered=False, wanted=True)
        return Attempt(f"it answered {status}", delivered=200 <= status < 300, wanted=status != _GONE)

    def _headers(self, record: JobRecord, body: bytes) -> dict[str, str]:
        """The id is the same at every attempt, the time is that of this one."""
        message_id, timestamp = f"msg_{record.id}", str(int(time.time()))
        return {
            "Content-Type": "application/json",
            "User-Agent": "Kamishibai",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(self._secrets.read(record.meta.owner), message_id, timestamp, body),
        }

    def _give_up(self, job_id: str, reason: str) -> None:
        self._queue.end(job_id, "dropped")
        log.warning("the webhook of a job is given up: %s", reason, extra={"job_id": job_id})


def message_of(record: JobRecord, jobs: JobQueue) -> bytes:
    """What a webhook's receiver reads of an ended job. Pictures are left to `GET /v1/jobs/<id>`."""
    try:
        data = job_summary(record) if isinstance(record.request, ImageRequest) else job_body(record, jobs)
    except KamishibaiError:
        data = job_summary(record)  # its result cannot be read
    ended_at = datetime.fromtimestamp(record.ended_at or time.time(), UTC)
    timestamp = ended_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": f"job.{record.status}", "timestamp": timestamp, "data": data}).encode()


def _about_one() -> float:
    return random.uniform(0.9, 1.1)  # noqa: S311 - so that what failed together does not come back together

"""Compares versions under traffic: hears of jobs that have ended, runs a share of them again on a candidate, and sums
up how the two differ.

A live job has ended before its copy is made, so that nothing that its client sees can change. One clerk at a time does
this. It knows the copies that are under way by heart only: those of a clerk that dies end by themselves and are missing
in the sums. The divergence is measured on what the live version wrote, which both versions then score token by token
(`server/divergence.py`); on the live one only while nothing waits for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from redis import Redis, RedisError

from contracts import keys
from contracts.enqueue import Accepted
from contracts.errors import InvalidRequest, KamishibaiError, NewerRequest, NotFound, NotReady
from contracts.jobs import JobQueue, JobRecord
from contracts.orders import Order, OrderLimits
from contracts.requests import ImageRequest, Request, Target, TextRequest
from contracts.results import ClassifyResult, ImageResult, Logprobs, Result, TextResult
from contracts.settings import Settings
from contracts.shadows import COPY_OWNER, COPY_PREFIX, Shadow, Shadows
from server.catalogue import Catalogue, CatalogueEntry
from server.divergence import divergences
from server.shadow_compare import (
    compare_labels,
    compare_pictures,
    compare_texts,
    copy_for,
    same_tokens,
    scored_tokens,
    scoring,
    units,
)

LOOK_SECONDS = 0.5
LEASE_SECONDS = 5
MOST_OPEN = 32  # comparisons at once
MOST_WAITING = 16  # jobs in the candidate's queues; beyond that copies are dropped
WAIT_SECONDS = 30.0  # that a copy may wait; it may then run several times as long as the live one did
SLOWER = 10.0
RESULT_SECONDS = 120  # that copies are kept

log = logging.getLogger(__name__)


@dataclass
class _Pair:
    """A live job that has ended, and the jobs that are to end for it."""

    shadow: Shadow
    request: Request
    result: Result
    pictures: list[str]  # of the live one: its files may be gone later
    run_seconds: float
    wait_seconds: float
    waits_for: list[str]
    stage: Literal["copy", "scores"] = "copy"
    begun_at: float = field(default_factory=time.monotonic)


class Shadowing:
    def __init__(self, settings: Settings, connection: Redis, jobs: JobQueue, catalogue: Catalogue) -> None:
        self._redis = connection
        self._jobs = jobs
        self._catalogue = catalogue
        self._shadows = Shadows(connection)
        self._timeout_seconds = settings.job_timeout_seconds
        self._token = uuid.uuid4().hex
        self._running: dict[str, Shadow] = {}
        self._open: dict[str, _Pair] = {}  # by the id of the live job
        self._quiet: set[Target] = set()  # live versions for which nothing waited at the last look

    def run(self, stopped: Callable[[], bool], rest: Callable[[float], Any]) -> None:
        """Until `stopped()`; `rest` waits, but not beyond that."""
        broken = False
        while not stopped():
            try:
                self._look()
                if self._running:
                    self._follow(stopped)
                broken = False
            except RedisError as error:
                if not broken:  # said once, however long it lasts
                    log.warning("versions cannot be compared, trying again: %s", error)
                broken = True
            except Exception:
                log.exception("a comparison failed in a way that nobody foresaw; those under way are given up")
                self._open.clear()
            rest(2 * LOOK_SECONDS)
        self._give_up(list(self._open))

    def _follow(self, stopped: Callable[[], bool]) -> None:
        """While something is to be compared."""
        with self._redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(keys.ENDED_CHANNEL)
            looked_at = time.monotonic()
            while self._running and not stopped():
                message = subscription.get_message(ignore_subscribe_messages=True, timeout=LOOK_SECONDS)
                if message is not None:
                    self._draw(_ids(message["data"]))
                if time.monotonic() - looked_at >= LOOK_SECONDS:
                    self._look()
                    looked_at = time.monotonic()

    def _look(self) -> None:
        """At what is to be compared, and at the copies."""
        running = self._shadows.running()
        self._running = running if running and self._is_mine() else {}
        over = [job_id for job_id, pair in self._open.items() if pair.shadow not in self._running.values()]
        self._give_up(over)
        self._look_at_copies()

    def _is_mine(self) -> bool:
        """Whether this clerk compares, as it does from when no other one does."""
        token = self._token.encode()
        if self._redis.set(keys.SHADOWING, self._token, nx=True, ex=LEASE_SECONDS):
            return True
        return self._redis.get(keys.SHADOWING) == token and bool(self._redis.expire(keys.SHADOWING, LEASE_SECONDS))

    # Live jobs

    def _draw(self, job_ids: list[str]) -> None:
        candidates = [
            (job_id, shadow)
            for job_id in job_ids
            if not job_id.startswith(COPY_PREFIX)
            for shadow in self._running.values()
            if shadow.draws(job_id)
        ]
        targets = self._jobs.targets(list(dict.fromkeys(job_id for job_id, _ in candidates)))
        for job_id, shadow in candidates:
            if targets.get(job_id) == shadow.live and job_id not in self._open:
                self._begin(job_id, shadow)

    def _begin(self, job_id: str, shadow: Shadow) -> None:
        """Put the copy of a live job on its queue, if there is room for it."""
        if len(self._open) >= MOST_OPEN:
            self._shadows.add(shadow, drawn=1, dropped=1)
            return
        try:
            live = self._jobs.read(job_id)
        except (NotFound, NewerRequest):
            return
        if live.result is None:
            if live.status == "failed" and not isinstance(live.error, InvalidRequest):
                self._shadows.add(shadow, drawn=1, live_failed=1)
            return
        pair = self._copy(live, live.result, shadow)
        self._shadows.add(shadow, drawn=1, dropped=int(pair is None))
        if pair is not None:
            self._open[job_id] = pair

    def _copy(self, live: JobRecord, result: Result, shadow: Shadow) -> _Pair | None:
        """None if it is dropped."""
        try:
            entries = self._entries(shadow)
            request = copy_for(live.request, *entries)
            pictures = self._jobs.pictures(result) if isinstance(result, ImageResult) else []
        except KamishibaiError:  # the candidate's worker is gone, or the pictures are
            return None
        run_seconds = max(0.0, (live.ended_at or 0.0) - (live.started_at or 0.0))
        wait_seconds = max(0.0, (live.started_at or 0.0) - live.created_at)
        if request is None or not (made := self._enqueue(live.id, run_seconds, copy=request)):
            return None
        return _Pair(shadow, live.request, result, pictures, run_seconds, wait_seconds, made)

    def _entries(self, shadow: Shadow) -> tuple[CatalogueEntry, CatalogueEntry]:
        """Raises NotReady for what no worker serves."""
        return self._catalogue.served(shadow.live), self._catalogue.served(shadow.candidate)

    def _enqueue(self, live_id: str, run_seconds: float, **requests: Request) -> list[str]:
        """The ids of the jobs of these requests, in their order; none if there is no room for one of them."""
        digest = hashlib.sha256(live_id.encode()).hexdigest()[:32]
        orders = [
            Order(
                request=request,
                job_id=f"{COPY_PREFIX}{digest}-{kind}",
                priority="low",
                owner=COPY_OWNER,
                result_seconds=RESULT_SECONDS,
                timeout_seconds=self._timeout_seconds,
                deadline=time.time() + WAIT_SECONDS + SLOWER * run_seconds,
                metadata={"shadow_of": live_id},
            )
            for kind, request in requests.items()
        ]
        outcomes = self._jobs.enqueue(orders, OrderLimits(queued_jobs=MOST_WAITING))
        if all(isinstance(outcome, Accepted) for outcome in outcomes):
            return [order.job_id for order in orders]
        self._cancel([order.job_id for order in orders])
        return []

    # Copies

    def _look_at_copies(self) -> None:
        lives = {pair.shadow.live for pair in self._open.values()}
        # Asked once, so that several texts that are compared at one look do not keep each other from being scored.
        self._quiet = {live for live in lives if not any(self._jobs.depth([*live.queues]))}
        for job_id, pair in list(self._open.items()):
            ended = self._jobs.ended(pair.waits_for)
            if None in ended or time.monotonic() - pair.begun_at > 2 * self._timeout_seconds:
                self._drop(job_id, pair)
            elif all(ended):
                self._end_stage(job_id, pair)

    def _end_stage(self, job_id: str, pair: _Pair) -> None:
        try:
            records = list(map(self._jobs.read, pair.waits_for))
        except (NotFound, NewerRequest):
            self._drop(job_id, pair)
            return
        if pair.stage == "scores":
            del self._open[job_id]
            self._add_divergence(pair, *(record.result for record in records))
        elif records[0].result is not None:
            self._compare(job_id, pair, records[0], records[0].result)
        elif records[0].status == "failed":
            del self._open[job_id]
            self._shadows.add(pair.shadow, candidate_failed=1)
        else:  # it waited too long, or somebody has cancelled it
            self._drop(job_id, pair)

    def _drop(self, job_id: str, pair: _Pair) -> None:
        self._cancel(pair.waits_for)
        del self._open[job_id]
        if pair.stage == "copy":
            self._shadows.add(pair.shadow, dropped=1)

    def _compare(self, job_id: str, pair: _Pair, copy: JobRecord, result: Result) -> None:
        del self._open[job_id]
        try:
            live, candidate = self._entries(pair.shadow)
            found = self._found(pair, result, live, candidate)
        except (NotReady, NotFound):
            self._shadows.add(pair.shadow, dropped=1)
            return
        self._shadows.add(
            pair.shadow,
            compared=1,
            **found,
            live_wait_seconds=pair.wait_seconds,
            live_run_seconds=pair.run_seconds,
            live_units=units(pair.result),
            candidate_wait_seconds=max(0.0, (copy.started_at or 0.0) - copy.created_at),
            candidate_run_seconds=max(0.0, (copy.ended_at or 0.0) - (copy.started_at or 0.0)),
            candidate_units=units(result),
        )
        if same_tokens(live, candidate):
            self._score(job_id, pair, live)

    def _found(self, pair: _Pair, result: Result, live: CatalogueEntry, candidate: CatalogueEntry) -> dict[str, float]:
        """Raises NotFound where the copy's pictures are gone."""
        match pair.request, pair.result, result:
            case TextRequest() as request, TextResult() as ours, TextResult() as theirs:
                return compare_texts(request, ours, theirs, live.tokenizer if same_tokens(live, candidate) else None)
            case ImageRequest() as request, _, ImageResult() as theirs:
                return compare_pictures(request, pair.pictures, self._jobs.pictures(theirs))
            case _, ClassifyResult() as ours, ClassifyResult() as theirs:
                return compare_labels(ours, theirs)
        raise NotFound("A result of another kind is none of this request's.")

    def _score(self, job_id: str, pair: _Pair, live: CatalogueEntry) -> None:
        """Have both versions score what the live one wrote, unless somebody waits for it."""
        if not (isinstance(pair.request, TextRequest) and isinstance(pair.result, TextResult)):
            return
        shadow = pair.shadow
        tokens = scored_tokens(pair.request, pair.result.choices[0], live)
        if not tokens or shadow.live not in self._quiet:
            return
        pair.waits_for = self._enqueue(
            job_id, pair.run_seconds, live=scoring(shadow.live, tokens), candidate=scoring(shadow.candidate, tokens)
        )
        if pair.waits_for:
            pair.stage, self._open[job_id] = "scores", pair

    def _add_divergence(self, pair: _Pair, live: Result | None, candidate: Result | None) -> None:
        """Of the tokens behind the prompt; nothing if either could not be scored."""
        scores = [result.choices[0].logprobs for result in (live, candidate) if isinstance(result, TextResult)]
        match pair.request, scores:
            case TextRequest() as request, [Logprobs() as ours, Logprobs() as theirs]:
                found = list(divergences(ours, theirs, begin=len(request.prompt_tokens)))
                self._shadows.add(
                    pair.shadow,
                    kl_tokens=len(found),
                    kl=sum(found),
                    kl_squares=sum(each * each for each in found),
                    largest_kl=max(found, default=0.0),
                )

    def _give_up(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            self._cancel(self._open.pop(job_id).waits_for)

    def _cancel(self, job_ids: Sequence[str]) -> None:
        """Those that are gone need nothing, and without Redis they end by themselves."""
        with suppress(RedisError):
            for job_id in job_ids:
                with suppress(NotFound):
                    self._jobs.cancel(job_id)


def _ids(data: bytes) -> list[str]:
    """What a message on the channel names; nothing for one that is not ours."""
    try:
        found = json.loads(data)
    except ValueError:
        return []
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []

"""The texts of a dump from a running server: as jobs of low priority, many at once, so that workers' batches are full
and whoever waits for an answer goes first."""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Any

from cli.api_answers import Bulk, Job, Made, Model, read
from cli.api_client import RETRY_SECONDS, ApiClient
from cli.dump_pace import Pace
from cli.dump_plan import Plan, PlannedText, WritingModel
from cli.dump_writer import Texts, Written
from contracts.errors import EngineFailed, InvalidRequest, KamishibaiError, NotFound, RateLimited
from contracts.store import split_name

BULK_BYTES = 4 << 20  # of a body with many jobs; a server takes 16 MiB unless it was told otherwise
WAIT_SECONDS = 10  # that the server holds back an answer until a job has ended
RESULT_SECONDS = 1800  # a job's result is read soon after its end, as soon as those before it have ended

_TRANSIENT = frozenset({"rate_limit_exceeded", "queue_full", "too_many_jobs", "no_worker", "queue_unavailable"})


class ServerWriter:
    def __init__(self, client: ApiClient, name: str) -> None:
        """Raises NotReady for a server that is not there, InvalidRequest for a model that writes no texts."""
        split_name(name)
        model = read(Model, client.ask("GET", f"/v1/models/{name}"))
        if model.task != "text":
            raise InvalidRequest(f"{name} is for {model.task} and writes no texts; GET /v1/models lists models that do")
        # The version is named from now on, so that no other comes in between.
        self.model = WritingModel(f"{model.id}@{model.version}", model.prompt_fields, model.limits.context_tokens)
        self._client = client

    def write(self, plan: Plan) -> Texts:
        """In their order, which is about that in which the server runs them. Raises what the server refuses them for,
        EngineFailed for one that it could not write, NotReady if it stays away."""
        waiting = deque(plan.texts())
        running: deque[tuple[PlannedText, str]] = deque()  # with the ids of their jobs, oldest first
        pace = Pace()
        try:
            while waiting or running:
                if waiting and pace.due(len(running)):
                    self._send(plan, waiting, running, pace)
                if running:
                    text, job_id = running[0]
                    written = self._result(text, job_id)
                    running.popleft()
                    yield text, written
                else:
                    pace.wait()
        finally:
            self._give_up(job_id for _, job_id in reversed(running))

    def _send(
        self,
        plan: Plan,
        waiting: deque[PlannedText],
        running: deque[tuple[PlannedText, str]],
        pace: Pace,
    ) -> None:
        """As many of those that wait as the pace allows; what the server does not take now waits on."""
        jobs = self._jobs(plan, islice(waiting, pace.room(len(running))))
        texts = [waiting.popleft() for _ in jobs]
        try:
            made = self._make(jobs)
        except RateLimited as error:
            waiting.extendleft(reversed(texts))
            pace.slow_down(len(running), error.retry_after_seconds or RETRY_SECONDS)
            return
        except InvalidRequest as error:  # none of them can be run; what is said is of the first
            raise _refused(texts[0], error.message) from None
        running.extend((text, each.id) for text, each in zip(texts, made, strict=True) if each.id is not None)
        left = [(text, each.error) for text, each in zip(texts, made, strict=True) if each.error is not None]
        waiting.extendleft(text for text, _ in reversed(left))
        for text, fault in left:
            if fault.code not in _TRANSIENT:
                raise _refused(text, fault.message)
        if left:
            pace.slow_down(len(running), 0.0)  # it took some, so it may take others when those have ended
        else:
            pace.speed_up()

    def _jobs(self, plan: Plan, texts: Iterable[PlannedText]) -> list[dict[str, Any]]:
        """Bodies of jobs, not too many bytes of them; at least one."""
        jobs: list[dict[str, Any]] = []
        size = 0
        for text in texts:
            job = {
                "model": self.model.name,
                "input": plan.body(text, self.model),
                "priority": "low",
                "result_seconds": RESULT_SECONDS,
            }
            size += len(json.dumps(job))
            if jobs and size > BULK_BYTES:
                break
            jobs.append(job)
        return jobs

    def _make(self, jobs: list[dict[str, Any]]) -> list[Made]:
        """What became of each. Its key makes it the same jobs, should the first answer be lost."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        made = read(Bulk, self._client.insist("POST", "/v1/jobs/bulk", {"jobs": jobs}, **key)).data
        if len(made) != len(jobs) or any((each.id is None) == (each.error is None) for each in made):
            raise EngineFailed("the server's answer to /v1/jobs/bulk is not one for each job; is it a newer server?")
        return made

    def _result(self, text: PlannedText, job_id: str) -> Written:
        while True:
            job = read(Job, self._client.insist("GET", f"/v1/jobs/{job_id}?wait={WAIT_SECONDS}"))
            if job.status in {"queued", "running"}:
                continue
            if job.result is None:
                reason = job.error.message if job.error else "it left no result"
                raise EngineFailed(f"job {job_id}, seed {text.seed}, {text.prompt!r}, is {job.status}: {reason}")
            (choice,) = job.result.choices
            whole = choice.marked_text or choice.text
            return Written(whole, choice.fields, choice.finish_reason, job.result.system_fingerprint)

    def _give_up(self, job_ids: Iterable[str]) -> None:
        """Nobody reads them any more; as far as the server is there to be told."""
        with suppress(KamishibaiError):
            for job_id in job_ids:
                with suppress(NotFound):
                    self._client.ask("DELETE", f"/v1/jobs/{job_id}")


def _refused(text: PlannedText, message: str) -> InvalidRequest:
    return InvalidRequest(f"the server refuses the beginning {text.prompt!r}: {message}")

"""Everything that ties us to RQ's worker class: registration, state, heartbeat, commands. (Job keys: workers.scripts.)

We keep RQ's books but not its loop: `Worker.work` pops outside of our claim script, so it is never called.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

WORKER_SECONDS = 30  # how long RQ's worker hash outlives its last heartbeat


class RqRegistration(SimpleWorker):
    """This worker as RQ sees it: what `rq info` and rq-dashboard show. Needs a Redis client of its own.

    `on_stop(job_id)` is called from RQ's pub/sub thread when somebody asks to stop a running job.
    """

    def __init__(self, connection: Redis, name: str, queue_names: list[str], on_stop: Callable[[str], None]) -> None:
        super().__init__(queue_names, name=name, connection=connection, serializer=JSONSerializer)
        self._on_stop = on_stop
        self.busy = False  # as RQ was last told

    def begin(self) -> None:
        self.register_birth()
        self.subscribe()
        self.set_state(WorkerStatus.IDLE)

    def beat(self, first_job_id: str | None) -> None:
        """Heartbeat; RQ has room for the name of one current job."""
        with self.connection.pipeline() as pipe:
            if not self.connection.exists(self.key):  # Redis lost it, or we were away for longer than it lives
                self.register_birth()
            self.heartbeat(WORKER_SECONDS, pipeline=pipe)
            self.set_state(WorkerStatus.BUSY if first_job_id else WorkerStatus.IDLE, pipeline=pipe)
            self.set_current_job_id(first_job_id, pipeline=pipe)
            pipe.execute()
        self.busy = first_job_id is not None

    def end(self) -> None:
        self.unsubscribe()
        self.register_death()

    def handle_payload(self, message: dict[str, Any]) -> None:
        """A command from RQ's channel. Bad messages are dropped: anybody with access to Redis can send them."""
        try:
            payload = json.loads(message["data"])
            if payload["command"] == "stop-job":
                self._on_stop(str(payload["job_id"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            self.log.warning("Worker %s: a command that is not JSON of RQ's was dropped", self.name)

    def enqueue_dependents(self, job_id: str, queue_name: str) -> None:
        """RQ's own path for jobs that others wait for. Ours never have dependents; other tools may add some."""
        job = Job.fetch(job_id, connection=self.connection, serializer=JSONSerializer)
        Queue(queue_name, connection=self.connection, serializer=JSONSerializer).enqueue_dependents(job)

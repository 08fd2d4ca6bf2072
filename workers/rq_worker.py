"""Everything that ties us to RQ's worker class: registration, state, heartbeat, commands. (Job keys: workers.scripts.)

We keep RQ's books but not its loop: `Worker.work` pops outside of our claim script, so it is never called.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.client import PubSub, PubSubWorkerThread
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus
from rq.worker_registration import clean_worker_registry, register, unregister

WORKER_SECONDS = 30  # how long RQ's worker hash outlives its last heartbeat
RECONNECT_SECONDS = 2.0


class RqRegistration(SimpleWorker):
    """This worker as RQ sees it: what `rq info` and rq-dashboard show. Needs a Redis client of its own.

    `on_stop(job_id)` is called from RQ's pub/sub thread when somebody asks to stop a running job.
    """

    def __init__(self, connection: Redis, name: str, queue_names: list[str], on_stop: Callable[[str], None]) -> None:
        super().__init__(queue_names, name=name, connection=connection, serializer=JSONSerializer)
        self._on_stop = on_stop
        self.busy = False  # as RQ was last told

    def begin(self) -> None:
        """Take our place on RQ's books, and that of a killed predecessor of our name: it stays on them until its hash
        expires, and RQ's own worker would refuse to start until then. After a RedisError this can be called again.
        """
        super()._set_ip_address(self.connection)
        self.connection.delete(self.key)
        self.register_birth()
        for queue in self.queues:
            clean_worker_registry(queue)  # of killed workers, which nobody else takes off
        self.set_state(WorkerStatus.IDLE)
        self.subscribe()

    def serve(self, queue_names: list[str]) -> None:
        """Tell RQ which queues are ours from now on."""
        if queue_names == self.queue_names():
            return
        before = self.queues
        with self.connection.pipeline() as pipe:
            unregister(self, pipe)
            self.queues = [Queue(name, connection=self.connection, serializer=JSONSerializer) for name in queue_names]
            register(self, pipe)
            pipe.hset(self.key, "queues", ",".join(queue_names))
            try:
                pipe.execute()
            except RedisError:
                self.queues = before
                raise

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
        try:
            job = Job.fetch(job_id, connection=self.connection, serializer=JSONSerializer)
        except NoSuchJobError:
            return  # deleted as soon as it had ended
        Queue(queue_name, connection=self.connection, serializer=JSONSerializer).enqueue_dependents(job)

    def _set_connection(self, connection: Redis) -> Redis:
        """RQ would have every call wait for Redis for seven minutes; ours are bounded (contracts.connection)."""
        return connection

    def _set_ip_address(self, connection: Redis) -> None:
        """RQ asks Redis for it when the worker is made; we do in `begin`, which may be repeated."""
        self.ip_address = "unknown"

    def _pubsub_exception_handler(self, exc: Exception, pubsub: PubSub, pubsub_thread: PubSubWorkerThread) -> None:
        """RQ stops listening at a timeout, which is what a Redis that stands still looks like."""
        if not isinstance(exc, RedisError):
            raise exc
        self.log.warning("Worker %s: its commands cannot be heard (%s); trying again", self.name, exc)
        time.sleep(RECONNECT_SECONDS)

"""The worker parent: holds leases, never waits for a device.

It claims the jobs of all clients, hands them to its engine child, puts the results together and ends the jobs. Its only
waits are for messages from the child and for the doorbell. Redis being away stops nothing that is in flight: what could
not be written is kept and written later.
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from redis.exceptions import RedisError

from contracts.announcements import Announcement, EngineCounters, ServedModel, announce, withdraw
from contracts.bundle import Bundle
from contracts.connection import connect
from contracts.errors import EngineFailed, InvalidRequest, JobCancelled, JobTimedOut, from_record
from contracts.requests import Target
from workers.channel import ChannelClosed
from workers.child import Child
from workers.doorbell import Doorbell
from workers.flight import Flight, take_off
from workers.leases import JANITOR_SECONDS, RENEW_SECONDS, Ending, Lease, Leases
from workers.rq_worker import RqRegistration

log = logging.getLogger("kamishibai.worker")

BUSY_SECONDS = 0.2  # after this time at the latest `rq info` shows that work has begun
POLL_SECONDS = 1.0  # a lost doorbell token costs no more than this
DRAIN_SECONDS = 25.0  # what is in flight after SIGTERM may take this long, then it goes back to its queue
CRASHES_ALLOWED = 3


class WorkerParent:
    def __init__(self, redis_url: str, name: str, bundles: dict[Target, Bundle], child: Child) -> None:
        """`bundles` by what their jobs will run on: what the child was told to load."""
        self._name = name
        self._targets = {target.queue_name: target for target in bundles}
        self._bundles = {target.queue_name: bundle for target, bundle in bundles.items()}
        self._child = child
        self._redis = connect(redis_url)
        self._leases = Leases(self._redis, name)
        self._registration = RqRegistration(connect(redis_url), name, list(self._bundles), self._ask_to_stop)
        self._doorbell = Doorbell(connect(redis_url), self._wake)
        self._served: dict[str, dict[str, Any]] = {}  # by queue, what the child said of it; empty until it is ready
        self._refused: set[str] = set()  # queues of models that the child could not load
        self._counters = {queue: EngineCounters() for queue in self._bundles}
        self._device = "starting"
        self._child_restarts = 0
        # By execution id, which no other run of a job shares. A leased job is in exactly one of these:
        self._flights: dict[str, Flight] = {}  # handed to the child
        self._endings: dict[str, Ending] = {}  # ended, not yet written
        self._stops: SimpleQueue[str] = SimpleQueue()  # filled by RQ's pub/sub thread
        self._draining_since: float | None = None
        self._in_a_hurry = False
        self._wake_receive, self._wake_send = socket.socketpair()
        self._heartbeat = _Chore(RENEW_SECONDS, self._keep_leases)
        self._janitor = _Chore(JANITOR_SECONDS, self._recover_leases)
        self._claiming = _Chore(POLL_SECONDS, self._claim)
        self._chores = [self._heartbeat, self._janitor, self._claiming]

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then drain."""
        self._handle_signals()
        self._begin()
        while not self._finished():
            self._child.ensure_started()
            self._wait()
            self._take_from_child()
            self._stop_what_was_asked()
            self._end_what_is_late()
            try:
                self._publish_text()
                self._write_endings()
                for chore in self._chores:
                    chore.do_if_due()
            except RedisError as error:
                log.warning("Redis is away (%s); %d jobs in flight go on", error, len(self._flights))
                time.sleep(0.2)
        self._finish()

    # Beginning and end

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._wake_send.setblocking(False)
        self._wake_receive.setblocking(False)
        signal.set_wakeup_fd(self._wake_send.fileno(), warn_on_full_buffer=False)

    def _on_signal(self, *_: object) -> None:
        self._in_a_hurry = self._draining_since is not None  # a second signal
        self._draining_since = self._draining_since or time.monotonic()

    def _begin(self) -> None:
        """Register with RQ; waits for Redis as long as it takes, or until told to stop."""
        while self._draining_since is None:
            try:
                self._registration.begin()
                self._announce()
                return
            except RedisError as error:
                log.warning("Redis cannot be reached (%s); trying again", error)
                time.sleep(0.5)

    def _finished(self) -> bool:
        if self._draining_since is None:
            return False
        late = time.monotonic() - self._draining_since > DRAIN_SECONDS
        idle = not self._flights and not self._endings
        return idle or late or self._in_a_hurry or (not self._child.ready and not self._endings)

    def _finish(self) -> None:
        """Give back what is unfinished, and leave RQ's books in order."""
        self._child.stop()
        try:
            self._leases.release([flight.lease for flight in self._flights.values()])
            withdraw(self._redis, self._name)
            self._registration.end()
        except RedisError as error:
            log.warning("Redis is away (%s): leases of %d jobs will run out by themselves", error, len(self._flights))
        log.info("worker %s has stopped", self._name)

    # The wait

    def _wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_receive, selectors.EVENT_READ)
            if channel := self._child.channel:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.has_unsent else 0)
                selector.register(channel, events)
            selector.select(max(0.0, min(chore.due for chore in self._chores) - time.monotonic()))
        self._hear_wake_ups()

    def _hear_wake_ups(self) -> None:
        try:
            while self._wake_receive.recv(4096):
                self._claim_soon()  # the doorbell rang, or there is a signal or a stop, which look after themselves
        except BlockingIOError:
            return

    def _wake(self) -> None:
        try:
            self._wake_send.send(b"\0")
        except BlockingIOError:
            return  # it is awake already

    def _claim_soon(self) -> None:
        self._claiming.within(0.0)

    # The child

    def _take_from_child(self) -> None:
        try:
            if channel := self._child.channel:
                channel.flush()
            for message in self._child.receive():
                self._handle(message)
        except ChannelClosed:
            self._after_child_death()

    def _handle(self, message: dict[str, Any]) -> None:
        if message["op"] == "ready":
            self._served, self._device = message["models"], message["device"]
            self._refused -= self._served.keys()  # a new child may have loaded what the last one could not
            self._warn_of_variance()
            log.info("ready: %s on %s", ", ".join(self._served) or "no model", self._device)
            for flight in self._flights.values():
                self._hand_over(flight)
            self._heartbeat.within(0.0)  # announces it
            self._claim_soon()
        elif message["op"] == "refused":
            log.error("%s is not served: %s", message["model"], message["message"])
            self._refused.add(message["model"])
        else:
            self._count(message)
            for event in message["events"]:
                self._apply(event)

    def _warn_of_variance(self) -> None:
        for queue, said in self._served.items():
            if not said["batch_invariant"]:
                log.warning("%s gives other bits in other batches: a seed alone does not fix its output here", queue)

    def _apply(self, event: dict[str, Any]) -> None:
        flight = self._flights.get(event["job_id"])
        if flight is None:
            return  # it has ended or was cancelled meanwhile
        if event["kind"] == "Delta":
            if flight.take(event):
                self._take_back(flight, event["choice"])
        elif event["kind"] == "Done":
            flight.finish(event["choice"], event["finish_reason"])
        else:
            self._end(flight, flight.crash(from_record(event["record"])))
            return
        if flight.complete:
            self._end(flight, flight.land())

    def _after_child_death(self) -> None:
        """Its jobs simply start again in the next child; one that has seen too many deaths fails."""
        ran_them = self._child.ready  # one that died while loading is not their fault
        status = self._child.bury()
        self._served = {}
        self._child_restarts += 1
        log.error("the engine child died (status %d); its %d jobs start again", status, len(self._flights))
        for flight in list(self._flights.values()):
            flight.crashes += ran_them
            flight.restart()
            if flight.crashes > CRASHES_ALLOWED:
                message = f"The engine died {flight.crashes} times while it ran this request."
                self._end(flight, flight.crash(EngineFailed(message)))

    def _hand_over(self, flight: Flight) -> None:
        request = flight.request.model_dump(mode="json")
        self._send({"op": "add", "model": flight.lease.queue, "job": flight.lease.execution_id, "request": request})

    def _take_back(self, flight: Flight, choice: int | None = None) -> None:
        self._send({"op": "remove", "job": flight.lease.execution_id, "choice": choice})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._child.send(message)
        except ChannelClosed:
            return  # receive notices it too, and starts everything again

    def _count(self, message: dict[str, Any]) -> None:
        if (queue := message["model"]) is None:
            return
        after = self._counters[queue].after_call(message["batch_size"], message["units"], message["seconds"])
        now = {"running": message["running"], "waiting": message["waiting"]}
        self._counters[queue] = after.model_copy(update=now)

    # Ends

    def _end(self, flight: Flight, ending: Ending) -> None:
        self._endings[flight.lease.execution_id] = ending
        del self._flights[flight.lease.execution_id]
        self._claim_soon()

    def _drop(self, lost: set[str]) -> None:
        """Jobs that are no longer ours: cancelled, deleted, or lost to another worker."""
        for execution_id in lost:
            self._endings.pop(execution_id, None)
            if flight := self._flights.pop(execution_id, None):
                self._take_back(flight)

    def _ask_to_stop(self, job_id: str) -> None:
        self._stops.put(job_id)
        self._wake()

    def _stop_what_was_asked(self) -> None:
        while True:
            try:
                job_id = self._stops.get_nowait()
            except Empty:
                return
            for flight in [flight for flight in self._flights.values() if flight.lease.job_id == job_id]:
                self._take_back(flight)
                error = JobCancelled("The job was cancelled while it ran.")
                self._end(flight, Ending(flight.lease, "stopped", error=error))

    def _end_what_is_late(self) -> None:
        now = time.monotonic()
        for flight in [flight for flight in self._flights.values() if flight.deadline < now]:
            self._take_back(flight)
            message = f"The job ran longer than its limit of {flight.lease.timeout_seconds:g} s."
            self._end(flight, flight.crash(JobTimedOut(message)))

    # Redis

    def _publish_text(self) -> None:
        """One message for all streaming jobs that an engine call brought forward."""
        fresh = [(flight, part) for flight in self._flights.values() for part in flight.to_publish()]
        if not fresh:
            return
        lost = self._leases.publish([(flight.lease, *part) for flight, part in fresh])
        for flight, _ in fresh:
            flight.published()
        self._drop(lost)

    def _write_endings(self) -> None:
        if not self._endings:
            return
        written = list(self._endings.values())
        _, dependents = self._leases.complete(written)
        for ending in written:
            del self._endings[ending.lease.execution_id]
            if ending.lease.execution_id in dependents:
                self._registration.enqueue_dependents(ending.lease.job_id, ending.lease.queue)

    def _keep_leases(self) -> None:
        leases = [flight.lease for flight in self._flights.values()]
        leases += [ending.lease for ending in self._endings.values()]
        self._drop(self._leases.renew(leases))
        self._registration.beat(leases[0].job_id if leases else None)
        self._announce()

    def _recover_leases(self) -> None:
        again, failed = self._leases.recover()
        if again or failed:
            log.warning("lost leases: %d jobs given back, %d failed", again, failed)
            self._claim_soon()

    def _announce(self) -> None:
        models = tuple(
            ServedModel(
                target=self._targets[queue],
                task=bundle.manifest.task,
                digest=bundle.digest,
                fingerprint=self._served.get(queue, {}).get("fingerprint", ""),
                batch_invariant=self._served.get(queue, {}).get("batch_invariant", False),
                counters=self._counters[queue],
            )
            for queue, bundle in self._bundles.items()
            if queue not in self._refused
        )
        ready = self._child.dependable and self._draining_since is None
        announce(
            self._redis,
            Announcement(
                worker=self._name,
                device=self._device,
                ready=ready,
                models=models,
                child_restarts=self._child_restarts,
            ),
        )

    def _claim(self) -> None:
        """Fill the free places of every model, then wait for the bells of those that have some left."""
        while claimed := self._leases.claim(self._free_places()):
            for lease in claimed:
                self._take_off(lease)
        self._doorbell.arm([queue for queue, count in self._free_places().items() if count])
        if self._flights and not self._registration.busy:
            self._heartbeat.within(BUSY_SECONDS)

    def _free_places(self) -> dict[str, int]:
        """By queue. Full ones are there with 0: a claim passes the bell's token on to other workers."""
        draining = self._draining_since is not None
        held = Counter(flight.lease.queue for flight in self._flights.values())
        return {queue: 0 if draining else said["capacity"] - held[queue] for queue, said in self._served.items()}

    def _take_off(self, lease: Lease) -> None:
        try:
            flight = take_off(lease, self._bundles[lease.queue], self._served[lease.queue]["fingerprint"])
        except InvalidRequest as error:
            self._endings[lease.execution_id] = Ending(lease, "failed", error=error)
            return
        self._flights[lease.execution_id] = flight
        self._hand_over(flight)


class _Chore:
    """Something to do every few seconds, or sooner when asked."""

    def __init__(self, every_seconds: float, do: Callable[[], None]) -> None:
        self._every_seconds = every_seconds
        self._do = do
        self.due = 0.0

    def within(self, seconds: float) -> None:
        self.due = min(self.due, time.monotonic() + seconds)

    def do_if_due(self) -> None:
        if time.monotonic() >= self.due:
            self._do()
            self.due = time.monotonic() + self._every_seconds

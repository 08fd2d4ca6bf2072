"""The worker parent: holds leases, never waits for a device.

It claims the jobs of all clients, hands them to its engine child, puts the results together and ends the jobs. Its only
waits are for messages from the child and for the doorbell. Redis being away stops nothing that is in flight: what could
not be written is kept and written later.
"""

from __future__ import annotations

import logging
import signal
import time
from queue import Empty, SimpleQueue
from typing import Any

from redis.exceptions import RedisError

from contracts.announcements import Announcement, announce, withdraw
from contracts.bundle import Bundle
from contracts.connection import connect
from contracts.errors import EngineFailed, InvalidRequest, JobCancelled, JobTimedOut, from_record
from contracts.requests import Target
from workers.channel import ChannelClosed
from workers.child import Child
from workers.chores import Chore
from workers.doorbell import Doorbell
from workers.flight import Flight, take_off
from workers.flights import Flights
from workers.leases import JANITOR_SECONDS, RENEW_SECONDS, Ending, Lease, Leases
from workers.rq_worker import RqRegistration
from workers.served import ServedModels
from workers.suspects import MOST_DEATHS_ALONE
from workers.wakeups import WakeUps

log = logging.getLogger("kamishibai.worker")

BUSY_SECONDS = 0.2  # after this time at the latest `rq info` shows that work has begun
POLL_SECONDS = 1.0  # a lost doorbell token costs no more than this
DRAIN_SECONDS = 25.0  # what is in flight after SIGTERM may take this long, then it goes back to its queue
AFTER_OUTAGE_SECONDS = 2 * RENEW_SECONDS  # time for all workers to renew leases that ran out while Redis was away


class WorkerParent:
    def __init__(self, redis_url: str, name: str, bundles: dict[Target, Bundle], child: Child) -> None:
        """`bundles` by what their jobs will run on: what the child was told to load. Raises ValueError for a bad
        URL."""
        self._name = name
        self._served = ServedModels(bundles)
        self._child = child
        self._child_restarts = 0
        self._redis = connect(redis_url)  # first, since it may refuse the URL
        self._wake_ups = WakeUps()
        self._leases = Leases(self._redis, name)
        self._registration = RqRegistration(connect(redis_url), name, self._served.queues, self._ask_to_stop)
        self._doorbell = Doorbell(connect(redis_url), self._wake_ups.wake)
        # A leased job is in exactly one of these:
        self._flights = Flights()
        self._endings: dict[str, Ending] = {}  # by execution id: ended, not yet written
        self._unwanted: list[Lease] = []  # the child can no longer run them; others may
        self._stops: SimpleQueue[str] = SimpleQueue()  # filled by RQ's pub/sub thread
        self._draining_since: float | None = None
        self._in_a_hurry = False
        self._away_since: float | None = None  # Redis
        self._heartbeat = Chore(RENEW_SECONDS, self._keep_leases)
        self._janitor = Chore(JANITOR_SECONDS, self._recover_leases)
        self._claiming = Chore(POLL_SECONDS, self._claim)
        self._chores = [self._heartbeat, self._janitor, self._claiming]

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then drain."""
        self._handle_signals()
        self._begin()
        while not self._finished():
            self._child.ensure_started()
            self._hand_over_whoever_may_run()
            self._wait()
            self._take_from_child()
            self._replace_hanging_child()
            self._stop_what_was_asked()
            self._end_what_is_late()
            self._talk_to_redis()
        self._finish()

    # Beginning and end

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._wake_ups.listen_to_signals()

    def _on_signal(self, *_: object) -> None:
        self._in_a_hurry = self._draining_since is not None  # a second signal
        self._draining_since = self._draining_since or time.monotonic()

    def _begin(self) -> None:
        """Register with RQ; waits for Redis as long as it takes, or until told to stop."""
        while self._draining_since is None:
            try:
                self._registration.begin()
                self._announce()
                self._note_redis_is_here()
                return
            except RedisError as error:
                self._note_redis_is_away(error)
                self._wake_ups.wait(None, 0.5)

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
            self._leases.release([*self._unwanted, *self._flights.leases])
            withdraw(self._redis, self._name)
            self._registration.end()
        except RedisError as error:
            log.warning("Redis is away (%s): leases of %d jobs will run out by themselves", error, len(self._flights))
        log.info("worker %s has stopped", self._name)

    def _wait(self) -> None:
        due = min(chore.due for chore in self._chores)
        if self._wake_ups.wait(self._child.channel, due - time.monotonic()):
            self._claim_soon()  # the doorbell rang, or there is a signal or a stop, which look after themselves

    def _claim_soon(self) -> None:
        self._claiming.within(0.0)

    # The child

    def _hand_over_whoever_may_run(self) -> None:
        if not self._child.ready:
            return
        for flight in self._flights.start():
            lease, request = flight.lease, flight.request.model_dump(mode="json")
            self._send({"op": "add", "model": lease.queue, "job": lease.execution_id, "request": request})

    def _take_back(self, flight: Flight, choice: int | None = None) -> None:
        self._send({"op": "remove", "job": flight.lease.execution_id, "choice": choice})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._child.send(message)
        except ChannelClosed:
            return  # receive notices it too, and starts everything again

    def _take_from_child(self) -> None:
        try:
            if channel := self._child.channel:
                channel.flush()
            for message in self._child.receive():
                self._handle(message)
        except ChannelClosed:
            self._after_child_death()

    def _handle(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "ready":
                self._served.ready(message)
                self._heartbeat.within(0.0)  # announces it
                self._claim_soon()
            case "refused":
                self._served.refused(message)
                self._give_up(message["model"])
            case "failed":
                self._after_engine_failure(message)
            case "call":
                if message["model"]:
                    self._served.count(message)
                for event in message["events"]:
                    self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        flight = self._flights.find(event["job_id"])
        if flight is None:
            return  # it has ended or was cancelled meanwhile
        match event["kind"]:
            case "Delta":
                if flight.take(event):
                    self._take_back(flight, event["choice"])
            case "Done":
                flight.finish(event["choice"], event["finish_reason"])
            case "Evicted":
                self._flights.after_eviction(event["job_id"])
            case "Failed":
                self._end(flight, flight.crash(from_record(event["record"])))
                return
        if flight.complete:
            self._end(flight, flight.land())

    def _replace_hanging_child(self) -> None:
        if self._child.hangs(busy=self._flights.running):
            log.error("the engine child is silent and is killed")
            self._after_child_death()

    def _after_child_death(self) -> None:
        """What it ran starts again in the next child, as suspects. One that died while loading had run nothing."""
        status = self._child.bury()
        self._served.child_has_gone()
        self._child_restarts += 1
        accused = self._flights.after_death()
        log.error("the engine child died (status %d); the %d jobs that it ran start again", status, len(accused))
        for flight, deaths_alone in accused:
            if deaths_alone >= MOST_DEATHS_ALONE:
                message = f"The engine died {deaths_alone} times while it ran this request alone."
                self._end(flight, flight.crash(EngineFailed(message)))

    def _after_engine_failure(self, message: dict[str, Any]) -> None:
        """A call of one model raised, and its engine has given up all that it had. Who does that alone is to blame."""
        accused = self._flights.after_failure(message["model"], message["jobs"])
        log.error("a call of %s failed (%s) with %d jobs", message["model"], message["message"], len(accused))
        if len(accused) == 1:
            (flight,) = accused
            self._end(flight, flight.crash(EngineFailed(f"The engine failed on this request: {message['message']}")))

    def _give_up(self, queue: str) -> None:
        """A new child cannot run this model any more; its jobs go back to their queue."""
        for flight in self._flights:
            if flight.lease.queue == queue:
                self._unwanted.append(flight.lease)
                self._flights.remove(flight.lease.execution_id)

    # Ends

    def _end(self, flight: Flight, ending: Ending) -> None:
        self._endings[flight.lease.execution_id] = ending
        self._flights.remove(flight.lease.execution_id)
        self._claim_soon()

    def _drop(self, lost: set[str]) -> None:
        """Jobs that are no longer ours: cancelled, deleted, or lost to another worker."""
        for execution_id in lost:
            self._endings.pop(execution_id, None)
            if flight := self._flights.remove(execution_id):
                self._take_back(flight)

    def _ask_to_stop(self, job_id: str) -> None:
        self._stops.put(job_id)
        self._wake_ups.wake()

    def _stop_what_was_asked(self) -> None:
        while True:
            try:
                job_id = self._stops.get_nowait()
            except Empty:
                return
            for flight in self._flights:
                if flight.lease.job_id == job_id:
                    self._take_back(flight)
                    error = JobCancelled("The job was cancelled while it ran.")
                    self._end(flight, Ending(flight.lease, "stopped", error=error))

    def _end_what_is_late(self) -> None:
        now = time.monotonic()
        for flight in self._flights:
            if flight.deadline < now:
                self._take_back(flight)
                message = f"The job ran longer than its limit of {flight.lease.timeout_seconds:g} s."
                self._end(flight, flight.crash(JobTimedOut(message)))

    # Redis

    def _talk_to_redis(self) -> None:
        """What does not succeed is kept, and tried again on the next round."""
        try:
            self._publish_text()
            self._write_endings()
            self._release_unwanted()
            for chore in self._chores:
                chore.do_if_due()
            self._note_redis_is_here()
        except RedisError as error:
            self._note_redis_is_away(error)
            self._janitor.postpone(AFTER_OUTAGE_SECONDS)
            time.sleep(0.2)

    def _note_redis_is_away(self, error: RedisError) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("Redis cannot be reached (%s); trying again; %d jobs are in flight", error, len(self._flights))

    def _note_redis_is_here(self) -> None:
        if self._away_since is not None:
            log.warning("Redis is back after %.1f s", time.monotonic() - self._away_since)
            self._away_since = None

    def _publish_text(self) -> None:
        """One message for all streaming jobs that an engine call brought forward."""
        fresh = [(flight, part) for flight in self._flights for part in flight.to_publish()]
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

    def _release_unwanted(self) -> None:
        if self._unwanted:
            self._leases.release(self._unwanted)
            self._unwanted = []

    def _keep_leases(self) -> None:
        leases = [*self._flights.leases, *(ending.lease for ending in self._endings.values())]
        self._drop(self._leases.renew(leases))
        self._registration.beat(leases[0].job_id if leases else None)
        self._announce()

    def _recover_leases(self) -> None:
        again, failed = self._leases.recover()
        if again or failed:
            log.warning("lost leases: %d jobs given back, %d failed", again, failed)
            self._claim_soon()

    def _announce(self) -> None:
        ready = self._child.dependable and self._draining_since is None
        announce(
            self._redis,
            Announcement(
                worker=self._name,
                device=self._served.device,
                ready=ready,
                models=self._served.announced(),
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
        closed = self._draining_since is not None or not self._flights.open
        held = self._flights.by_queue()
        capacities = self._served.capacities
        return {queue: 0 if closed else max(0, places - held[queue]) for queue, places in capacities.items()}

    def _take_off(self, lease: Lease) -> None:
        try:
            fingerprint = self._served.fingerprint(lease.queue)
            flight = take_off(lease, self._served.bundle(lease.queue), fingerprint)
        except InvalidRequest as error:
            self._endings[lease.execution_id] = Ending(lease, "failed", error=error)
            return
        self._flights.add(flight)

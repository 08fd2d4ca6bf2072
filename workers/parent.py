"""The worker parent: holds leases, never waits for a device.

It claims the jobs of all clients, hands them to its engine child, puts the results together and ends the jobs. Its only
waits are for messages from the child and for the doorbell. Redis being away stops nothing that is in flight: what could
not be written is kept and written later.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from redis.exceptions import RedisError

from contracts.announcements import Announcement, announce, withdraw
from contracts.connection import connect
from contracts.errors import JobCancelled
from contracts.garbage import collect_rarely
from contracts.requests import PAYLOADS
from workers.child import Child
from workers.chores import Chore
from workers.crew import Crew
from workers.crews import Crews, Wanted
from workers.doorbell import Doorbell
from workers.leases import JANITOR_SECONDS, RENEW_SECONDS, Ending, Lease, Leases
from workers.ready_file import ReadyFile
from workers.rq_worker import RqRegistration
from workers.scripts import MOST_JOBS
from workers.tally import EngineTally
from workers.wakeups import WakeUps
from workers.wanted import WantedModels
from workers.watch import Watch

log = logging.getLogger("kamishibai.worker")

BUSY_SECONDS = 0.2  # after this time at the latest `rq info` shows that work has begun
POLL_SECONDS = 1.0  # a lost doorbell token costs no more than this
DRAIN_SECONDS = 25.0  # what is in flight after SIGTERM may take this long, then it goes back to its queue
AFTER_OUTAGE_SECONDS = 2 * RENEW_SECONDS  # time for all workers to renew leases that ran out while Redis was away


class WorkerParent:
    def __init__(
        self,
        redis_url: str,
        name: str,
        models: WantedModels,
        make_child: Callable[[Wanted], Child],
        ready_file: Path | None = None,
        *,
        candidate: bool = False,
    ) -> None:
        """`make_child` is a child, not started yet, for these models. A `candidate` serves for comparison. Raises
        ValueError for a bad URL, StoreError if there is nothing to serve."""
        self._name = name
        self._redis = connect(redis_url)  # first, since it may refuse the URL
        self._models = models
        self._make_child = make_child
        self._candidate = candidate
        self._ready_file = ReadyFile(ready_file)
        self._tallies: dict[str, EngineTally] = {}  # by engine
        self._crews = Crews(models.first(), self._make_crew, models.refuse)
        self._wake_ups = WakeUps()
        self._leases = Leases(self._redis, name)
        queues = self._crews.serving.served.queues
        self._registration = RqRegistration(connect(redis_url), name, queues, self._ask_to_stop)
        self._doorbell = Doorbell(connect(redis_url), self._wake_ups.wake)
        # A leased job is with a crew, or in one of these:
        self._endings: dict[str, Ending] = {}  # by execution id: ended, not yet written
        self._unwanted: list[Lease] = []  # no crew can run them any more; other workers may
        self._stops: SimpleQueue[str] = SimpleQueue()  # filled by RQ's pub/sub thread
        self._draining_since: float | None = None
        self._in_a_hurry = False
        self._drained = False  # by an operator, who may want it to go on
        self._away_since: float | None = None  # Redis
        self._heartbeat = Chore(RENEW_SECONDS, self._keep_leases)
        self._janitor = Chore(JANITOR_SECONDS, self._recover_leases)
        self._claiming = Chore(POLL_SECONDS, self._claim)
        self._chores = [self._heartbeat, self._janitor, self._claiming]

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then drain."""
        collect_rarely()
        self._handle_signals()
        self._begin()
        watch = Watch(self._models.now, self._wake_ups.wake)
        while not self._finished():
            self._let_crews_work()
            self._wait()
            self._hear_crews()
            self._change_crews(watch)
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
                self._wake_ups.wait([], 0.5)

    def _finished(self) -> bool:
        if self._draining_since is None:
            return False
        late = time.monotonic() - self._draining_since > DRAIN_SECONDS
        at_work = any(crew.flights and crew.ready for crew in self._crews)
        return not (at_work or self._endings) or late or self._in_a_hurry

    def _finish(self) -> None:
        """Give back what is unfinished, and leave RQ's books in order."""
        self._ready_file.show(False)
        self._crews.stop()
        flights = self._crews.flights
        try:
            self._leases.release([*self._unwanted, *(flight.lease for flight in flights)])
            withdraw(self._redis, self._name)
            self._registration.end()
        except RedisError as error:
            log.warning("Redis is away (%s): leases of %d jobs will run out by themselves", error, len(flights))
        log.info("worker %s has stopped", self._name)

    def _wait(self) -> None:
        due = min(chore.due for chore in self._chores)
        channels = [crew.channel for crew in self._crews.with_children if crew.channel]
        if self._wake_ups.wait(channels, due - time.monotonic()):
            self._claim_soon()  # the doorbell rang, or there is a signal or a stop, which look after themselves

    def _claim_soon(self) -> None:
        self._claiming.within(0.0)

    # The crews

    def _make_crew(self, wanted: Wanted) -> Crew:
        return Crew(wanted, self._make_child(wanted), self._tallies, office=self)

    def _let_crews_work(self) -> None:
        for crew in self._crews.with_children:
            crew.work()

    def _hear_crews(self) -> None:
        for crew in self._crews.with_children:
            crew.listen()

    def _change_crews(self, watch: Watch) -> None:
        if (wish := watch.news()) and self._draining_since is None:
            self._crews.want(wish.models, wish.reloads)
            if wish.drained != self._drained:
                self._drained = wish.drained
                log.warning("drained: takes no jobs" if wish.drained else "takes jobs again")
                self.news()
        if self._crews.change():
            log.info("serving %s from now on", ", ".join(self._crews.serving.served.engines))
            self.news()

    def end(self, ending: Ending) -> None:
        """A job of a crew has ended."""
        self._endings[ending.lease.execution_id] = ending
        self._claim_soon()

    def give_back(self, lease: Lease) -> None:
        """A crew can no longer run this job."""
        self._unwanted.append(lease)

    def news(self) -> None:
        """A crew serves other models than before."""
        self._heartbeat.within(0.0)  # announces it
        self._claim_soon()

    # Ends

    def _drop(self, lost: set[str]) -> None:
        """Jobs that are no longer ours: cancelled, deleted, or lost to another worker."""
        for execution_id in lost:
            self._endings.pop(execution_id, None)
            for crew in self._crews:
                crew.drop(execution_id)

    def _ask_to_stop(self, job_id: str) -> None:
        self._stops.put(job_id)
        self._wake_ups.wake()

    def _stop_what_was_asked(self) -> None:
        while True:
            try:
                job_id = self._stops.get_nowait()
            except Empty:
                return
            for crew in self._crews:
                for flight in crew.flights:
                    if flight.lease.job_id == job_id:
                        error = JobCancelled("The job was cancelled while it ran.")
                        crew.end(flight, Ending(flight.lease, "stopped", error=error))

    def _end_what_is_late(self) -> None:
        now = time.monotonic()
        for crew in self._crews:
            for flight in crew.flights:
                if flight.deadline < now:
                    crew.end(flight, flight.run_late())

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
            count = len(self._crews.flights)
            log.warning("Redis cannot be reached (%s); trying again; %d jobs are in flight", error, count)

    def _note_redis_is_here(self) -> None:
        if self._away_since is not None:
            log.warning("Redis is back after %.1f s", time.monotonic() - self._away_since)
            self._away_since = None

    def _publish_text(self) -> None:
        """One message for all streaming jobs that an engine call brought forward."""
        fresh = [(flight, part) for flight in self._crews.flights for part in flight.to_publish()]
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
        leases = [flight.lease for flight in self._crews.flights]
        leases += [ending.lease for ending in self._endings.values()]
        self._drop(self._leases.renew(leases))
        self._registration.serve(self._crews.serving.served.queues)
        self._registration.beat(leases[0].job_id if leases else None)
        self._announce()

    def _recover_leases(self) -> None:
        again, failed = self._leases.recover()
        if again or failed:
            log.warning("lost leases: %d jobs given back, %d failed", again, failed)
            self._claim_soon()

    def _announce(self) -> None:
        serving = self._crews.serving
        ready = serving.dependable and self._draining_since is None and not self._drained
        announce(
            self._redis,
            Announcement(
                worker=self._name,
                device=serving.served.device,
                ready=ready,
                models=serving.announced(),
                payloads=PAYLOADS,
                candidate=self._candidate,
                child_restarts=self._crews.child_restarts,
            ),
        )
        self._ready_file.show(ready)

    def _claim(self) -> None:
        """Fill the free places of every model, then wait for the bells of those that have some left."""
        while True:
            claimed = self._leases.claim(self._free_places())
            for lease in claimed:
                self._crews.of_engine(lease.engine).take(lease)
            if len(claimed) < MOST_JOBS:
                break  # there are no more, or no places
        self._doorbell.arm([engine for engine, count in self._free_places().items() if count])
        if self._crews.flights and not self._registration.busy:
            self._heartbeat.within(BUSY_SECONDS)

    def _free_places(self) -> dict[str, int]:
        """By engine. Full ones are there with 0: a claim passes the bell's token on to other workers."""
        free = self._crews.free_places()
        return free if self._draining_since is None and not self._drained else dict.fromkeys(free, 0)

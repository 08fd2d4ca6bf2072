"""A crew: one engine child, the models that it was told to load, and the jobs that it runs."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from contracts.announcements import ServedModel
from contracts.bundle import Bundle
from contracts.errors import EngineFailed, InvalidRequest, from_record
from contracts.logs import REQUESTS
from contracts.requests import Target
from workers.channel import Channel, ChannelClosed
from workers.child import Child
from workers.flight import Flight, take_off
from workers.flights import Flights
from workers.leases import Ending, Lease
from workers.served import ServedModels
from workers.suspects import MOST_DEATHS_ALONE
from workers.tally import EngineTally

log = logging.getLogger("kamishibai.worker")
jobs_log = logging.getLogger(REQUESTS)


class Office(Protocol):
    """What a crew tells the worker parent."""

    def end(self, ending: Ending) -> None:
        """A job has ended."""

    def give_back(self, lease: Lease) -> None:
        """The crew can no longer run this job; others may."""

    def news(self) -> None:
        """What the crew serves has changed."""


class Crew:
    """Never waits for its child."""

    def __init__(
        self, bundles: dict[Target, Bundle], child: Child, tallies: dict[str, EngineTally], office: Office
    ) -> None:
        """`bundles` by what their jobs will run on: what the child was told to load. `tallies` by engine are
        counted on."""
        self.targets = frozenset(bundles)
        self.served = ServedModels(bundles, tallies)
        self.flights = Flights()
        self.child_restarts = 0
        self._child = child
        self._office = office

    @property
    def channel(self) -> Channel | None:
        """None while there is no child."""
        return self._child.channel

    @property
    def ready(self) -> bool:
        """Whether the child has loaded its models."""
        return self._child.ready

    @property
    def dependable(self) -> bool:
        """Whether new jobs should be sent our way."""
        return self._child.dependable

    def announced(self) -> tuple[ServedModel, ...]:
        """What servers are told of its models."""
        return self.served.announced(busy=self.flights.by_engine())

    def free_places(self) -> dict[str, int]:
        """By engine, of those that the child has now; 0 for all while nobody new is to be let in."""
        held, closed = self.flights.by_engine(), not self.flights.open
        return {engine: 0 if closed else max(0, most - held[engine]) for engine, most in self.served.capacities.items()}

    def take(self, lease: Lease) -> None:
        """A job that was claimed for it."""
        try:
            flight = take_off(lease, self.served.bundle(lease.engine), self.served.fingerprint(lease.engine))
        except InvalidRequest as error:
            self._end(Ending(lease, "failed", error=error))
            return
        self.served.tally(lease.engine).count_start(flight)
        self.flights.add(flight)

    def work(self) -> None:
        """Keep a child, and give it the jobs that may run."""
        self._child.ensure_started()
        if not self._child.ready:
            return
        for flight in self.flights.start():
            lease, request = flight.lease, flight.request.model_dump(mode="json")
            self._send({"op": "add", "model": lease.engine, "job": lease.execution_id, "request": request})

    def listen(self) -> None:
        """Take in what the child says, or that it says nothing any more."""
        try:
            if channel := self._child.channel:
                channel.flush()
            for message in self._child.receive():
                self._handle(message)
        except ChannelClosed:
            self._after_death()
        if self._child.hangs(busy=self.flights.running):
            log.error("the engine child is silent and is killed")
            self._after_death()

    def end(self, flight: Flight, ending: Ending) -> None:
        """End a job whatever the child makes of it."""
        self._take_back(flight)
        self._land(flight, ending)

    def drop(self, execution_id: str) -> None:
        """Forget a job that is no longer ours. Unknown ids are ignored."""
        if flight := self.flights.remove(execution_id):
            self._take_back(flight)

    def stop(self) -> None:
        """End the child now."""
        self._child.stop()

    def _take_back(self, flight: Flight, choice: int | None = None) -> None:
        self._send({"op": "remove", "job": flight.lease.execution_id, "choice": choice})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._child.send(message)
        except ChannelClosed:
            return  # listen notices it too, and starts everything again

    def _handle(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "ready":
                self.served.ready(message)
                self._office.news()
            case "refused":
                self.served.refuse(message)
                self._give_up(message["model"])
            case "failed":
                self._after_failure(message)
            case "call":
                if message["model"]:
                    self.served.count(message)
                for event in message["events"]:
                    self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        flight = self.flights.find(event["job_id"])
        if flight is None:
            return  # it has ended or was cancelled meanwhile
        match event["kind"]:
            case "Delta":
                self.served.tally(flight.lease.engine).count_tokens(flight, event["choice"], len(event["tokens"]))
                if flight.take(event):
                    self._take_back(flight, event["choice"])
            case "Done":
                flight.finish(event["choice"], event["finish_reason"])
            case "Evicted":
                self.flights.after_eviction(event["job_id"])
            case "Failed":
                self._land(flight, flight.crash(from_record(event["record"])))
                return
        if flight.complete:
            self._land(flight, flight.land())

    def _after_death(self) -> None:
        """What it ran starts again in the next child, as suspects. One that died while loading had run nothing."""
        status = self._child.bury()
        self.served.child_has_gone()
        self.child_restarts += 1
        accused = self.flights.after_death()
        log.error("the engine child died (status %d); the %d jobs that it ran start again", status, len(accused))
        for flight, deaths_alone in accused:
            if deaths_alone >= MOST_DEATHS_ALONE:
                message = f"The engine died {deaths_alone} times while it ran this request alone."
                self._land(flight, flight.crash(EngineFailed(message)))

    def _after_failure(self, message: dict[str, Any]) -> None:
        """A call of one model raised, and its engine has given up all that it had. Who does that alone is to blame."""
        accused = self.flights.after_failure(message["model"], message["jobs"])
        log.error("a call of %s failed (%s) with %d jobs", message["model"], message["message"], len(accused))
        if len(accused) == 1:
            (flight,) = accused
            self._land(flight, flight.crash(EngineFailed(f"The engine failed on this request: {message['message']}")))

    def _give_up(self, engine: str) -> None:
        """A new child cannot run this model any more; its jobs go back to their queue."""
        for flight in self.flights:
            if flight.lease.engine == engine:
                self._office.give_back(flight.lease)
                self.flights.remove(flight.lease.execution_id)

    def _land(self, flight: Flight, ending: Ending) -> None:
        self.flights.remove(flight.lease.execution_id)
        self._end(ending)

    def _end(self, ending: Ending) -> None:
        self.served.tally(ending.lease.engine).count_end(ending)
        level = logging.WARNING if isinstance(ending.error, EngineFailed) else logging.INFO
        jobs_log.log(level, "a job of %s: %s", ending.lease.engine, ending.label, extra=ending.fields())
        self._office.end(ending)

"""Does a fault script to a fleet: each fault in a thread of its own, so that recoveries overlap."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import psutil

from tests.chaos.faults import Fault
from tests.chaos.fleet import START_SECONDS, Fleet
from tests.chaos.history import History
from tests.chaos.observer import Observer

DELAY_SECONDS = 0.05  # each way, for every piece
T = TypeVar("T")


class Injector:
    def __init__(self, fleet: Fleet, history: History, observer: Observer) -> None:
        self._fleet = fleet
        self._history = history
        self._observer = observer
        self._kinds: dict[str, Callable[[Fault], None]] = {
            "kill": self._kill,
            "behead": self._behead,
            "term": self._term,
            "stop": self._stop,
            "cut": lambda fault: self._fleet.proxy.cut(fault.victim),
            "delay": self._delay,
            "block": self._block,
            "full": self._full,
            "away": self._away,
        }

    def run(self, faults: list[Fault]) -> None:
        """Until all faults have happened and what they struck is well again."""
        began = time.monotonic()
        threads = []
        for number, fault in enumerate(faults):
            time.sleep(max(0.0, began + fault.at - time.monotonic()))
            threads.append(threading.Thread(target=self._inflict, args=(number, fault), name=str(fault)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _inflict(self, number: int, fault: Fault) -> None:
        """Two entries with the fault's number: when it happens, and when its victim is well again."""
        facts: dict[str, Any] = {"fault": number, "kind": fault.kind, "victim": fault.victim}
        try:
            _when_there(lambda: self._victim(fault))
            self._history.record("fault", **facts, seconds=fault.seconds)
            self._kinds[fault.kind](fault)
        except Exception as error:
            self._history.record("injector failed", **facts, error=repr(error))
        self._history.record("over", **facts)

    def _victim(self, fault: Fault) -> psutil.Process:
        """Raises LookupError while it is down."""
        role, _, number = fault.victim.partition("-")
        if role == "child":
            return self._fleet.child_of(f"worker-{number}")
        family = self._fleet.family_of(f"server-{number}" if role == "serving" else fault.victim)
        if role == "serving" and len(family) == 1:
            raise LookupError(fault.victim)
        return family[1] if role == "serving" else family[0]

    def _kill(self, fault: Fault) -> None:
        role, _, number = fault.victim.partition("-")
        if role == "child":
            self._kill_child(f"worker-{number}")
        elif role == "worker":
            since = self._fleet.times_ready(fault.victim)
            self._fleet.doom(fault.victim, signal.SIGKILL)
            self._observer.watch_loss(fault.victim)
            self._fleet.wait_ready(fault.victim, since)
        elif role == "serving":
            self._victim(fault).kill()
            self._fleet.wait_ready(f"server-{number}", since=0)
        else:
            self._replace(fault.victim, lambda: self._kill_family(fault.victim))

    def _kill_child(self, worker: str) -> None:
        since = self._fleet.times_ready(worker)
        child = _when_there(lambda: self._fleet.child_of(worker))
        child.kill()
        self._observer.watch_child_loss(worker, child.pid)
        self._fleet.wait_ready(worker, since)

    def _kill_family(self, name: str) -> None:
        family = self._fleet.family_of(name)
        self._fleet.doom(name, signal.SIGKILL)
        for process in family[1:]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _behead(self, fault: Fault) -> None:
        """Kill a server's master alone; its worker must see that by itself and leave the port."""
        self._replace(fault.victim, lambda: self._fleet.doom(fault.victim, signal.SIGKILL))

    def _term(self, fault: Fault) -> None:
        if fault.victim.startswith("worker"):
            since = self._fleet.times_ready(fault.victim)
            self._fleet.doom(fault.victim, signal.SIGTERM)
            self._fleet.wait_ready(fault.victim, since)
        else:
            self._replace(fault.victim, lambda: self._fleet.doom(fault.victim, signal.SIGTERM))

    def _stop(self, fault: Fault) -> None:
        victims = self._fleet.family_of(fault.victim) if fault.victim.startswith("server") else [self._victim(fault)]
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        time.sleep(fault.seconds)
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _delay(self, fault: Fault) -> None:
        self._fleet.proxy.delay(fault.victim, DELAY_SECONDS)
        time.sleep(fault.seconds)
        self._fleet.proxy.delay(fault.victim, 0.0)

    def _block(self, fault: Fault) -> None:
        self._fleet.proxy.block(fault.victim, True)
        time.sleep(fault.seconds)
        self._fleet.proxy.block(fault.victim, False)

    def _full(self, fault: Fault) -> None:
        self._fleet.fill_disk(True)
        time.sleep(fault.seconds)
        self._fleet.fill_disk(False)

    def _away(self, fault: Fault) -> None:
        redis = self._fleet.members["redis"]
        redis.held = True
        self._fleet.doom("redis", signal.SIGKILL)
        time.sleep(fault.seconds)
        redis.held = False
        self._fleet.wait_ready("redis", since=0)

    def _replace(self, name: str, end: Callable[[], None]) -> None:
        """End a member, and wait until all its processes have gone and another serves."""
        old = _when_there(lambda: self._fleet.family_of(name))
        end()
        _wait_until_gone(old)
        self._fleet.wait_ready(name, since=0)


def _wait_until_gone(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while left := [process for process in processes if process.is_running()]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{left} had not ended after {START_SECONDS:.0f} s")
        time.sleep(0.05)


def _when_there(find: Callable[[], T]) -> T:
    """A victim may be down from the last fault; wait for it."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return find()
        except LookupError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)

"""One run: a fleet, a crowd of clients and a fault script at the same time, then a look at what is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contracts.settings import Settings
from contracts.store import Store
from tests.chaos.clients import Crowd
from tests.chaos.faults import length_seconds, script
from tests.chaos.fleet import Fleet
from tests.chaos.history import HISTORY, Entry, History
from tests.chaos.injector import Injector
from tests.chaos.observer import Observer
from tests.chaos.orders import orders
from tests.conftest import write_faces, write_gpt2, write_lstm

DRAIN_SECONDS = 120.0  # from the last client's answer until nothing may be unfinished
MARGIN_SECONDS = 8.0  # a lifetime has ended, and a janitor has passed


@dataclass(frozen=True)
class Plan:
    """`jobs` are sent over the length of the fault script. An ended job lives for `result_seconds`."""

    seed: int
    jobs: int
    kills: int
    away_seconds: float
    result_seconds: int


def run(plan: Plan, folder: Path, progress: Callable[[int], None] = lambda finished: None) -> list[Entry]:
    """The run's history. `folder` is empty; it takes store, logs and history. `progress` is told of finished orders."""
    history = History(folder / HISTORY)
    fleet = Fleet(make_store(folder / "store"), folder, history, _settings(plan))
    try:
        fleet.start()
        _disturb(plan, fleet, history, progress)
    finally:
        fleet.stop()
        history.close()
    return history.entries()


def make_store(folder: Path) -> Store:
    store = Store(folder)
    for write in (write_lstm, write_gpt2, write_faces):
        write(store)
    return store


def _settings(plan: Plan) -> Settings:
    return Settings(
        job_result_seconds=plan.result_seconds,
        sync_result_seconds=min(10, plan.result_seconds),
        unread_result_seconds=plan.result_seconds,
    )


def _disturb(plan: Plan, fleet: Fleet, history: History, progress: Callable[[int], None]) -> None:
    faults = script(plan.seed, plan.kills, plan.away_seconds)
    due = orders(plan.seed, plan.jobs)
    observer = Observer(fleet, history)
    crowd = Crowd(
        fleet.ports, history, plan.seed, read_again_after=plan.result_seconds / 4, results_of=observer.results_of
    )
    injector = threading.Thread(target=Injector(fleet, history, observer).run, args=(faults,), name="injector")
    observer.start()
    injector.start()
    clients = threading.Thread(target=crowd.serve, args=(due, len(due) / length_seconds(faults)), name="crowd")
    clients.start()
    while clients.is_alive():
        progress(crowd.finished)
        clients.join(0.5)
    injector.join()
    _look_at_what_is_left(plan, observer, history)
    observer.stop()


def _look_at_what_is_left(plan: Plan, observer: Observer, history: History) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS
    while (left := observer.unfinished()) and time.monotonic() < deadline:
        time.sleep(0.5)
    history.record("drained", unfinished=left)
    time.sleep(plan.result_seconds + MARGIN_SECONDS)
    observer.record_keys()

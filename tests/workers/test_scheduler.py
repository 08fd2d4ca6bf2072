"""The scheduler against fake engines: whoever comes, in whatever order, nobody is lost, doubled or overtaken."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workers.scheduler import Scheduler

NAMES = ["text", "pictures", "tags"]


class FakeEngine:
    """Runs each request for as many calls as the request says; a negative one is refused."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.running: dict[str, int] = {}  # job id -> calls left
        self.added: list[str] = []
        self.calls = 0

    @property
    def free(self) -> int:
        return self.capacity - len(self.running)

    @property
    def busy(self) -> bool:
        return bool(self.running)

    @property
    def jobs(self) -> list[str]:
        return list(self.running)

    def fits(self, request: int) -> bool:
        return self.free > 0

    def add(self, job_id: str, request: int) -> None:
        assert self.free, "a full engine is given nothing"
        if request < 0:
            raise [ValueError, KeyError, MemoryError, ZeroDivisionError][request](job_id)
        self.running[job_id] = request
        self.added.append(job_id)

    def remove(self, job_id: str, choice: int | None = None) -> None:
        self.running.pop(job_id, None)

    def call(self) -> None:
        self.calls += 1
        self.running = {job_id: left - 1 for job_id, left in self.running.items() if left > 1}


def never(job_id: str, error: Exception) -> None:
    """Nothing is refused here."""
    raise AssertionError(job_id) from error


class SchedulerMachine(RuleBasedStateMachine):
    """Random submissions, cancellations and rounds, beside a plain list of what should be where."""

    def __init__(self) -> None:
        super().__init__()
        self.engines: dict[str, FakeEngine] = {}

    @precondition(lambda self: not self.engines)
    @rule(capacities=st.lists(st.integers(1, 4), min_size=3, max_size=3))
    def begin(self, capacities):
        self.engines = {name: FakeEngine(capacity) for name, capacity in zip(NAMES, capacities, strict=True)}
        self.scheduler = Scheduler(dict(self.engines))
        self.submitted: dict[str, list[tuple[str, int]]] = {
            name: [] for name in NAMES
        }  # (job id, request) in order of arrival
        self.cancelled: set[str] = set()
        self.refused: dict[str, Exception] = {}
        self.number = 0

    @precondition(lambda self: self.engines)
    @rule(name=st.sampled_from(NAMES), requests=st.lists(st.integers(-4, 5).filter(bool), min_size=1, max_size=6))
    def submit(self, name, requests):
        for request in requests:
            self.number += 1
            self.scheduler.submit(name, f"job-{self.number}", request)
            self.submitted[name].append((f"job-{self.number}", request))

    @precondition(lambda self: self.engines)
    @rule(number=st.integers(0, 60))
    def cancel(self, number):
        """Jobs that wait, run, have ended, were refused, or never were."""
        job_id = f"job-{number}"
        ended = {job_id for engine in self.engines.values() for job_id in engine.added} - self.running()
        if number <= self.number and job_id not in ended | self.refused.keys():
            self.cancelled.add(job_id)
        self.scheduler.cancel(job_id)
        assert job_id not in self.running()

    @precondition(lambda self: self.engines)
    @rule()
    def round(self):
        self.scheduler.admit(lambda job_id, error: self.refused.__setitem__(job_id, error))
        for engine in self.engines.values():
            assert not engine.free or not self.waiting(engine), "who waits enters where there is room"
        due = self.scheduler.due()
        assert Counter(due) == Counter(name for name in NAMES if self.engines[name].busy)
        for name in due:
            self.engines[name].call()

    def running(self) -> set[str]:
        return {job_id for engine in self.engines.values() for job_id in engine.running}

    def waiting(self, engine: FakeEngine) -> int:
        return self.scheduler.waiting(next(name for name in NAMES if self.engines[name] is engine))

    @precondition(lambda self: self.engines)
    @invariant()
    def each_job_is_in_one_place_and_entered_in_order_of_arrival(self):
        for name, engine in self.engines.items():
            assert len(engine.running) <= engine.capacity
            bad = {job_id for job_id, request in self.submitted[name] if request < 0}
            gone = self.cancelled | self.refused.keys()
            enter = [job_id for job_id, _ in self.submitted[name] if job_id in engine.added or job_id not in gone]
            assert enter[: len(engine.added)] == engine.added
            assert self.scheduler.waiting(name) == len(enter) - len(engine.added)
            assert not bad & set(engine.added)
        assert all(str(error).strip("'") == job_id for job_id, error in self.refused.items())
        waiting = any(self.scheduler.waiting(name) for name in NAMES)
        assert self.scheduler.busy == (waiting or bool(self.running()))

    def teardown(self):
        """Left alone, all that were not cancelled come to their end."""
        for _ in range(1000):
            if not self.engines or not self.scheduler.busy:
                break
            self.round()
        else:
            raise AssertionError("the work does not end")
        for name, engine in self.engines.items():
            for job_id, request in self.submitted[name]:
                places = [job_id in engine.added, job_id in self.refused, job_id in self.cancelled - set(engine.added)]
                assert places.count(True) == 1, f"{job_id} was lost or doubled"
                assert (job_id in self.refused) <= (request < 0)
            assert len(set(engine.added)) == len(engine.added)


SchedulerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestScheduler = SchedulerMachine.TestCase


@settings(deadline=None)
@given(
    long=st.integers(50, 200),
    short=st.lists(st.integers(1, 5), min_size=1, max_size=10),
    capacities=st.lists(st.integers(1, 3), min_size=2, max_size=2),
)
def test_a_long_text_delays_no_picture(long, short, capacities):
    engines = {name: FakeEngine(capacity) for name, capacity in zip(NAMES, capacities, strict=False)}
    scheduler = Scheduler(dict(engines))
    for number in range(10):
        scheduler.submit("text", f"long-{number}", long)
    for number, calls in enumerate(short):
        scheduler.submit("pictures", f"short-{number}", calls)
    rounds = 0
    while engines["pictures"].busy or scheduler.waiting("pictures"):
        scheduler.admit(never)
        due = scheduler.due()
        assert sorted(due) == ["pictures", "text"]
        for name in due:
            engines[name].call()
        rounds += 1
    assert engines["text"].calls == rounds <= sum(short)


def test_who_comes_first_moves_on_each_round():
    engines = {name: FakeEngine(1) for name in NAMES}
    scheduler = Scheduler(dict(engines))
    for name in NAMES:
        scheduler.submit(name, name, 10)
    scheduler.admit(never)
    assert {scheduler.due()[0] for _ in range(3)} == set(NAMES)


def test_an_engine_that_is_not_here_is_a_key_error():
    with pytest.raises(KeyError):
        Scheduler({"text": FakeEngine(1)}).submit("nope", "job", 1)


def test_a_scheduler_without_engines_is_idle():
    scheduler: Scheduler[int] = Scheduler({})
    scheduler.admit(never)
    scheduler.cancel("unknown")
    assert (scheduler.busy, scheduler.due()) == (False, [])


def test_an_engine_that_failed_is_cleared_and_the_others_are_left_alone():
    engines = {name: FakeEngine(2) for name in NAMES}
    scheduler = Scheduler(dict(engines))
    for name in NAMES:
        for number in range(5):
            scheduler.submit(name, f"{name} {number}", 10)
    scheduler.admit(never)
    scheduler.clear("text")
    assert (engines["text"].jobs, scheduler.waiting("text")) == ([], 0)
    assert (engines["tags"].jobs, scheduler.waiting("tags")) == (["tags 0", "tags 1"], 3)


def test_what_an_engine_had_taken_of_a_request_that_it_then_refused_is_taken_out():
    class Hesitant(FakeEngine):
        def add(self, job_id: str, request: int) -> None:
            super().add(job_id, request)
            raise MemoryError("for its second half")

    engine = Hesitant(2)
    refused: list[str] = []
    scheduler: Scheduler[int] = Scheduler({"text": engine})
    scheduler.submit("text", "job", 3)
    scheduler.admit(lambda job_id, error: refused.append(job_id))
    assert (refused, engine.jobs, scheduler.busy) == (["job"], [], False)

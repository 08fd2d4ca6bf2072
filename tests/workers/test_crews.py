"""Who serves while models change. The children are fakes here; tests/workers/test_versions.py has real ones."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.requests import Target
from workers import crews as crews_module
from workers.crews import MOST_FAILED_STARTS, Crews


class FakeServed:
    def __init__(self, targets):
        self.queues = [target.engine for target in targets]
        self.capacities = {}
        self.refused: frozenset[Target] = frozenset()


class FakeCrew:
    """As much of a Crew as its place among others depends on."""

    def __init__(self, wanted):
        self.targets = frozenset(wanted)
        self.served = FakeServed(self.targets)
        self.flights = []
        self.child_restarts = 0
        self.ready = self.stopped = False

    def becomes_ready(self, *refused):
        self.ready = True
        self.served.refused = frozenset(refused)
        self.served.capacities = {target.engine: 8 for target in self.targets - self.served.refused}

    def free_places(self):
        return dict(self.served.capacities)

    def stop(self):
        self.stopped = True


A1, A2, B1 = (
    Target(model=model, version=version, variant="pytorch:fp32") for model, version in (("a", 1), ("a", 2), ("b", 1))
)


@pytest.fixture
def made():
    return []


@pytest.fixture
def refused() -> set[Target]:
    return set()


@pytest.fixture
def crews(made, refused):
    def make(wanted):
        made.append(FakeCrew(wanted))
        return made[-1]

    bundles: dict[Target, Any] = dict.fromkeys([A1, B1])
    crews = Crews(bundles, make, refused.update)
    made[0].becomes_ready()
    return crews


def want(crews, *targets, reloads=0):
    crews.want(dict.fromkeys(targets), reloads)


def test_nothing_changes_while_what_is_wanted_is_served(crews, made):
    want(crews, B1, A1)
    assert not crews.change()
    assert len(made) == 1


def test_a_reload_brings_new_crews_for_the_same_models_each_time(crews, made):
    for count in (1, 2):
        want(crews, A1, B1, reloads=count)
        assert not crews.change()
        assert len(made) == count + 1
        made[-1].becomes_ready()
        assert crews.change()
        assert crews.serving is made[-1]
        assert not crews.change()
    assert len(made) == 3


def test_a_reload_that_fails_is_given_up_and_not_tried_for_ever(crews, made):
    want(crews, A1, B1, reloads=1)
    crews.change()
    made[-1].child_restarts = MOST_FAILED_STARTS
    crews.change()
    assert crews.serving is made[0]
    crews._next_start = 0.0
    crews.change()
    assert len(made) == 2


def test_the_old_crew_serves_until_the_new_one_is_ready_and_then_ends_what_it_alone_has(crews, made):
    want(crews, A2, B1)
    assert not crews.change()
    old, new = made
    assert list(crews) == [old]
    assert crews.with_children == [old, new]
    new.becomes_ready()
    assert crews.change()
    assert list(crews) == [new, old]
    assert crews.of_engine(A2.engine) is crews.of_engine(B1.engine) is new
    assert crews.of_engine(A1.engine) is old
    assert crews.free_places().keys() == {A1.engine, A2.engine, B1.engine}


def test_the_new_crew_decides_what_it_has_room_for_itself(crews, made):
    want(crews, A2, B1)
    crews.change()
    made[1].becomes_ready()
    made[1].served.capacities[B1.engine] = 3
    crews.change()
    assert crews.free_places()[B1.engine] == 3


def test_a_leaving_crew_stays_while_it_has_jobs_and_some_time_after(crews, made, monkeypatch):
    want(crews, A2, B1)
    crews.change()
    old, new = made
    new.becomes_ready()
    crews.change()
    monkeypatch.setattr(crews_module, "LINGER_SECONDS", -1.0)
    old.flights = ["one"]
    crews.change()
    assert list(crews) == [new, old]
    old.flights = []
    monkeypatch.setattr(crews_module, "LINGER_SECONDS", 60.0)
    crews.change()
    assert not old.stopped
    monkeypatch.setattr(crews_module, "LINGER_SECONDS", -1.0)
    crews.change()
    assert old.stopped
    assert list(crews) == [new]


def test_a_crew_that_cannot_load_a_new_version_never_serves(crews, made, refused):
    want(crews, A2, B1)
    crews.change()
    old, new = made
    new.becomes_ready(A2)
    assert not crews.change()
    assert new.stopped
    assert list(crews) == [old]
    assert refused == {A2}
    crews.change()
    assert len(made) == 2, "the next try comes later, or when something else is wanted"


def test_a_crew_whose_child_dies_again_and_again_is_given_up(crews, made, refused):
    want(crews, A2, B1)
    crews.change()
    made[1].child_restarts = MOST_FAILED_STARTS - 1
    crews.change()
    assert not made[1].stopped
    made[1].child_restarts = MOST_FAILED_STARTS
    crews.change()
    assert made[1].stopped
    assert refused == {A2}


def test_what_is_served_well_is_not_refused_because_there_was_no_room_for_it_twice(crews, made, refused):
    want(crews, A2, B1)
    crews.change()
    made[1].becomes_ready(B1)
    crews.change()
    assert refused == {A2}
    assert list(crews) == [made[0]]


def test_what_the_first_crew_cannot_load_is_refused_too(crews, made, refused):
    made[0].becomes_ready(A1)
    crews.change()
    assert refused == {A1}
    refused.clear()
    crews.change()
    assert not refused, "once: it may be tried again later"


def test_a_change_of_mind_dismisses_the_crew_that_is_coming(crews, made):
    want(crews, A2, B1)
    crews.change()
    want(crews, A1, B1)
    crews.change()
    assert made[1].stopped
    assert crews.with_children == [made[0]]
    assert not crews.change()

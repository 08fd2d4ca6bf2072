"""Suspects against a model of an engine that poison kills: the innocent finish, the poison is found, deaths are few."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from workers.suspects import MOST_DEATHS_ALONE, Suspects

JOBS = st.integers(0, 70).flatmap(
    lambda count: st.tuples(st.just(count), st.sets(st.integers(0, max(count - 1, 0)), max_size=count))
)


class Trial:
    """Runs jobs to their end as a worker does; `kills(running)` says whether the engine dies of this company."""

    def __init__(self, kills) -> None:
        self.suspects = Suspects()
        self.kills = kills
        self.finished: list[str] = []
        self.failed: dict[str, list[str]] = {}  # with what ran when they were found guilty
        self.deaths = 0
        self.groups: list[list[str]] = []  # what ran together, while suspects were tried

    def enter(self, *jobs: str) -> None:
        for job in jobs:
            self.suspects.enter(job)

    def run(self) -> None:
        while self.step():
            pass
        assert not self.suspects.trying

    def step(self) -> bool:
        """Runs those whose turn it is to their end, or their engine's; False if there are none."""
        self.suspects.start()
        running = list(self.suspects.running)
        if self.suspects.trying:
            self.groups.append(running)
        if self.kills(running):
            self.die()
        else:
            self.finish(*running)
        return bool(running)

    def finish(self, *jobs: str) -> None:
        for job in jobs:
            assert self.suspects.deaths_alone(job) < MOST_DEATHS_ALONE
            self.finished.append(job)
            self.suspects.leave(job)

    def die(self) -> None:
        self.deaths += 1
        accused = self.suspects.accuse(list(self.suspects.running))
        assert not self.suspects.running
        for job in accused:
            if self.suspects.deaths_alone(job) == MOST_DEATHS_ALONE:
                self.failed[job] = accused
                self.suspects.leave(job)


def names(numbers) -> list[str]:
    return [str(number) for number in numbers]


@given(JOBS)
def test_every_innocent_finishes_every_poison_fails_alone_and_deaths_are_bounded(jobs):
    count, poison = jobs
    guilty = set(names(poison)) & set(names(range(count)))
    trial = Trial(lambda running: any(job in guilty for job in running))
    trial.enter(*names(range(count)))
    trial.run()
    assert sorted(trial.finished) == sorted(set(names(range(count))) - guilty)
    assert trial.failed == {job: [job] for job in guilty}
    assert all(trial.suspects.deaths_alone(job) == 0 for job in trial.finished)
    assert trial.deaths <= len(guilty) * (math.ceil(math.log2(max(count, 1))) + MOST_DEATHS_ALONE)


@given(st.integers(2, 70), st.data())
def test_jobs_that_kill_only_in_each_others_company_all_finish(count, data):
    pair = set(names(data.draw(st.sets(st.integers(0, count - 1), min_size=2, max_size=2))))
    trial = Trial(lambda running: pair <= set(running))
    trial.enter(*names(range(count)))
    trial.run()
    assert sorted(trial.finished) == sorted(names(range(count)))
    assert trial.deaths <= math.ceil(math.log2(count))


@given(st.integers(1, 40), st.data())
def test_whatever_comes_and_goes_meanwhile_nobody_is_lost_or_tried_twice_at_once(count, data):
    """Jobs come, are cancelled and end one by one; the engine also dies for no reason."""
    suspects = Suspects()
    alive: set[str] = set()
    accusations = 0
    for number in range(count):
        suspects.enter(str(number))
        alive.add(str(number))
    for step in range(data.draw(st.integers(1, 60))):
        started = suspects.start()
        running = list(suspects.running)
        assert len(set(running)) == len(running)
        assert set(started) <= set(running) <= alive
        kind = data.draw(st.sampled_from(["end", "cancel", "die", "die of some", "stop some", "come"]))
        if kind in {"end", "cancel"} and alive:
            job = data.draw(st.sampled_from(sorted(running if kind == "end" and running else alive)))
            alive.discard(job)
            suspects.leave(job)
        elif kind == "come" and suspects.open:
            alive.add(f"new {step}")
            suspects.enter(f"new {step}")
        elif kind == "stop some" and running:
            stopped = data.draw(st.sets(st.sampled_from(running)))
            assert set(suspects.put_back(stopped)) == stopped
        elif running and kind.startswith("die"):
            accusations += 1
            accused = set(running) if kind == "die" else data.draw(st.sets(st.sampled_from(running), min_size=1))
            assert set(suspects.accuse(accused)) == accused
            assert not accused & set(suspects.running)
    while alive:  # and now all is well
        suspects.start()
        ended = list(suspects.running)
        assert ended
        for job in ended:
            alive.remove(job)
            suspects.leave(job)
    assert not suspects.trying


def test_halves_whose_company_died_less_often_come_first():
    trial = Trial(lambda running: "0" in running)
    trial.enter(*names(range(8)))
    trial.run()
    assert trial.groups[:6] == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["0", "1"], ["2", "3"], ["0"], ["1"]]
    assert trial.groups[6:] == [["0"], ["0"]]
    assert trial.finished == names([4, 5, 6, 7, 2, 3, 1])


def is_open(suspects: Suspects) -> bool:
    """A function, since a property's value is taken to stay."""
    return suspects.open


def test_others_have_a_turn_between_two_trials():
    suspects = Suspects()
    for job in "abc":
        suspects.enter(job)
    assert suspects.start() == ["a", "b", "c"]
    assert suspects.accuse("ab") == ["a", "b"]
    assert suspects.put_back("c") == ["c"]
    assert suspects.start() == ["a"]
    assert not is_open(suspects)
    suspects.leave("a")
    assert is_open(suspects)
    suspects.enter("late")
    assert suspects.start() == ["c", "late"]
    assert not is_open(suspects)
    suspects.leave("c")
    assert not is_open(suspects)
    assert suspects.start() == []
    suspects.leave("late")
    assert suspects.start() == ["b"]
    suspects.leave("b")
    assert is_open(suspects)


def test_a_turn_that_nobody_waits_for_is_left_out():
    suspects = Suspects()
    for job in "ab":
        suspects.enter(job)
    suspects.start()
    suspects.accuse("ab")
    assert suspects.start() == ["a"]
    suspects.leave("a")
    assert suspects.start() == ["b"]


def test_others_that_an_engine_dies_of_in_their_turn_are_suspects_too():
    suspects = Suspects()
    for job in "ab":
        suspects.enter(job)
    suspects.start()
    suspects.accuse("ab")
    suspects.start()
    suspects.leave("a")
    suspects.enter("c")
    assert suspects.start() == ["c"]
    assert suspects.accuse("c") == ["c"]
    assert suspects.deaths_alone("c") == 1
    assert suspects.start() == ["b"]
    suspects.leave("b")
    assert suspects.start() == ["c"]


@given(JOBS, st.integers(1, 5))
def test_whoever_comes_while_suspects_are_tried_waits_for_no_more_than_one_trial(jobs, arrivals):
    count, poison = jobs
    guilty = set(names(poison))
    trial = Trial(lambda running: any(job in guilty for job in running))
    trial.enter(*names(range(count)))
    arrived = 0
    while trial.suspects.running or trial.suspects.trying or not trial.groups:
        if trial.suspects.open and trial.suspects.trying:
            fresh = [f"new {arrived + each}" for each in range(arrivals)]
            arrived += arrivals
            trial.enter(*fresh)
            trial.step()
            assert trial.finished[-arrivals:] == fresh
        elif not trial.step():
            break
    assert set(names(range(count))) - guilty <= set(trial.finished)
    assert set(trial.failed) == guilty & set(names(range(count)))


def test_one_that_dies_again_after_it_was_stopped_through_no_fault_of_its_own_keeps_its_attempts():
    suspects = Suspects()
    suspects.enter("a")
    suspects.start()
    suspects.accuse("a")
    suspects.start()
    assert suspects.put_back("a") == ["a"]
    assert suspects.trying
    assert suspects.start() == ["a"]
    assert suspects.deaths_alone("a") == 1

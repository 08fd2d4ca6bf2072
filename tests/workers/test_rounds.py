"""Rounds with engines that write down what is done to them."""

from __future__ import annotations

from typing import Any

import pytest

from workers.engines import Call, Delta
from workers.rounds import Rounds
from workers.scheduler import Scheduler


class Engine:
    """One request, `calls` calls long. A device's launch gives a handle, a CPU's the finished call."""

    def __init__(self, name, diary, calls, *, device, fails_at=None):
        self.name, self._diary, self._left = name, diary, calls
        self._device, self._fails_at, self._made = device, fails_at, 0

    @property
    def busy(self):
        return self._left > 0

    @property
    def jobs(self):
        return ["job"] if self.busy else []

    def remove(self, job_id, choice=None):
        self._left = 0

    def launch(self):
        self._diary.append(f"{self.name} launches")
        self._made += 1
        if self._made == self._fails_at:
            raise ValueError("no memory of this kind")
        return self._made if self._device else self._call(self._made)

    def collect(self, handle):
        if self._device:
            self._diary.append(f"{self.name} collects {handle}")
        self._left -= 1
        return self._call(handle) if self._device else handle

    @staticmethod
    def _call(number):
        return Call([Delta("job", tokens=[number])], 1, 1, 0.0)


def diary_of(*engines_with):
    """What happens until nothing is left to do."""
    diary: list[str] = []
    engines: dict[str, Any] = {settings["name"]: Engine(diary=diary, **settings) for settings in engines_with}
    scheduler = Scheduler(dict(engines))

    def tell(name, call):
        diary.append(f"{name} has told {call.events[0].tokens[0]}")

    def fail(name, error):
        diary.append(f"{name} failed: {error}")
        scheduler.clear(name)

    rounds = Rounds(engines, scheduler, tell, fail)
    while scheduler.busy:
        rounds.go()
    return diary


def test_what_a_cpu_has_made_is_told_before_anything_else_is_launched():
    diary = diary_of({"name": "text", "calls": 2, "device": False}, {"name": "tags", "calls": 1, "device": False})
    for name, calls in (("text", 2), ("tags", 1)):
        for number in range(1, calls + 1):
            told = diary.index(f"{name} has told {number}")
            assert diary[told - 1] == f"{name} launches"
    assert len(diary) == 6


def test_a_device_has_its_next_call_before_the_last_one_is_told_and_the_end_is_told_at_once():
    assert diary_of({"name": "text", "calls": 3, "device": True}) == [
        "text launches",
        "text collects 1",
        "text launches",
        "text has told 1",
        "text collects 2",
        "text launches",
        "text has told 2",
        "text collects 3",
        "text has told 3",
    ]


def test_two_models_of_a_device_are_launched_before_either_is_waited_for():
    diary = diary_of({"name": "text", "calls": 1, "device": True}, {"name": "faces", "calls": 2, "device": True})
    assert {each.split()[1] for each in diary[:2]} == {"launches"}
    assert diary[-1] == "faces has told 2", "though nobody was busy any more"
    assert sorted(each for each in diary if "told" in each) == [
        "faces has told 1",
        "faces has told 2",
        "text has told 1",
    ]


@pytest.mark.parametrize("device", [True, False])
def test_what_was_made_before_a_call_raised_is_told_before_the_failure(device):
    diary = diary_of({"name": "text", "calls": 3, "device": device, "fails_at": 2})
    assert diary[-2:] == (["text has told 1"] if device else ["text launches"]) + [
        "text failed: no memory of this kind"
    ]
    assert "text has told 1" in diary

"""Chores: done when they are due, sooner or later when asked, and again at once when they fail."""

from __future__ import annotations

import time

import pytest

from workers.chores import Chore


def test_a_chore_is_done_at_once_and_then_every_so_often():
    done: list[float] = []
    chore = Chore(60, lambda: done.append(time.monotonic()))
    chore.do_if_due()
    chore.do_if_due()
    assert len(done) == 1
    assert 59 < chore.due - time.monotonic() <= 60


def test_it_can_be_asked_for_sooner_or_later():
    done: list[int] = []
    chore = Chore(60, lambda: done.append(1))
    chore.postpone(30)
    chore.do_if_due()
    assert not done
    chore.within(40)
    chore.do_if_due()
    assert not done, "it comes sooner than that already"
    chore.within(0)
    chore.do_if_due()
    assert done == [1]


def test_one_that_fails_stays_due():
    def fail() -> None:
        raise OSError("not now")

    chore = Chore(60, fail)
    for _ in range(2):
        with pytest.raises(OSError, match="not now"):
            chore.do_if_due()

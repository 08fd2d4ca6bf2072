"""Silence counts only while somebody looks."""

from __future__ import annotations

from workers.silence import LONGEST_LOOK_SECONDS, Silence


def test_silence_adds_up_while_we_look_and_ends_with_a_word():
    silence = Silence(100.0)
    assert [silence.look(100.0 + tenths / 10) for tenths in (5, 10, 25)] == [0.5, 1.0, 2.5]
    silence.broken(103.0)
    assert silence.look(103.5) == 0.5


def test_time_in_which_we_were_stopped_ourselves_hardly_counts():
    silence = Silence(0.0)
    assert silence.look(3600.0) == LONGEST_LOOK_SECONDS
    assert silence.look(3600.5) == LONGEST_LOOK_SECONDS + 0.5

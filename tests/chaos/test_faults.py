"""Fault scripts: reproducible, and with at least the kills that were asked for."""

from __future__ import annotations

import pytest

from tests.chaos.faults import KILLED_KINDS, kills_by_kind, length_seconds, script


@pytest.mark.parametrize("seed", range(5))
def test_a_script_kills_each_kind_of_process_as_often_as_asked(seed):
    kills = kills_by_kind(script(seed, kills=10, away_seconds=60))
    assert all(kills[kind] >= 10 for kind in KILLED_KINDS), kills


def test_the_same_seed_gives_the_same_script():
    assert script(7, kills=3, away_seconds=60) == script(7, kills=3, away_seconds=60)
    assert script(7, kills=3, away_seconds=60) != script(8, kills=3, away_seconds=60)


def test_a_full_disk_and_a_killed_redis_keep_apart():
    for seed in range(20):
        faults = script(seed, kills=8, away_seconds=60)
        for full in (fault for fault in faults if fault.kind == "full"):
            for kill in (fault for fault in faults if fault.victim == "redis" and fault.kind in {"kill", "away"}):
                assert not full.at - 1 < kill.at < full.at + full.seconds + 1


def test_the_long_run_takes_at_most_half_an_hour():
    assert length_seconds(script(1, kills=10, away_seconds=60)) < 20 * 60

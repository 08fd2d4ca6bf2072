"""benchmarks/capacity.py: the queueing model, against what is known of queues."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "capacity.py"


@pytest.fixture(scope="module")
def capacity():
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module("capacity")
    sys.path.remove(str(SCRIPT.parent))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_one_row_and_one_token_is_the_queue_m_d_1(capacity, share):
    service = 0.01
    taken = capacity.simulate(capacity.Steps(service, 0.0, 0.0), share / service, 1, 1, 1)
    assert taken.mean() == pytest.approx(service + share * service / (2 * (1 - share)), rel=0.05)


def test_nobody_waits_where_there_is_room_for_all(capacity):
    taken = capacity.simulate(capacity.Steps(0.01, 0.0, 0.0), 1.0, 20, 8, 64)
    assert taken.min() == pytest.approx(0.2)
    assert taken.max() < 0.2 + 3 * 0.01


def test_more_workers_are_planned_for_more_load_and_keep_the_promise(capacity):
    steps = capacity.Steps(0.005, 0.0005, 0.004)
    plans = [capacity.fewest_workers(steps, rate, 64, 64, 2.0) for rate in (10, 100)]
    (few, _), (many, taken) = plans
    assert few == 1
    assert 3 < many < 20
    assert sorted(taken)[int(0.99 * len(taken))] <= 2.0 * 1.01
    assert capacity.fewest_workers(steps, 1.0, 64, 64, 0.1) is None  # a text alone takes longer


def closed_loop(steps, new_tokens, levels):
    """What a worker with these steps does at each level."""
    found = []
    for count, bucket in levels:
        step = steps.fixed + steps.each * bucket + steps.entering * count / new_tokens
        first = SimpleNamespace(p50=steps.elsewhere + steps.alone(1))
        found.append(
            SimpleNamespace(
                load=SimpleNamespace(concurrency=count),
                rates=SimpleNamespace(output_tokens=count / step),
                models=[SimpleNamespace(latencies=SimpleNamespace(time_to_first_token=first))],
            )
        )
    return found


def test_steps_are_found_again_from_what_a_closed_loop_did(capacity):
    steps = capacity.Steps(0.006, 0.001, 0.02, 0.009)
    found = capacity.Steps.fitted(closed_loop(steps, 64, [(1, 1), (4, 4), (12, 16), (24, 32)]), 64)
    for name in ("fixed", "each", "entering", "elsewhere"):
        assert getattr(found, name) == pytest.approx(getattr(steps, name))


def test_levels_that_cannot_tell_prompts_from_rows_are_not_enough(capacity):
    steps = capacity.Steps(0.006, 0.001, 0.02, 0.009)
    with pytest.raises(SystemExit, match="--concurrency 1,4,12"):
        capacity.Steps.fitted(closed_loop(steps, 64, [(1, 1), (4, 4), (16, 16), (32, 32)]), 64)

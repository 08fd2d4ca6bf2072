"""The loops: who waits for whom, and from when a latency counts."""

from __future__ import annotations

import asyncio
import time
from itertools import repeat

import pytest

from cli.bench.calls import Call
from cli.bench.load import LoadRun
from cli.bench.outcome import Outcome


class Asker:
    """Answers after a while; `blocking` makes it a client that is itself too slow."""

    def __init__(self, seconds: float = 0.0, blocking: float = 0.0) -> None:
        self.seconds = seconds
        self.blocking = blocking
        self.at_once = self.most_at_once = 0

    async def ask(self, call: Call, due: float) -> Outcome:
        sent = time.perf_counter()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.blocking)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        return Outcome(call, due, sent, time.perf_counter())


def calls(number: int) -> Call:
    return Call(0, "text", {"number": number})


def run(asker, *, requests=None, duration=None, concurrency=None, gaps=None, stop_after=None):
    outcomes: list[Outcome] = []
    load = LoadRun(asker, calls, outcomes.append, requests, duration)

    async def go() -> None:
        stop = asyncio.Event()
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, stop.set)
        await (load.closed_loop(concurrency, stop) if concurrency else load.open_loop(iter(gaps), stop))

    asyncio.run(go())
    return load, outcomes


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_closed_loop_has_so_many_requests_under_way_and_asks_each_once(concurrency):
    asker = Asker(0.002)
    _, outcomes = run(asker, requests=20, concurrency=concurrency)
    assert asker.most_at_once == concurrency
    assert sorted(outcome.call.body["number"] for outcome in outcomes) == list(range(20))


def test_an_open_loop_waits_for_nobody():
    asker = Asker(0.3)
    load, outcomes = run(asker, requests=30, gaps=repeat(0.002))
    assert asker.most_at_once == 30
    due = [outcome.due - load.begin for outcome in sorted(outcomes, key=lambda outcome: outcome.due)]
    assert due == pytest.approx([0.002 * number for number in range(1, 31)])


def test_what_a_slow_client_sends_late_counts_from_when_it_was_due():
    """Ten requests, due all at once, of which each keeps the client busy for 20 ms."""
    _, outcomes = run(Asker(blocking=0.02), requests=10, gaps=repeat(0.0))
    waits = sorted(outcome.end_to_end for outcome in outcomes)
    assert waits[-1] >= 0.2
    assert waits[4] >= 0.1
    assert max(outcome.sent - outcome.due for outcome in outcomes) >= 0.18


@pytest.mark.parametrize("loop", [{"concurrency": 2}, {"gaps": repeat(0.01)}])
def test_a_duration_ends_asking_and_lets_what_is_under_way_end(loop):
    load, outcomes = run(Asker(0.1), duration=0.15, **loop)
    assert outcomes
    assert load.given_up == 0
    assert all(outcome.sent < load.begin + 0.15 + 0.1 for outcome in outcomes)
    assert max(outcome.due for outcome in outcomes) < load.begin + 0.15


@pytest.mark.parametrize("loop", [{"concurrency": 3}, {"gaps": [0.0, 0.0, 0.0, 100.0]}])
def test_a_stopped_run_keeps_what_it_has_and_gives_up_the_rest(loop):
    load, outcomes = run(Asker(60.0), requests=100, stop_after=0.05, **loop)
    assert (len(outcomes), load.given_up) == (0, 3)

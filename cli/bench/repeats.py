"""Whether a request's answer depends on its company: some are sent once more, each alone, and compared exactly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from cli.bench.calls import Call
from cli.bench.load import Asker
from cli.bench.outcome import Outcome
from cli.bench.results import Repeats


def sample(outcomes: Sequence[Outcome], most: int) -> list[Outcome]:
    """Of those that succeeded at most so many, evenly apart over the run."""
    good = [outcome for outcome in outcomes if outcome.fault is None]
    count = min(most, len(good))
    return [good[place * len(good) // count] for place in range(count)]


async def repeat(
    asker: Asker, outcomes: Sequence[Outcome], ours: bool, tell: Callable[[], object], stop: asyncio.Event
) -> Repeats:
    """An answer that differs is asked for a third time. Where the two that were alone differ, too, the server does not
    repeat itself, with or without company."""
    repeated = changed = unsteady = failed = 0
    for outcome in outcomes:
        if stop.is_set():
            break
        repeated += 1
        alone = await _alone(asker, outcome.call, ours)
        if alone is not None and alone != outcome.content.digest:
            again = await _alone(asker, outcome.call, ours)
            changed += again == alone
            unsteady += again not in {alone, None}
            failed += again is None
        failed += alone is None
        tell()
    return Repeats(repeated=repeated, changed=changed, unsteady=unsteady, failed=failed)


async def _alone(asker: Asker, call: Call, ours: bool) -> bytes | None:
    """A server of ours is told to compute the answer anew, though it may keep it."""
    fresh = {"cache": False} if ours else {}
    outcome = await asker.ask(replace(call, body={**call.body, **fresh}), time.perf_counter())
    return None if outcome.fault is not None else outcome.content.digest

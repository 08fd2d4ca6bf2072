"""A level, second by second."""

from __future__ import annotations

from collections.abc import Sequence

from cli.bench.distribution import Distribution
from cli.bench.outcome import Outcome
from cli.bench.results import Second


def series(outcomes: Sequence[Outcome], begin: float, end: float) -> tuple[Second, ...]:
    """The last second may be a part of one. A text's tokens come with its pieces, as many with each."""
    length = max(1, int(end - begin) + 1)
    ended: list[list[float]] = [[] for _ in range(length)]
    errors, tokens, came, went = ([0.0] * length for _ in range(4))
    for outcome in outcomes:
        last = _place(outcome.ended, begin, length)
        came[_place(outcome.due, begin, length)] += 1
        went[last] += 1
        if outcome.fault is not None:
            errors[last] += 1
            continue
        ended[last].append(outcome.end_to_end)
        times = outcome.content.pieces or (outcome.ended,)
        for seconds in times:
            tokens[_place(seconds, begin, length)] += (outcome.content.output_tokens or 0) / len(times)
    found, under_way = [], 0
    for place, latencies in enumerate(ended):
        under_way += int(came[place] - went[place])
        spread = Distribution.of(latencies)
        found.append(
            Second(
                ended=len(latencies),
                errors=int(errors[place]),
                output_tokens=round(tokens[place], 3),
                under_way=under_way,
                end_to_end_p50=spread and spread.p50,
                end_to_end_p99=spread and spread.p99,
            )
        )
    return tuple(found)


def _place(seconds: float, begin: float, length: int) -> int:
    return min(max(int(seconds - begin), 0), length - 1)

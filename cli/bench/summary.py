"""A level's requests, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cli.bench.distribution import Distribution
from cli.bench.objective import Objective
from cli.bench.outcome import Outcome
from cli.bench.results import Client, Errors, Goodput, Latencies, Level, OfModel, Rates, Repeats
from cli.bench.series import series
from cli.bench.workload import Load, Workload


def summarise(
    outcomes: Sequence[Outcome],
    load: Load,
    workload: Workload,
    objective: Objective | None,
    repeats: Repeats | None,
    begin: float,
    cpu_seconds: float,
    given_up: int,
) -> Level:
    """`begin` is when the load began, `cpu_seconds` what this process has used of a core since."""
    end = max((outcome.ended for outcome in outcomes), default=begin)
    seconds = max(end - begin, 1e-9)
    good = [outcome for outcome in outcomes if outcome.fault is None]
    lateness = Distribution.of([outcome.sent - outcome.due for outcome in outcomes])
    return Level(
        load=load,
        seconds=seconds,
        requests=len(outcomes),
        succeeded=len(good),
        given_up=given_up,
        came_rate=None if load.rate is None else _came_rate(outcomes, begin),
        rates=_rates(good, seconds),
        goodput=None if objective is None else _goodput(outcomes, objective, seconds),
        errors=_errors(outcomes),
        models=tuple(_of_model(good, place, workload, seconds) for place in range(len(workload.mix))),
        repeats=repeats,
        series=series(outcomes, begin, end),
        client=Client(cpu_share=cpu_seconds / seconds, late_p99=lateness.p99 if lateness else 0.0),
    )


def _came_rate(outcomes: Sequence[Outcome], begin: float) -> float:
    last = max((outcome.due for outcome in outcomes), default=begin)
    return len(outcomes) / max(last - begin, 1e-9)


def _rates(good: Sequence[Outcome], seconds: float) -> Rates:
    tokens = [outcome.content.output_tokens for outcome in good if outcome.call.task == "text"]
    known = [each for each in tokens if each is not None]
    pictures = sum(outcome.content.pictures for outcome in good)
    texts = sum(outcome.content.texts for outcome in good)
    return Rates(
        requests=len(good) / seconds,
        # Some that are not counted make the sum of the others no rate of anything.
        output_tokens=sum(known) / seconds if known and len(known) == len(tokens) else None,
        pictures=pictures / seconds if pictures else None,
        texts=texts / seconds if texts else None,
    )


def _of_model(good: Sequence[Outcome], place: int, workload: Workload, seconds: float) -> OfModel:
    own = [outcome for outcome in good if outcome.call.place == place]
    share = workload.mix[place]
    ways = {outcome.content.counted for outcome in own if outcome.content.counted}
    return OfModel(
        model=share.model,
        task=share.task,
        succeeded=len(own),
        rates=_rates(own, seconds),
        latencies=Latencies(
            end_to_end=Distribution.of([outcome.end_to_end for outcome in own]),
            time_to_first_token=_of_those_known([outcome.time_to_first_token for outcome in own]),
            time_per_output_token=_of_those_known([outcome.time_per_output_token for outcome in own]),
            between_pieces=Distribution.of([gap for outcome in own for gap in outcome.gaps]),
        ),
        prompt_tokens_mean=_mean([outcome.content.prompt_tokens for outcome in own]),
        output_tokens_mean=_mean([outcome.content.output_tokens for outcome in own]),
        counted="both" if len(ways) > 1 else next(iter(ways), None),
    )


def _of_those_known(values: Sequence[float | None]) -> Distribution | None:
    return Distribution.of([value for value in values if value is not None])


def _mean(counts: Sequence[int | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return sum(known) / len(known) if known else None


def _goodput(outcomes: Sequence[Outcome], objective: Objective, seconds: float) -> Goodput:
    met = sum(objective.is_met(outcome) for outcome in outcomes)
    return Goodput(met=met, share=met / len(outcomes) if outcomes else 0.0, rate=met / seconds)


def _errors(outcomes: Sequence[Outcome]) -> tuple[Errors, ...]:
    """The most frequent kind first."""
    faults = [outcome.fault for outcome in outcomes if outcome.fault is not None]
    first = {fault.kind: fault.message for fault in reversed(faults)}
    counts = Counter(fault.kind for fault in faults)
    return tuple(Errors(kind=kind, count=count, example=first[kind]) for kind, count in counts.most_common())

"""Two results side by side, as ratios."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cli.bench.results import Level, OfModel, Results, ServedModel
from cli.bench.tables import LATENCIES, Rows
from contracts.errors import InvalidRequest

NOISE = 1.15  # two runs on one quiet machine differ by as much
PERCENTS = (50, 99)
PLAN = {"requests", "duration_seconds", "warmup", "arrivals"}  # of which the same is needed

_Figure = tuple[str, float | None, float | None, bool]  # its name, both values, and whether more is better


@dataclass(frozen=True)
class Comparison:
    rows: Rows
    notes: list[str]


def compare(first: Results, second: Results) -> Comparison:
    """Of the levels that both have. Raises InvalidRequest for different workloads."""
    if differences := list(_differences(_asked(first), _asked(second))):
        raise InvalidRequest(
            f"the two are no measurements of the same: {'; '.join(differences)}. Measure both with the same options"
        )
    after = {f"{level.load}": level for level in second.levels}
    pairs = [(level, after[f"{level.load}"]) for level in first.levels if f"{level.load}" in after]
    if not pairs:
        raise InvalidRequest(
            f"the two have no level of load in common: {_loads(first)} in the first, {_loads(second)} in the second"
        )
    same_objective = first.objective == second.objective
    rows = [["load", "figure", "first", "second", "second / first", ""]]
    for pair in pairs:
        rows += _rows(*pair, same_objective)
    return Comparison(rows, list(_notes(first, second)))


def _asked(results: Results) -> dict[str, Any]:
    """What has to be the same. Models may have other names on another server, and other versions."""
    workload = results.workload.model_dump(mode="json")
    workload["mix"] = [f"{share.task} x {share.weight:g}" for share in results.workload.mix]
    return workload | results.plan.model_dump(mode="json", include=PLAN)


def _differences(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    for name, value in first.items():
        if value != second[name]:
            yield f"{name} is {value} in the first and {second[name]} in the second"


def _loads(results: Results) -> str:
    return ", ".join(f"{level.load}" for level in results.levels) or "none"


def _rows(first: Level, second: Level, same_objective: bool) -> Rows:
    found: list[_Figure] = [("requests/s", first.rates.requests, second.rates.requests, True)]
    for name, words in {"output_tokens": "tokens/s", "pictures": "pictures/s", "texts": "texts/s"}.items():
        found.append((words, getattr(first.rates, name), getattr(second.rates, name), True))
    if first.goodput and second.goodput and same_objective:
        found.append(("good requests/s", first.goodput.rate, second.goodput.rate, True))
    for before, after in zip(first.models, second.models, strict=True):
        found += _latencies(before, after, f"{before.model}: " if len(first.models) > 1 else "")
    return [
        [f"{first.load}", name, f"{before:.4g}", f"{after:.4g}", *_ratio(before, after, more_is_better)]
        for name, before, after, more_is_better in found
        if before and after
    ]


def _latencies(first: OfModel, second: OfModel, prefix: str) -> Iterator[_Figure]:
    for name, words in LATENCIES.items():
        before, after = getattr(first.latencies, name), getattr(second.latencies, name)
        if before and after:
            for percent in PERCENTS:
                values = 1000 * before.percentile(percent), 1000 * after.percentile(percent)
                yield (f"{prefix}{words}, p{percent} ms", *values, False)


def _ratio(first: float, second: float, more_is_better: bool) -> tuple[str, str]:
    ratio = second / first
    if 1 / NOISE <= ratio <= NOISE:
        return f"{ratio:.2f}", "within noise"
    return f"{ratio:.2f}", "better" if (ratio > 1) == more_is_better else "worse"


def _notes(first: Results, second: Results) -> Iterator[str]:
    yield f"first: {first.url}, {first.began}; second: {second.url}, {second.began}"
    for before, after in zip(first.models, second.models, strict=True):
        if before != after:
            yield f"first: {_named(before)}; second: {_named(after)}"
    if first.machine != second.machine:
        yield "the load came from different machines or versions of this tool, which alone may make a difference"
    if first.objective != second.objective:
        yield f"the objectives differ ({first.objective}; {second.objective}), so goodput is not compared"
    failed = [sum(level.requests - level.succeeded for level in each.levels) for each in (first, second)]
    if any(failed):
        yield f"{failed[0]} requests failed in the first and {failed[1]} in the second; figures are of the others"


def _named(model: ServedModel) -> str:
    version = "" if model.version is None else f"@{model.version}"
    return f"{model.id}{version}" + (f" ({model.variant})" if model.variant else "")

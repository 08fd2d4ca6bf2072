"""Curves of results, as PNG. They are drawn from the numbers in `results.json` alone."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cli.bench.results import Level, Results
from training.figures import empty_figure

EXTRA = "bench"
DOTS_PER_INCH = 120
COLOURS = ("#0b57a4", "#c0392b", "#2e7d4f", "#8e5bb5", "#c77f1a", "#4a5568")
SOFT = "#9aa7b8"
_OF_SECONDS = "Latencies are those of the requests that ended in the second, of all models together."
CURVES = {"end_to_end": "end to end", "time_to_first_token": "first token"}


@dataclass(frozen=True)
class Picture:
    """`name` is that of its file without the ending."""

    name: str
    title: str
    caption: str
    png: bytes


def draw(results: Results) -> list[Picture]:
    """All that there are numbers for. Raises StoreError without matplotlib."""
    return [*_over_load(results), *_series(results)]


def _over_load(results: Results) -> Iterator[Picture]:
    """Curves over the levels of each loop, if there are several."""
    closed = [level for level in results.levels if level.load.concurrency is not None]
    opened = [level for level in results.levels if level.load.rate is not None]
    for name, levels, x in (
        ("concurrency", closed, "requests at once"),
        ("rate", opened, "requests that come a second"),
    ):
        if len(levels) > 1:
            levels.sort(key=_load)
            for place, share in enumerate(results.workload.mix):
                yield _latency(name, levels, x, place, share.model)
            yield _throughput(name, levels, x)


def _load(level: Level) -> float:
    return float(level.load.concurrency or level.load.rate or 0)


def _latency(name: str, levels: Sequence[Level], x: str, place: int, model: str) -> Picture:
    figure, axes = empty_figure(x, "milliseconds", extra=EXTRA)
    for colour, (kind, words) in zip(COLOURS, CURVES.items(), strict=False):
        found = [(_load(level), each) for level in levels if (each := getattr(level.models[place].latencies, kind))]
        for percent, style in ((50, "-"), (99, "--")):
            if found:
                values = [1000 * each.percentile(percent) for _, each in found]
                label = f"{words}, p{percent}"
                axes.plot([load for load, _ in found], values, style, color=colour, marker="o", ms=4, label=label)
    _logarithmic(axes, levels)
    _plain_logarithmic(axes)
    axes.legend(frameon=False)
    caption = "Medians and 99th percentiles of requests that succeeded; both axes are logarithmic."
    return _picture(figure, f"latency-over-{name}-{place + 1}", f"{model}: latency over load", caption)


def _throughput(name: str, levels: Sequence[Level], x: str) -> Picture:
    figure, axes = empty_figure(x, "requests a second", extra=EXTRA)
    loads = [_load(level) for level in levels]
    axes.plot(loads, [level.rates.requests for level in levels], color=COLOURS[0], marker="o", ms=4, label="answered")
    if all(level.goodput for level in levels):
        good = [level.goodput.rate for level in levels if level.goodput]
        axes.plot(loads, good, color=COLOURS[2], marker="o", ms=4, label="within the objective")
    if name == "rate":
        axes.plot(loads, [level.came_rate for level in levels], color=SOFT, ls=":", label="that came")
    lines = axes.get_lines()
    tokens = [level.rates.output_tokens for level in levels]
    if all(each is not None for each in tokens):
        right = axes.twinx()
        right.plot(loads, tokens, color=COLOURS[1], marker="s", ms=4, ls="--", label="tokens a second (right)")
        right.set_ylabel("tokens a second")
        right.set_ylim(bottom=0)
        right.spines[["top"]].set_visible(False)
        lines = [*lines, *right.get_lines()]
    _logarithmic(axes, levels)
    axes.set_ylim(bottom=0)
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, loc="lower right")
    return _picture(figure, f"throughput-over-{name}", "Throughput over load", "Of requests that succeeded.")


def _series(results: Results) -> Iterator[Picture]:
    """Two curves for each level that took long enough to have some."""
    for number, level in enumerate(results.levels, 1):
        if len(level.series) < 3:
            continue
        whole = level.series[:-1]  # the last one is a part of a second
        seconds = range(1, len(whole) + 1)
        figure, axes = empty_figure("second", "requests", extra=EXTRA)
        axes.plot(seconds, [each.ended for each in whole], color=COLOURS[0], lw=1.4, label="answered in this second")
        axes.plot(seconds, [each.under_way for each in whole], color=SOFT, lw=1.4, label="under way at its end")
        if any(each.errors for each in whole):
            axes.plot(seconds, [each.errors for each in whole], color=COLOURS[1], lw=1.4, label="failed")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        right = axes.twinx()
        right.set_ylabel("milliseconds, end to end")
        right.spines[["top"]].set_visible(False)
        for percent, style in ((50, "-"), (99, ":")):
            values = [getattr(each, f"end_to_end_p{percent}") for each in whole]
            shown = [None if value is None else 1000 * value for value in values]
            right.plot(seconds, _gaps(shown), style, color=COLOURS[4], lw=1.4, label=f"end to end, p{percent} (right)")
        right.set_ylim(bottom=0)
        lines = [*axes.get_lines(), *right.get_lines()]
        labels = [line.get_label() for line in lines]
        figure.legend(lines, labels, frameon=False, loc="outside lower center", ncols=3)
        yield _picture(figure, f"seconds-{number}", f"{level.load}, second by second", _OF_SECONDS)


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _logarithmic(axes: Any, levels: Sequence[Level]) -> None:
    axes.set_xscale("log")
    loads = [_load(level) for level in levels]
    axes.set_xticks(loads, [f"{load:g}" for load in loads])
    axes.set_xticks([], minor=True)


def _plain_logarithmic(axes: Any) -> None:
    """1, 2, 5, 10, ... instead of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _picture(figure: Any, name: str, title: str, caption: str) -> Picture:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=DOTS_PER_INCH)
    return Picture(name, title, caption, written.getvalue())

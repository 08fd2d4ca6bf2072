"""What is on each figure of a report. Every function paints one on an empty figure of matplotlib's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from training.evaluation.report import GenreSimilarity, Measure, Report, SettingReport, Uniqueness

WIDTH_INCHES = 8.0
COLUMNS = 3
BAR, MEAN, SOFT = "#3b78b5", "#b3261e", "#c9d6e4"
COLOURS = ("#0b57a4", "#c4570a", "#2e7d32", "#7b3fa0", "#8a6d00", "#00838f", "#b3261e", "#5d4037")
DASHES = ("-", "--", ":", "-.")
NAMES: dict[Measure, str] = {"jaccard": "Jaccard similarity of words", "embedding": "similarity of meaning"}


def similarities(figure: Any, report: Report, measure: Measure) -> None:
    """A histogram of each setting, all on the same axes."""
    settings = [setting for setting in report.settings if measure in setting.highest]
    whole = report.highest[measure]
    low, high = math.floor(max(0.0, whole.lowest) * 20) / 20, math.ceil(min(1.0, whole.highest + 0.001) * 20) / 20
    axes = _grid(figure, len(settings), inches=1.9, sharex=True, sharey=True)
    for place, (panel, setting) in enumerate(zip(axes, settings, strict=True)):
        found = setting.highest[measure]
        edges = found.histogram.edges
        shares = [100 * count / found.count for count in found.histogram.counts]
        panel.bar(edges[:-1], shares, width=edges[1] - edges[0], align="edge", color=BAR)
        panel.axvline(found.mean, color=MEAN, linestyle="--", linewidth=1.2)
        panel.set_title(f"{_heading(report, setting)}\nmean {found.mean:.3f}")
        panel.set_xlim(low, high)
        panel.locator_params(axis="x", nbins=4)
        if place % COLUMNS == 0:
            panel.set_ylabel("% of texts")
    figure.supxlabel(f"highest {NAMES[measure]}", fontsize=10)


def sampling(figure: Any, report: Report) -> None:
    measures = list(_measures(report))
    axes = _grid(figure, len(measures), inches=2.2)
    top_ps = list(dict.fromkeys(setting.setting.top_p for setting in report.settings))
    sources = list(dict.fromkeys(setting.source for setting in report.settings))
    for panel, (name, value) in zip(axes, measures, strict=True):
        for source in sources:
            for top_p in top_ps:
                found = [s for s in report.settings if (s.source, s.setting.top_p) == (source, top_p)]
                points = [(s.setting.temperature, value(s)) for s in found if value(s) is not None]
                panel.plot(
                    *zip(*points, strict=True) if points else ((), ()),
                    color=COLOURS[top_ps.index(top_p) % len(COLOURS)],
                    linestyle=DASHES[sources.index(source) % len(DASHES)],
                    marker="o",
                    markersize=4,
                    clip_on=False,
                    label=f"{_short(source)}, " + ("no top-p" if top_p is None else f"top-p {top_p:g}"),
                )
        panel.set_title(name)
        panel.set_ylim(bottom=0)
        panel.set_xticks(sorted({setting.setting.temperature for setting in report.settings}))
    for panel in axes[-min(COLUMNS, len(axes)) :]:
        panel.set_xlabel("temperature")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)


def _measures(report: Report) -> Iterator[tuple[str, Callable[[SettingReport], float | None]]]:
    for measure in report.highest:
        yield f"highest {'Jaccard' if measure == 'jaccard' else 'meaning'}", partial(_mean_highest, measure)
    yield "words per text", lambda s: s.words.mean if s.words else None
    yield "broken lines, %", lambda s: 100 * s.broken_share
    yield "distinct-2", lambda s: s.diversity.distinct_2
    yield "self-BLEU", lambda s: s.diversity.self_bleu


def _mean_highest(measure: Measure, setting: SettingReport) -> float | None:
    return setting.highest[measure].mean if measure in setting.highest else None


def uniqueness(figure: Any, settings: Sequence[SettingReport]) -> None:
    kinds: list[tuple[str, Callable[[SettingReport], Uniqueness]]] = [
        ("primary titles", lambda s: s.primary_titles),
        ("secondary titles", lambda s: s.secondary_titles),
        ("texts", lambda s: s.texts_uniqueness),
    ]
    rows = range(len(settings))
    figure.set_size_inches(WIDTH_INCHES, _rows_height(settings))
    for panel, (name, kind) in zip(figure.subplots(1, len(kinds), sharey=True), kinds, strict=True):
        found = [(row, kind(setting)) for row, setting in zip(rows, settings, strict=True) if kind(setting).total]
        for row, each in found:
            panel.plot([100 * each.distinct_share, 100 * each.new_share], [row, row], color=SOFT, linewidth=3)
        places = [row for row, _ in found]
        panel.scatter([100 * each.distinct_share for _, each in found], places, color=BAR, zorder=3, label="different")
        panel.scatter(
            [100 * each.new_share for _, each in found],
            places,
            s=60,
            facecolors="none",
            edgecolors=MEAN,
            linewidths=1.5,
            zorder=4,
            label="not in the training",
        )
        panel.set_title(name if found else f"{name}: none")
        panel.set_xlim(-4, 104)
        panel.set_xlabel("%")
    _name_rows(panel, settings)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)


def lengths(figure: Any, settings: Sequence[SettingReport]) -> None:
    figure.set_size_inches(WIDTH_INCHES, _rows_height(settings))
    panel = figure.subplots()
    for row, setting in enumerate(settings):
        if (found := setting.words) is not None:
            panel.plot([found.percentile_5, found.percentile_95], [row, row], color=BAR, linewidth=1.2)
            panel.plot(
                [found.percentile_25, found.percentile_75], [row, row], color=SOFT, linewidth=9, solid_capstyle="butt"
            )
            panel.plot(found.median, row, marker="o", color=BAR)
            panel.plot(found.mean, row, marker="x", color=MEAN)
    panel.set_xlabel("words per text")
    panel.set_xlim(left=0)
    _name_rows(panel, settings)


def broken(figure: Any, settings: Sequence[SettingReport]) -> None:
    kinds = sorted({kind for setting in settings for kind in setting.faults})
    figure.set_size_inches(WIDTH_INCHES, _rows_height(settings) + 0.25 * math.ceil(len(kinds) / 2))
    panel = figure.subplots()
    begins = [0.0] * len(settings)
    for place, kind in enumerate(kinds):
        shares = [100 * setting.faults.get(kind, 0) / setting.lines for setting in settings]
        panel.barh(range(len(settings)), shares, left=begins, color=COLOURS[place % len(COLOURS)], label=kind)
        begins = [begin + share for begin, share in zip(begins, shares, strict=True)]
    panel.set_xlabel("% of lines")
    _name_rows(panel, settings)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)


def genres(figure: Any, found: GenreSimilarity, measure: Measure) -> None:
    _heat_map(figure, found, found.means, f"mean {NAMES[measure]}", MEAN, cmap="YlGnBu")


def affinity(figure: Any, found: GenreSimilarity, measure: Measure) -> None:
    """What is left of the means when those of the row and of the column are taken away."""
    rows = [sum(row) / len(row) for row in found.means]
    columns = [sum(column) / len(column) for column in zip(*found.means, strict=True)]
    middle = sum(rows) / len(rows)
    excess = [[mean - rows[i] - columns[j] + middle for j, mean in enumerate(row)] for i, row in enumerate(found.means)]
    most = max(abs(value) for row in excess for value in row) or 1.0
    label = f"{NAMES[measure]}, above or below\nwhat row and column have"
    _heat_map(figure, found, excess, label, "black", cmap="PuOr_r", vmin=-most, vmax=most)


def _heat_map(
    figure: Any, found: GenreSimilarity, values: Sequence[Sequence[float]], label: str, frame: str, **colours: Any
) -> None:
    """Cells of the same genre are framed."""
    from matplotlib.patches import Rectangle

    figure.set_size_inches(WIDTH_INCHES, max(3.4, 2.2 + 0.24 * len(found.generated)))
    panel = figure.subplots()
    image = panel.imshow(values, aspect="auto", **colours)
    panel.set_xticks(range(len(found.training)), map(_short, found.training), rotation=90)
    panel.set_yticks(range(len(found.generated)), map(_short, found.generated))
    panel.grid(visible=False)
    panel.set_xlabel("genre of training texts")
    panel.set_ylabel("genre of generated texts")
    for row, genre in enumerate(found.generated):
        corner = found.training.index(genre) - 0.5, row - 0.5
        panel.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=frame, linewidth=1.6, clip_on=False, zorder=3))
    figure.colorbar(image, ax=panel, shrink=0.8, label=label)


def _grid(figure: Any, count: int, inches: float, **options: Any) -> list[Any]:
    """So many panels, row by row; places that are left over stay empty."""
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure.set_size_inches(WIDTH_INCHES, 0.9 + inches * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for panel in axes[count:]:
        panel.remove()
    for panel in axes[max(0, count - columns) : count]:
        panel.tick_params(labelbottom=True)  # the lowest of its column, also above a place that is empty
    return axes[:count]


def _rows_height(settings: Sequence[SettingReport]) -> float:
    return 1.4 + 0.3 * len(settings)


def _name_rows(panel: Any, settings: Sequence[SettingReport]) -> None:
    """One row for each setting, the first on top."""
    panel.set_yticks(range(len(settings)), [f"{_short(s.source)}: {_sampled(s)}" for s in settings])
    panel.set_ylim(len(settings) - 0.5, -0.5)


def _heading(report: Report, setting: SettingReport) -> str:
    several = len({each.source for each in report.settings}) > 1
    return (f"{_short(setting.source)}\n" if several else "") + _sampled(setting)


def _sampled(setting: SettingReport) -> str:
    found = setting.setting
    return f"T {found.temperature:g}, " + ("no top-p" if found.top_p is None else f"top-p {found.top_p:g}")


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"

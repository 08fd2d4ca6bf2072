"""What a classifier of genres can do beside its baseline: a table, figures and a file of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from training.figures import empty_figure, save_figure
from training.genres.data import GenreData
from training.genres.scores import Probabilities, Scores, companions, judge, search_thresholds
from training.recipes import GenresRecipe

REPORT = "genres.json"
_MODEL, _BASELINE, _EXACT = "#c0392b", "#9aa7b8", "#555555"


class GenreReport(BaseModel):
    """Of the plots to validate with. Thresholds were searched for on these very plots, for both alike, so both are
    flattered alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plots_to_train_on: int
    plots_to_validate_with: int
    skipped: dict[str, int]
    left_out: dict[str, int]
    thresholds: str  # common, or each
    model: Scores
    baseline: Scores
    companions: tuple[tuple[float, ...], ...]  # of the texts of a genre (row) the share that each is said of


def write_report(folder: Path, data: GenreData, probabilities: dict[str, Probabilities], recipe: GenresRecipe) -> str:
    """genres.json and figures in the folder; the table. `probabilities` are the model's and the baseline's."""
    truth = data.validation.truth
    scores: dict[str, Scores] = {}
    for name, each in probabilities.items():
        scores[name] = judge(each, truth, data.genres, search_thresholds(each, truth, recipe.thresholds))
    model, baseline = scores["model"], scores["baseline"]
    said = probabilities["model"] >= np.array([row.threshold for row in model.genres])
    together = companions(said, truth)
    report = GenreReport(
        plots_to_train_on=len(data.train.texts),
        plots_to_validate_with=len(data.validation.texts),
        skipped=data.skipped,
        left_out=data.left_out,
        thresholds=recipe.thresholds,
        model=model,
        baseline=baseline,
        companions=tuple(tuple(map(float, row)) for row in together),
    )
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _draw_scores(model, baseline, folder / "genres-f1.png")
    _draw_companions(together, data.genres, folder / "genres-together.png")
    _draw_calibration(model, baseline, folder / "genres-calibration.png")
    return table(report)


def table(report: GenreReport) -> str:
    """A line for each genre, the averages, and who has won."""
    width = max(len(row.genre) for row in report.model.genres)
    lines = [f"{'GENRE'.ljust(width)}  PRECISION  RECALL     F1  BASELINE F1  THRESHOLD  PLOTS"]
    for row, other in zip(report.model.genres, report.baseline.genres, strict=True):
        lines.append(
            f"{row.genre.ljust(width)}  {row.precision:9.2f}  {row.recall:6.2f}  {row.f1:5.2f}  {other.f1:11.2f}"
            f"  {row.threshold:9.2f}  {row.support:5}"
        )
    model, baseline = report.model, report.baseline
    lines += [
        f"{'micro'.ljust(width)}  {model.micro_precision:9.2f}  {model.micro_recall:6.2f}  {model.micro_f1:5.3f}"
        f"  {baseline.micro_f1:11.3f}",
        f"{'macro'.ljust(width)}  {'':9}  {'':6}  {model.macro_f1:5.3f}  {baseline.macro_f1:11.3f}",
        *_omissions(report),
        _verdict(model, baseline),
    ]
    return "\n".join(lines)


def _omissions(report: GenreReport) -> list[str]:
    """Of plots and genres that were not learnt."""
    lines = [f"Plots that were skipped: {count:,}, {why}." for why, count in report.skipped.items()]
    if report.left_out:
        named = ", ".join(f"{genre} ({count:,})" for genre, count in report.left_out.items())
        lines.append(f"Genres of too few plots to train on, left out: {named}.")
    return lines


def _verdict(model: Scores, baseline: Scores) -> str:
    better = [
        name
        for name, ours, theirs in (
            ("micro", model.micro_f1, baseline.micro_f1),
            ("macro", model.macro_f1, baseline.macro_f1),
        )
        if ours > theirs
    ]
    if not better:
        return "The model does not beat its baseline (TF-IDF and logistic regression): train on, or begin better."
    return f"The model beats its baseline (TF-IDF and logistic regression) in {' and '.join(better)} F1."


def _draw_scores(model: Scores, baseline: Scores, path: Path) -> None:
    """F1 of each genre, both beside each other; the model's precision and recall."""
    figure, axes = empty_figure("F1", "", height=0.8 + 0.32 * len(model.genres))
    places = np.arange(len(model.genres))
    axes.barh(places - 0.2, [row.f1 for row in model.genres], 0.4, color=_MODEL, label="model")
    axes.barh(places + 0.2, [row.f1 for row in baseline.genres], 0.4, color=_BASELINE, label="baseline")
    for name, marker in (("precision", "<"), ("recall", ">")):
        found = [getattr(row, name) for row in model.genres]
        axes.plot(found, places - 0.2, marker, color=_EXACT, ms=4, label=f"{name} of the model")
    axes.set_yticks(places, [f"{row.genre} ({row.support})" for row in model.genres])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    micro = f"micro F1 {model.micro_f1:.3f}, baseline {baseline.micro_f1:.3f}"
    macro = f"macro F1 {model.macro_f1:.3f}, baseline {baseline.macro_f1:.3f}"
    axes.set_title(f"{micro}; {macro}", fontsize=11)
    figure.legend(frameon=False, loc="outside lower center", ncols=4, fontsize=9)
    save_figure(figure, path)


def _draw_companions(together: NDArray[np.float64], genres: Sequence[str], path: Path) -> None:
    """Which genres are said of the plots of which."""
    side = 2.0 + 0.3 * len(genres)
    figure, axes = empty_figure("said", "true", width=side + 1, height=side)
    axes.grid(visible=False)
    shown: Any = axes.imshow(together, cmap="Reds", vmin=0, vmax=1)
    axes.set_xticks(range(len(genres)), genres, rotation=90, fontsize=8)
    axes.set_yticks(range(len(genres)), genres, fontsize=8)
    figure.colorbar(shown, label="share of the plots of a genre", shrink=0.8)
    save_figure(figure, path)


def _draw_calibration(model: Scores, baseline: Scores, path: Path) -> None:
    """How often what was called so likely was so."""
    figure, axes = empty_figure("probability that was said", "share that was so", width=5.5, height=5.0)
    axes.plot([0, 1], [0, 1], color=_EXACT, lw=0.8, ls=":")
    for scores, color, name in ((baseline, _BASELINE, "baseline"), (model, _MODEL, "model")):
        calibration = scores.calibration
        label = f"{name}, mean error {calibration.expected_error:.3f}"
        axes.plot(calibration.said, calibration.true, color=color, marker="o", ms=4, label=label)
    axes.legend(frameon=False)
    save_figure(figure, path)

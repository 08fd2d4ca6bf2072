"""The folder of a benchmark: `results.json`, `report.html` and `figures/`, written whole or not at all. The page holds
its figures, loads nothing from elsewhere and runs no script."""

from __future__ import annotations

from pathlib import Path

from cli.bench.figures import EXTRA, Picture, draw
from cli.bench.notes import notes
from cli.bench.results import Results
from cli.bench.tables import WORDS, error_rows, latency_rows, load_rows, model_rows
from training.evaluation.folder import check_folder, write_folder
from training.evaluation.page import templates
from training.figures import empty_figure

DOCUMENT = "results.json"
_TEMPLATES = Path(__file__).parent / "templates"


def check_report(folder: Path) -> None:
    """Raises StoreError where something else lies, and without matplotlib."""
    empty_figure("", "", extra=EXTRA)
    check_folder(folder, DOCUMENT)


def write_report(folder: Path, results: Results) -> None:
    """Takes the place of an earlier one. Raises StoreError."""
    pictures = draw(results)
    write_folder(folder, results, page(results, pictures), pictures, DOCUMENT)


def page(results: Results, pictures: list[Picture]) -> str:
    tables = [("Errors", error_rows(results)), ("Latencies", latency_rows(results))]
    if len(results.workload.mix) > 1:
        tables.append(("By model", model_rows(results)))
    return (
        templates(_TEMPLATES)
        .get_template("bench.html")
        .render(
            results=results,
            named=list(zip(results.models, results.workload.mix, strict=True)),
            load=load_rows(results),
            tables=[(title, rows) for title, rows in tables if len(rows) > 1],
            notes=notes(results),
            pictures=pictures,
            words=WORDS,
        )
    )

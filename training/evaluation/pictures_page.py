"""A report on pictures as one HTML page that loads nothing, and in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.evaluation.figures import Picture
from training.evaluation.folder import write_folder
from training.evaluation.page import templates
from training.evaluation.pictures_report import PictureReport


def write_report(folder: Path, report: PictureReport, figures: Sequence[Picture]) -> None:
    """Takes the place of an earlier report. Raises StoreError where something else lies."""
    write_folder(folder, report, page(report, figures), figures)


def page(report: PictureReport, figures: Sequence[Picture]) -> str:
    """Names are escaped."""
    return templates().get_template("pictures.html").render(report=report, figures=figures)

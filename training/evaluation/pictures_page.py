"""A report on pictures in a folder: `report.html`, one page that loads nothing, `report.json` and `figures/`."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from contracts.errors import StoreError
from training.evaluation.pictures_figures import Figure
from training.evaluation.pictures_report import PictureReport

REPORT, PAGE, FIGURES = "report.json", "report.html", "figures"
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(folder: Path, report: PictureReport, figures: Sequence[Figure]) -> None:
    """Takes the place of an earlier report. Raises StoreError where something else lies."""
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".incoming-", dir=folder.parent))
    try:
        (made / FIGURES).mkdir()
        for figure in figures:
            (made / FIGURES / f"{figure.name}.png").write_bytes(figure.png)
        (made / REPORT).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (made / PAGE).write_text(page(report, figures), encoding="utf-8")
        made.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Raises StoreError for a folder with anything but an earlier report in it."""
    if folder.is_file():
        raise StoreError(f"{folder} is a file; give --output the name of a folder")
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if other := sorted(found - {REPORT, PAGE, FIGURES}):
        raise StoreError(f"{folder} holds {other[0]!r}, which is of no report; give --output a folder of its own")


def page(report: PictureReport, figures: Sequence[Figure]) -> str:
    """Names of files are escaped."""
    templates = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    return templates.get_template("pictures.html").render(report=report, figures=figures)

"""The folder of a report: `report.html`, `report.json` and `figures/`, written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from contracts.errors import StoreError
from training.evaluation.figures import draw
from training.evaluation.page import page
from training.evaluation.report import Report

REPORT, PAGE, FIGURES = "report.json", "report.html", "figures"


def write_report(folder: Path, report: Report) -> None:
    """Takes the place of an earlier report. Raises StoreError where something else lies, and without matplotlib."""
    check_folder(folder)
    pictures = draw(report)
    write_folder(folder, report, page(report, pictures), pictures)


class Figure(Protocol):
    """`name` is that of its file without the ending."""

    @property
    def name(self) -> str: ...
    @property
    def png(self) -> bytes: ...


def write_folder(
    folder: Path, report: BaseModel, html: str, pictures: Sequence[Figure], document: str = REPORT
) -> None:
    """Of any report; `document` is the name of its JSON file. Raises StoreError where something else lies."""
    check_folder(folder, document)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".incoming-", dir=folder.parent))
    try:
        (made / FIGURES).mkdir()
        for picture in pictures:
            (made / FIGURES / f"{picture.name}.png").write_bytes(picture.png)
        (made / document).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (made / PAGE).write_text(html, encoding="utf-8")
        made.chmod(0o755)
        _put(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def check_folder(folder: Path, document: str = REPORT) -> None:
    """Raises StoreError for a folder with anything but an earlier report in it."""
    try:
        found = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise StoreError(f"{folder} is a file; give --output the name of a folder") from None
    if others := sorted(found - {document, PAGE, FIGURES}):
        raise StoreError(f"{folder} holds {others[0]!r}, which is of no report; give --output a folder of its own")


def _put(made: Path, folder: Path) -> None:
    """What was there is gone only once the new one is in its place."""
    if not folder.exists():
        made.rename(folder)
        return
    before = Path(tempfile.mkdtemp(prefix=".replaced-", dir=folder.parent))
    folder.rename(before / folder.name)
    try:
        made.rename(folder)
    except BaseException:
        (before / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(before, ignore_errors=True)

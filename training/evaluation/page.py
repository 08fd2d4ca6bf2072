"""The report as one HTML page: figures are part of it, nothing is loaded from elsewhere, no script runs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from training.evaluation.figures import Picture
from training.evaluation.report import Report

_FOLDER = Path(__file__).parent / "templates"


def page(report: Report, pictures: Sequence[Picture]) -> str:
    """Texts of models are escaped, and no policy of a browser would run them if they were not."""
    return (
        templates()
        .get_template("report.html")
        .render(
            report=report,
            pictures=pictures,
            sources=list(dict.fromkeys(setting.source for setting in report.settings)),
        )
    )


def templates(folder: Path = _FOLDER) -> Environment:
    """Those of a folder of reports; `style` is the sheet that all share."""
    found = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"data_uri": _data_uri, "number": _number, "percent": _percent}
    style = (_FOLDER / "report.css").read_text(encoding="utf-8")
    found.globals["style"] = Markup(style)  # noqa: S704 - a file of ours
    return found


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"

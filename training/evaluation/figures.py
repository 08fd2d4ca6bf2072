"""The figures of a report as PNG files, each with the words that explain it. They are drawn from its numbers alone."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from contracts.errors import StoreError
from training.evaluation import panels
from training.evaluation.report import Report

DOTS_PER_INCH = 130
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "text.parse_math": False,  # names of genres and models are no formulas
}
CAPTIONS = {
    "similarity": "Of every generated text the training text that is most similar to it. The dashed line is the mean; a"
    " bar at 1 is a copy.",
    "sampling": "Each point is one setting: the means of the highest similarities, the mean number of words, the share"
    " of broken lines, distinct-2 (higher is more varied) and self-BLEU (higher is more alike).",
    "uniqueness": "Filled: different ones, as a share of all. Open: those that the training does not have, as a share"
    " of the different ones.",
    "lengths": "The thin line holds 90 % of the texts, the thick one the middle half; the dot is the median, the cross"
    " the mean.",
    "broken_lines": "As a share of all lines. A line with several faults counts for each.",
    "genres": "Rows are genres of generated texts, columns genres of training texts; a cell is the mean over all pairs."
    " Framed: the same genre.",
    "affinity": "The same without what a row and a column have anyway, mostly by the lengths of their texts."
    " Orange in a frame: texts are more like the training texts of their own genre than like others.",
}


@dataclass(frozen=True)
class Picture:
    """`name` is that of its file without the ending."""

    name: str
    title: str
    caption: str
    png: bytes


def draw(report: Report) -> list[Picture]:
    """All that there are numbers for. Raises StoreError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise StoreError("figures need matplotlib; install it with: pip install 'kamishibai[evaluate]'") from None
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font has not
        return [
            Picture(name, title, CAPTIONS[name.removesuffix("_jaccard").removesuffix("_embedding")], png_of(paint))
            for name, title, paint in _figures(report)
        ]


def _figures(report: Report) -> Iterator[tuple[str, str, Callable[[Any], None]]]:
    """Name, title, and what paints it."""
    settings = report.settings
    for measure in report.highest:
        similarities = partial(panels.similarities, report=report, measure=measure)
        yield f"similarity_{measure}", f"Highest {panels.NAMES[measure]}, by setting", similarities
    yield "sampling", "Effect of temperature and top-p", partial(panels.sampling, report=report)
    yield "uniqueness", "Uniqueness of titles and texts", partial(panels.uniqueness, settings=settings)
    yield "lengths", "Length of texts", partial(panels.lengths, settings=settings)
    if any(setting.faults for setting in settings):
        yield "broken_lines", "Broken lines by kind", partial(panels.broken, settings=settings)
    for measure, found in report.genres.items():
        if found.generated:
            genres, affinity = (
                partial(each, found=found, measure=measure) for each in (panels.genres, panels.affinity)
            )
            yield f"genres_{measure}", f"Genres: mean {panels.NAMES[measure]}", genres
            yield f"affinity_{measure}", f"Genres: which are alike, by {panels.NAMES[measure]}", affinity


def png_of(paint: Callable[[Any], None]) -> bytes:
    """What `paint` draws on an empty figure."""
    from matplotlib.figure import Figure

    figure = Figure(dpi=DOTS_PER_INCH, layout="constrained")
    paint(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})  # no version of the library in it
    return png.getvalue()

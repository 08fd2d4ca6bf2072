"""The figures of a report on pictures as PNG files, each with the words that explain it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from contracts.errors import StoreError
from training.evaluation.pictures_evaluation import NamedPictures
from training.evaluation.pictures_features import Pixels
from training.evaluation.pictures_report import Neighbour, PictureReport
from training.grids import grid

SHEET_PICTURES = 64
_SMALLEST_SHOWN = 64  # pixels of a side; smaller pictures are shown enlarged
_GENERATED, _REAL, _NOISE = "#c0392b", "#2e7d4f", "#9aa7b8"


class Figure(NamedTuple):
    """`name` is that of its file without the ending."""

    name: str
    title: str
    caption: str
    png: bytes


def draw(report: PictureReport, generated: NamedPictures, real: NamedPictures) -> list[Figure]:
    """Raises StoreError without matplotlib."""
    return [
        Figure(
            "distance",
            "Distance to the real pictures",
            "Logarithmic, smaller is better: of noise, of the generated pictures and of one half of the real pictures"
            " to the other, which is as good as can be.",
            _distances(report),
        ),
        Figure("generated", "Generated pictures", "At random.", _sheet(generated.pixels)),
        Figure("real", "Real pictures", "At random.", _sheet(real.pixels)),
        Figure(
            "nearest",
            "The generated pictures that are nearest to real ones",
            "Each row: a generated picture, then the real pictures that are nearest to it. A copy would be seen here.",
            _rows(report.neighbours.nearest, generated, real),
        ),
        Figure(
            "others",
            "Others, at random",
            "The same for pictures that were not chosen by nearness.",
            _rows(report.neighbours.others, generated, real),
        ),
    ]


def _distances(report: PictureReport) -> bytes:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise StoreError("figures need matplotlib; install it with: pip install 'kamishibai[evaluate]'") from None
    bars = [("noise", report.distance_of_noise, _NOISE), ("generated", report.distance, _GENERATED)]
    if report.distance_of_real is not None:
        bars.append(("other half of the real ones", report.distance_of_real, _REAL))
    least = 1e-3  # what is nearer, or below zero by chance, is drawn there
    figure: Any = Canvas(figsize=(8, 2.4), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    names = [name for name, _, _ in bars]
    axes.barh(names, [max(found.mean, least) for _, found, _ in bars], color=[colour for _, _, colour in bars])
    for name, found, _ in bars:
        axes.annotate(f" {found.mean:.4f}", (max(found.mean, least), name), va="center")
    axes.set_xscale("log")
    axes.set_xlim(least / 2, 10 * max(found.mean for _, found, _ in bars))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(png, metadata={"Software": None})
    return png.getvalue()


def _sheet(pixels: Pixels) -> bytes:
    chosen = np.random.RandomState(0).permutation(len(pixels))[:SHEET_PICTURES]
    return _png(grid(_enlarged(pixels[chosen]), columns=8))


def _rows(rows: Sequence[Neighbour], generated: NamedPictures, real: NamedPictures) -> bytes:
    """A row for each, the generated one first."""
    ours = {name: place for place, name in enumerate(generated.names)}
    theirs = {name: place for place, name in enumerate(real.names)}
    columns = 1 + max((len(row.real) for row in rows), default=0)
    shown = [
        picture
        for row in rows
        for picture in (generated.pixels[ours[row.generated]], *(real.pixels[theirs[name]] for name in row.real))
    ]
    if not shown:
        return _png(np.full((_SMALLEST_SHOWN, _SMALLEST_SHOWN, 3), 255, np.uint8))
    return _png(grid(_enlarged(np.stack(shown)), columns))


def _enlarged(pixels: Pixels) -> Pixels:
    times = max(1, _SMALLEST_SHOWN // pixels.shape[1])
    return pixels.repeat(times, 1).repeat(times, 2)


def _png(sheet: Pixels) -> bytes:
    png = io.BytesIO()
    Image.fromarray(sheet).save(png, "PNG")
    return png.getvalue()

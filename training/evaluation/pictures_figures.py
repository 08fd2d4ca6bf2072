"""The figures of a report on pictures as PNG files, each with the words that explain it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from contracts.errors import StoreError
from training.evaluation.figures import STYLE, Picture, png_of
from training.evaluation.pictures_evaluation import NamedPictures
from training.evaluation.pictures_features import Pixels
from training.evaluation.pictures_report import Neighbour, PictureReport
from training.grids import grid

SHEET_PICTURES = 64
_SMALLEST_SHOWN = 64  # pixels of a side; smaller pictures are shown enlarged
_LEAST_SHOWN = 1e-3  # distances that are smaller, or below zero by chance, are drawn so long
_GENERATED, _REAL, _NOISE = "#c0392b", "#2e7d4f", "#9aa7b8"


def draw(report: PictureReport, generated: NamedPictures, real: NamedPictures) -> list[Picture]:
    """Raises StoreError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise StoreError("figures need matplotlib; install it with: pip install 'kamishibai[evaluate]'") from None
    with matplotlib.rc_context(STYLE):
        distances = png_of(partial(_distances, report))
    return [
        Picture(
            "distance",
            "Distance to the real pictures",
            "Logarithmic, smaller is better: of noise, of the generated pictures and of one half of the real pictures"
            " to the other, which is as good as can be.",
            distances,
        ),
        Picture("generated", "Generated pictures", "At random.", _sheet(generated.pixels)),
        Picture("real", "Real pictures", "At random.", _sheet(real.pixels)),
        Picture(
            "nearest",
            "The generated pictures that are nearest to real ones",
            "Each row: a generated picture, then the real pictures that are nearest to it. A copy would be seen here.",
            _rows(report.neighbours.nearest, generated, real),
        ),
        Picture(
            "others",
            "Others, at random",
            "The same for pictures that were not chosen by nearness.",
            _rows(report.neighbours.others, generated, real),
        ),
    ]


def _distances(report: PictureReport, figure: Any) -> None:
    bars = [("noise", report.distance_of_noise, _NOISE), ("generated", report.distance, _GENERATED)]
    if report.distance_of_real is not None:
        bars.append(("other half of the real ones", report.distance_of_real, _REAL))
    figure.set_size_inches(8, 2.4)
    axes = figure.add_subplot()
    shown = [max(found.mean, _LEAST_SHOWN) for _, found, _ in bars]
    axes.barh([name for name, _, _ in bars], shown, color=[colour for _, _, colour in bars])
    for (name, found, _), length in zip(bars, shown, strict=True):
        axes.annotate(f" {found.mean:.4f}", (length, name), va="center")
    axes.set_xscale("log")
    axes.set_xlim(_LEAST_SHOWN / 2, 10 * max(shown))
    axes.invert_yaxis()


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

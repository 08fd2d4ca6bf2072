"""`kamishibai evaluate pictures`: how good what a model has drawn is."""

from __future__ import annotations

import io
from pathlib import Path

import click
import numpy as np
from PIL import Image

from cli.devices import devices
from cli.generate import load
from contracts.errors import StoreError
from contracts.requests import ImageRequest
from contracts.store import Store, split_name
from training.evaluation.folder import PAGE, check_folder
from training.evaluation.pictures_evaluation import NamedPictures, evaluate
from training.evaluation.pictures_figures import draw
from training.evaluation.pictures_page import write_report
from training.evaluation.pictures_report import PictureReport
from training.pictures import files_below

PICTURES_OF_REQUEST = 64
MOST_PIXELS = 128  # of a side that pictures are compared at


def evaluate_pictures(
    generated: str, real: Path, output: Path, count: int, seed: int, store: Path, device: str, variant: str | None
) -> None:
    """GENERATED is a folder if there is one of this name, else a model. Raises StoreError."""
    check_folder(output)
    if Path(generated).is_dir():
        size = _size(Path(generated))
        ours = NamedPictures.of_folder(Path(generated), size, show_progress=True)
    else:
        ours = _drawn(generated, count, seed, store, device, variant)
        size = ours.pixels.shape[1]
    theirs = NamedPictures.of_folder(real, size, show_progress=True)
    report = evaluate(ours, theirs, show_progress=True)
    write_report(output, report, draw(report, ours, theirs))
    _tell(report, output)


def _size(folder: Path) -> int:
    """The shorter side of the first picture, at which real ones are compared with them. Raises StoreError."""
    for file in files_below(folder):
        try:
            with Image.open(file) as image:
                return min(*image.size, MOST_PIXELS)
        except OSError:
            continue
    raise StoreError(f"{folder} holds no picture that can be read")


def _drawn(model: str, count: int, seed: int, store: Path, device: str, variant: str | None) -> NamedPictures:
    """Of requests with one seed after the other, as clients would ask for them. Raises StoreError."""
    if not Path(model).exists() and "/" in model:
        raise StoreError(f"{model} is no folder; give one with pictures, or the name of a model in the store")
    bundle = Store(store).open(*split_name(model))
    if bundle.manifest.task != "image":
        raise StoreError(f"{model} draws no pictures; its task is {bundle.manifest.task}")
    local = load(bundle, devices(device)[0], variant)
    pixels, names = [], []
    for at in range(0, count, PICTURES_OF_REQUEST):
        part, drawn_by = min(PICTURES_OF_REQUEST, count - at), seed + at // PICTURES_OF_REQUEST
        request = ImageRequest(target=bundle.target(), seed=drawn_by, count=part)
        for index, png in enumerate(local.pictures(request)):
            with Image.open(io.BytesIO(png)) as image:
                pixels.append(np.asarray(image.convert("RGB")))
            names.append(f"seed {drawn_by}, picture {index}")
    return NamedPictures(bundle.manifest.name, np.stack(pixels), names)


def _tell(report: PictureReport, output: Path) -> None:
    real, variety = report.distance_of_real, report.variety
    halves = "" if real is None else f"; of real ones to other real ones {real.mean:.4f}"
    click.echo(
        f"distance {report.distance.mean:.4f} ± {report.distance.deviation:.4f}{halves}; of noise"
        f" {report.distance_of_noise.mean:.4f}"
    )
    click.echo(
        f"variety: {variety.of} pictures are worth {variety.generated:.1f} different ones, real ones {variety.real:.1f}"
    )
    if variety.collapsed:
        click.secho("mode collapse: few different pictures are drawn again and again", fg="yellow")
    click.echo(f"as near to a real picture as 1 % of real ones are to another: {report.neighbours.near_share:.1%}")
    click.echo(
        f"{output / PAGE}: {report.generated.pictures:,} generated pictures against {report.real.pictures:,} real ones"
    )

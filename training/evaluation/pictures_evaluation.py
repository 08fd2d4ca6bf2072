"""Generated pictures held against real ones: features once, then everything that the report says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from contracts.errors import StoreError
from training.evaluation.pictures_distance import Distance, distance_of
from training.evaluation.pictures_features import VERSION, Features, Pixels, Scale, features_of
from training.evaluation.pictures_neighbours import NEAR_SHARE, between_real, nearest, thumbnails
from training.evaluation.pictures_report import (
    Neighbour,
    Neighbours,
    PictureReport,
    PictureSet,
    SetDistance,
    Variety,
)
from training.evaluation.pictures_variety import COLLAPSED, PICTURES, variety
from training.pictures import CachedPictures, PictureFolder

FEWEST_PICTURES = 10  # of each set; fewer tell nothing
FEWEST_HALVED = 100  # real pictures that are held against each other in halves
NOISE_PICTURES = 100
SHOWN = 8  # rows of neighbours of each kind
MOST_BYTES = 16 << 30  # of pixels of a set in memory


@dataclass(frozen=True)
class NamedPictures:
    """A set of pictures (count, size, size, 3)."""

    name: str
    pixels: Pixels
    names: list[str]
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_folder(cls, path: Path, size: int, *, show_progress: bool = False) -> NamedPictures:
        """Raises StoreError for a folder without pictures, and for more than memory should hold."""
        found = PictureFolder(path, size, cached_bytes=MOST_BYTES, show_progress=show_progress)
        if not isinstance(found.pictures, CachedPictures):
            raise StoreError(f"{path} holds {len(found.paths):,} pictures, which are too many; give a part of them")
        names = [file.relative_to(path).as_posix() for file in found.paths]
        return cls(path.resolve().name, found.pictures.pixels, names, found.broken)

    @property
    def summary(self) -> PictureSet:
        return PictureSet(name=self.name, pictures=len(self.pixels), skipped=self.skipped)


def evaluate(generated: NamedPictures, real: NamedPictures, *, show_progress: bool = False) -> PictureReport:
    """Both sets are of one size. Equal for equal sets. Raises StoreError for sets that are too small."""
    for each in (generated, real):
        if len(each.pixels) < FEWEST_PICTURES:
            raise StoreError(f"{each.name} has {len(each.pixels)} pictures; {FEWEST_PICTURES} or more tell something")
    features = features_of(generated.pixels, description=f"features of {generated.name}", show_progress=show_progress)
    real_features = features_of(real.pixels, description=f"features of {real.name}", show_progress=show_progress)
    scale = Scale(real_features)
    layout, real_layout = scale.layout(features), scale.layout(real_features)
    size = generated.pixels.shape[1]
    return PictureReport(
        features=VERSION,
        size=size,
        generated=generated.summary,
        real=real.summary,
        distance=_stated(distance_of(scale(features), scale(real_features))),
        distance_of_real=_between_halves(scale(real_features)),
        distance_of_noise=_stated(distance_of(scale(features_of(_noise(size))), scale(real_features))),
        variety=_variety(layout, real_layout),
        neighbours=_neighbours(generated, real),
    )


def _between_halves(features: Features) -> SetDistance | None:
    if len(features) < FEWEST_HALVED:
        return None
    mixed = features[np.random.RandomState(0).permutation(len(features))]
    half = len(features) // 2
    return _stated(distance_of(mixed[:half], mixed[half:]))


def _noise(size: int) -> Pixels:
    return np.random.RandomState(0).randint(0, 256, (NOISE_PICTURES, size, size, 3)).astype(np.uint8)


def _stated(distance: Distance) -> SetDistance:
    return SetDistance(mean=distance.mean, deviation=distance.deviation, subset=distance.subset)


def _variety(layout: Features, real_layout: Features) -> Variety:
    count = min(PICTURES, len(layout), len(real_layout))
    ours, theirs = variety(layout, count), variety(real_layout, count)
    return Variety(of=count, generated=ours, real=theirs, share=ours / theirs, collapsed=ours < COLLAPSED * theirs)


def _neighbours(generated: NamedPictures, real: NamedPictures) -> Neighbours:
    real_rows = thumbnails(real.pixels)
    places, distances = nearest(thumbnails(generated.pixels), real_rows)
    between = between_real(real_rows)
    near = float(np.quantile(between, NEAR_SHARE))
    found = [
        Neighbour(
            generated=generated.names[row],
            real=tuple(real.names[place] for place in places[row]),
            distances=tuple(distances[row].tolist()),
        )
        for row in range(len(distances))
    ]
    by_nearness = np.argsort(distances[:, 0], kind="stable")
    mixed = np.random.RandomState(0).permutation(by_nearness[SHOWN:])
    return Neighbours(
        generated_median=float(np.median(distances[:, 0])),
        real_median=float(np.median(between)),
        near=near,
        near_share=float((distances[:, 0] < near).mean()),
        nearest=tuple(found[row] for row in by_nearness[:SHOWN]),
        others=tuple(found[row] for row in mixed[:SHOWN]),
    )

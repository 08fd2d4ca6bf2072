"""The report on pictures as `report.json` holds it: every number that its page shows."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PictureSet(_Frozen):
    name: str
    pictures: Count
    skipped: dict[str, str] = {}  # files that could not be read, each with the reason


class SetDistance(_Frozen):
    """Over random subsets of equal size."""

    mean: float
    deviation: float
    subset: Count


class Variety(_Frozen):
    """How many different pictures so many are worth."""

    of: Count
    generated: float
    real: float
    share: float  # the first as a share of the second
    collapsed: bool


class Neighbour(_Frozen):
    """A generated picture and the real ones that are nearest to it, nearest first, by their names."""

    generated: str
    real: tuple[str, ...]
    distances: tuple[float, ...]


class Neighbours(_Frozen):
    """Distances are root mean square differences of colours, from 0 to 1, at 16x16 pixels."""

    generated_median: float  # distance of a generated picture to the nearest real one
    real_median: float  # of a real one to the nearest other real one
    near: float  # so near or nearer is one in a hundred real ones to another
    near_share: Share  # of generated ones that are so near to a real one
    nearest: tuple[Neighbour, ...]  # those that are nearest to a real picture
    others: tuple[Neighbour, ...]  # at random


class PictureReport(_Frozen):
    features: str
    size: Count  # pixels of a side that both sets were compared at
    generated: PictureSet
    real: PictureSet
    distance: SetDistance
    distance_of_real: SetDistance | None  # between two halves of the real pictures: as good as can be
    distance_of_noise: SetDistance  # of pictures without anything in them: as bad as can be
    variety: Variety
    neighbours: Neighbours

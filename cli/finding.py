"""What `kamishibai doctor` says of one thing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

Level = Literal["ok", "note", "fault"]


class Finding(NamedTuple):
    """A fault names its remedy."""

    level: Level
    text: str


Findings = Iterator[Finding]

"""What a run has measured: samples of the product, a few seconds apart. Each is also a line of JSON in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["start", "load", "rest"]  # before the first request, under load, when all lifetimes are over


@dataclass(frozen=True)
class JobRecord:
    """What one job has in Redis. `bytes` are those without its pictures, whose size is their own."""

    ended: bool
    keys: int
    bytes: int


@dataclass(frozen=True)
class Key:
    """A key in Redis. `entries` of one of RQ's registries of jobs, else 0."""

    name: str
    seconds_left: int  # -1: for ever
    entries: int


@dataclass(frozen=True)
class Sample:
    """`gauges` by name, in bytes or as counts. `requests` have been answered since the start."""

    at: float  # seconds since the run's start
    phase: Phase
    requests: int
    gauges: dict[str, int]
    processes: dict[str, int]  # process ids by role
    jobs: tuple[JobRecord, ...]  # some of those that are there
    keys: tuple[Key, ...]  # all of them, at rest only

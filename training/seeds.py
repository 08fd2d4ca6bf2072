"""Random numbers of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's generators start from `seed`; afterwards they are as they were before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def seed_of(seed: int, *places: int) -> int:
    """A seed for each place of a run; equal for equal arguments."""
    for place in places:
        seed = (seed * 6364136223846793005 + place + 1442695040888963407) % 2**63
    return seed


def generator_of(seed: int, *places: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(seed, *places))

"""When requests come in an open loop: whatever the server does, as independent clients come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cli.bench.draws import draws


class Arrivals(BaseModel):
    """Gaps between requests are drawn from a gamma distribution of this shape. A shape of 1 is a Poisson process;
    below it requests come in bursts, above it more evenly: the gaps' standard deviation is mean / sqrt(shape)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    process: Literal["poisson", "gamma"] = "poisson"
    shape: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def gaps(self, rate: float, seed: int, run: str) -> Iterator[float]:
        """Seconds between one request and the next, without end; their mean is 1 / rate."""
        draw = draws(seed, run, "arrivals")
        while True:
            yield draw.gammavariate(self.shape, 1 / (rate * self.shape))

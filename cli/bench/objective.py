"""What a user of the server would call good enough: goodput counts the requests that were."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from cli.bench.outcome import Outcome
from cli.bench.workload import Frozen
from contracts.errors import InvalidRequest


class Objective(Frozen):
    """Bounds in seconds. A request meets those that it has: pictures and labels have no tokens, and the time for
    another token is none of a text of one."""

    ttft: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # time to first token
    tpot: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # time per output token behind the first
    e2e: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # end to end

    @classmethod
    def parse(cls, text: str) -> Self:
        """`ttft:0.5,e2e:5`. Raises InvalidRequest."""
        pairs = [part.partition(":") for part in text.split(",")]
        names = [name.strip() for name, _, _ in pairs]
        try:
            if len(set(names)) == len(names):
                return cls(**{name: float(seconds) for name, (_, _, seconds) in zip(names, pairs, strict=True)})
        except ValueError:  # pydantic's, too
            pass
        raise InvalidRequest(
            f"--objective is {text!r}; write seconds for ttft, tpot and e2e, those that matter, like ttft:0.5,e2e:5"
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:g} s" for name, seconds in self.model_dump(exclude_none=True).items())

    @property
    def needs_streams(self) -> bool:
        return self.ttft is not None or self.tpot is not None

    def is_met(self, outcome: Outcome) -> bool:
        """A request that failed meets none."""
        if outcome.fault is not None:
            return False
        taken = {
            "ttft": outcome.time_to_first_token,
            "tpot": outcome.time_per_output_token,
            "e2e": outcome.end_to_end,
        }
        bounds = self.model_dump(exclude_none=True)
        return all((seconds := taken[name]) is None or seconds <= bound for name, bound in bounds.items())

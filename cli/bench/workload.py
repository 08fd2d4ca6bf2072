"""What is asked, as results carry it: two of them are comparable if this is the same."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from cli.bench.arrivals import Arrivals
from contracts.bundle import Task
from contracts.errors import InvalidRequest


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lengths(Frozen):
    """Each as likely as the others, both ends included."""

    least: int = Field(ge=1)
    most: int = Field(ge=1)

    @classmethod
    def parse(cls, text: str, option: str) -> Self:
        """`32` or `16-64`. Raises InvalidRequest."""
        least, _, most = text.partition("-")
        try:
            found = cls(least=int(least), most=int(most or least))
        except ValueError:
            found = None
        if found is None or found.most < found.least:
            raise InvalidRequest(f"{option} is {text!r}; write a number of tokens like 32, or a range like 16-64")
        return found

    def __str__(self) -> str:
        return f"{self.least}" if self.least == self.most else f"{self.least}-{self.most}"


class Share(Frozen):
    """A model's part in the mix."""

    model: str
    task: Task
    weight: float = Field(gt=0, allow_inf_nan=False)


class PromptFile(Frozen):
    name: str
    prompts: int
    sha256: str


class Workload(Frozen):
    seed: int
    mix: tuple[Share, ...]
    prompts: PromptFile | None  # None: made of common words, as long as `prompt_tokens` says
    prompt_tokens: Lengths
    new_tokens: Lengths
    ignore_eos: bool
    stream: bool
    pictures: int  # of a request
    texts: int  # of a request to classify
    fields: dict[str, Any]  # that every body has beside those


class Plan(Frozen):
    """How much is asked at each level of load."""

    requests: int | None
    duration_seconds: float | None  # instead of a number of requests
    warmup: int  # requests before each level, which are not measured
    arrivals: Arrivals | None  # None: there is no open loop
    timeout_seconds: float


class Load(Frozen):
    """A level: so many requests under way at any time (closed loop), or so many a second (open loop)."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"{self.rate:g}/s" if self.rate is not None else f"{self.concurrency} at once"

"""What a benchmark has found, as `results.json` holds it. Times are in seconds, rates per second.

Rates and latencies are of requests that succeeded; others are counted by kind under `errors`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from cli.bench.distribution import Distribution
from cli.bench.objective import Objective
from cli.bench.workload import Frozen, Load, Plan, Workload
from contracts.bundle import Task
from contracts.errors import StoreError
from contracts.requests import describe


class Latencies(Frozen):
    end_to_end: Distribution | None
    time_to_first_token: Distribution | None  # of streams
    time_per_output_token: Distribution | None  # of streams: behind the first token, a mean for each text
    between_pieces: Distribution | None  # of streams: all gaps between pieces of text, which may be several tokens


class Rates(Frozen):
    """None where there is nothing of the kind; of tokens also where a server does not count them."""

    requests: float
    output_tokens: float | None
    pictures: float | None
    texts: float | None


class OfModel(Frozen):
    """What one model of the mix did at a level."""

    model: str
    task: Task
    succeeded: int
    rates: Rates
    latencies: Latencies
    prompt_tokens_mean: float | None
    output_tokens_mean: float | None
    counted: Literal["usage", "pieces", "both"] | None  # where numbers of output tokens are from


class Errors(Frozen):
    kind: str
    count: int
    example: str  # the first one's message


class Goodput(Frozen):
    """Requests that met the objective."""

    met: int
    share: float  # of all, those that failed included
    rate: float


class Repeats(Frozen):
    """Requests that were sent once more, each alone, when the load was over."""

    repeated: int
    changed: int  # of these, answered otherwise under load than alone
    unsteady: int  # of these, answered otherwise from one time alone to the next, so nothing can be said
    failed: int  # of these, not answered alone


class Second(Frozen):
    """What happened in one second of a level, from its beginning."""

    ended: int  # requests that succeeded
    errors: int
    output_tokens: float
    under_way: int  # requests that were due and had not ended, at the second's end
    end_to_end_p50: float | None
    end_to_end_p99: float | None


class Client(Frozen):
    """How busy this tool was: where it was, it may have been the limit."""

    cpu_share: float  # of one core
    late_p99: float  # of an open loop: how long after they were due requests were sent


class Level(Frozen):
    load: Load
    seconds: float  # until the last answer
    requests: int
    succeeded: int
    given_up: int  # under way when the user stopped the run
    came_rate: (
        float | None
    )  # of an open loop: requests that came in a second, by chance not quite the rate that was asked
    rates: Rates
    goodput: Goodput | None
    errors: tuple[Errors, ...]
    models: tuple[OfModel, ...]  # in the order of the mix
    repeats: Repeats | None  # None: nothing was repeated
    series: tuple[Second, ...]
    client: Client


class ServedModel(Frozen):
    id: str
    version: int | None
    variant: str | None


class Machine(Frozen):
    """Where the load came from."""

    processor: str
    cores: int
    python: str
    kamishibai: str


class Results(Frozen):
    format: Literal[1] = 1
    began: str  # UTC
    url: str
    models: tuple[ServedModel, ...]  # in the order of the mix
    machine: Machine
    workload: Workload
    plan: Plan
    objective: Objective | None
    characters_per_token: tuple[float | None, ...]  # by the mix, of prompts made of words: what the server counted
    levels: tuple[Level, ...]
    interrupted: bool


def read_results(content: bytes, name: str) -> Results:
    """Raises StoreError for what is none."""
    try:
        return Results.model_validate_json(content)
    except ValidationError as error:
        raise StoreError(f"{name} holds no results of `kamishibai bench`: {describe(error)}") from None

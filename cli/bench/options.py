"""The command's options, read: what is asked, how much of it, and at which levels of load."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.bench.arrivals import Arrivals
from cli.bench.objective import Objective
from cli.bench.texts import FilePrompts
from cli.bench.workload import Lengths, Load, Plan, Workload
from contracts.errors import InvalidRequest

DEFAULT_CONCURRENCY = "8"
DEFAULT_REQUESTS = 100
CHECKS = 16  # requests of a level that are repeated alone


@dataclass(frozen=True)
class Asked:
    loads: tuple[Load, ...]
    plan: Plan
    workload: Workload  # without its mix, of which the server has to be asked
    prompts: FilePrompts | None
    objective: Objective | None
    checks: int


def read(
    concurrency: str | None,
    rate: str | None,
    arrivals: str,
    shape: float | None,
    requests: int | None,
    duration: float | None,
    warmup: int,
    timeout: float,
    objective: str | None,
    check: str | None,
    prompts: Path | None,
    **workload: Any,
) -> Asked:
    """Raises InvalidRequest for what is none of an option, or does not go together; OSError."""
    loads = _loads(concurrency, rate)
    bounds = None if objective is None else Objective.parse(objective)
    if bounds is not None and bounds.needs_streams and not workload["stream"]:
        raise InvalidRequest("--objective has ttft or tpot, which only streams show; leave --no-stream out")
    file = None if prompts is None else FilePrompts(prompts)
    return Asked(
        loads=loads,
        plan=_plan(loads, requests, duration, warmup, arrivals, shape, timeout),
        workload=_workload(file, **workload),
        prompts=file,
        objective=bounds,
        checks=_checks(check),
    )


def _workload(
    file: FilePrompts | None, prompt_tokens: str, new_tokens: str, fields: tuple[str, ...], **plain: Any
) -> Workload:
    return Workload(
        mix=(),
        prompts=None if file is None else file.file,
        prompt_tokens=Lengths.parse(prompt_tokens, "--prompt-tokens"),
        new_tokens=Lengths.parse(new_tokens, "--new-tokens"),
        fields=_fields(fields),
        **plain,
    )


def _loads(concurrency: str | None, rate: str | None) -> tuple[Load, ...]:
    """`1,8,32` and `5,10`. Raises InvalidRequest."""
    if concurrency is None and rate is None:
        concurrency = DEFAULT_CONCURRENCY
    closed = [Load(concurrency=int(each)) for each in _numbers("--concurrency", concurrency, whole=True)]
    return (*closed, *(Load(rate=each) for each in _numbers("--rate", rate, whole=False)))


def _numbers(option: str, text: str | None, *, whole: bool) -> list[float]:
    found = []
    for part in [] if text is None else text.split(","):
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf or (whole and number != int(number)):
            kind = "whole numbers" if whole else "numbers"
            raise InvalidRequest(f"{option} is {text!r}; write {kind} above 0 with commas between them")
        found.append(number)
    return found


def _plan(
    chosen: Sequence[Load],
    requests: int | None,
    duration: float | None,
    warmup: int,
    arrivals: str,
    shape: float | None,
    timeout: float,
) -> Plan:
    """Raises InvalidRequest for options that do not go together."""
    if requests is not None and duration is not None:
        raise InvalidRequest("--requests and --duration both end a level; give one of them")
    if shape is not None and arrivals != "gamma":
        raise InvalidRequest("--shape is that of a gamma distribution; give --arrivals gamma, too")
    process = Arrivals.model_validate({"process": arrivals, "shape": 1.0 if shape is None else shape})
    return Plan(
        requests=DEFAULT_REQUESTS if requests is None and duration is None else requests,
        duration_seconds=duration,
        warmup=warmup,
        arrivals=process if any(load.rate is not None for load in chosen) else None,
        timeout_seconds=timeout,
    )


def _fields(given: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE`, the value as JSON or else as text. Raises InvalidRequest."""
    found: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise InvalidRequest(f"--set is {each!r}; write it like temperature=0.8")
        if name in found:
            raise InvalidRequest(f"--set gives {name!r} twice; give it once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _checks(text: str | None) -> int:
    """A number or `all`. Raises InvalidRequest."""
    if text is None:
        return CHECKS
    if text == "all":
        return 1 << 62
    if text.isascii() and text.isdigit():
        return int(text)
    raise InvalidRequest(f"--check is {text!r}; write how many requests of a level to repeat alone, or all")

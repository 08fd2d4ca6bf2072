"""What is asked before the load: how long a token is, and whether the server takes such requests at all."""

from __future__ import annotations

import time
from dataclasses import replace

from cli.bench.calls import Call, Calls, Prompts
from cli.bench.draws import draws
from cli.bench.load import Asker
from cli.bench.outcome import Outcome
from cli.bench.texts import SAMPLE_CHARACTERS, CommonWords, words
from cli.bench.workload import Share, Workload
from contracts.errors import EngineFailed, InvalidRequest, NotReady, Unauthenticated

USUAL_CHARACTERS_PER_TOKEN = 4.0  # of English, where a server does not count


async def prompts_of_words(asker: Asker, workload: Workload) -> tuple[list[Prompts], list[float | None]]:
    """Those of each model of the mix, and the characters per token that its server has counted; None if it does not."""
    found: list[Prompts] = []
    counted: list[float | None] = []
    for place, share in enumerate(workload.mix):
        each = None if share.task == "image" else await _characters_per_token(asker, place, share)
        counted.append(each)
        found.append(CommonWords(workload.prompt_tokens, each or USUAL_CHARACTERS_PER_TOKEN))
    return found, counted


async def _characters_per_token(asker: Asker, place: int, share: Share) -> float | None:
    text = words(draws("sample"), SAMPLE_CHARACTERS)
    asked = {"input": [text]} if share.task == "classify" else {"prompt": text, "max_tokens": 1}
    outcome = await asker.ask(Call(place, share.task, {"model": share.model, **asked}), time.perf_counter())
    _check(outcome, share)
    tokens = outcome.content.prompt_tokens
    return len(text) / tokens if tokens else None


async def rehearse(asker: Asker, calls: Calls, workload: Workload) -> None:
    """One request to each model, of the most tokens that the load asks for. Raises what it is refused for."""
    for place, share in enumerate(workload.mix):
        call = calls.of_model(place, draws(workload.seed, "rehearsal", place))
        if share.task == "text":
            call = replace(call, body=call.body | {"max_tokens": workload.new_tokens.most})
        _check(await asker.ask(call, time.perf_counter()), share)


def _check(outcome: Outcome, share: Share) -> None:
    fault = outcome.fault
    if fault is None:
        return
    said = f"before any load, a request to {share.model} failed ({fault.kind}): {fault.message}"
    if fault.kind.startswith(("401", "403")):
        raise Unauthenticated(f"{said} Give a key with --api-key or KAMISHIBAI_API_KEY.")
    if fault.kind.startswith("4"):
        raise InvalidRequest(said)
    if fault.kind.startswith("connection"):
        raise NotReady(said)
    raise EngineFailed(said)

"""The requests of a workload: which one comes as the n-th of a level is fixed by the seed alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from cli.bench.draws import draws
from cli.bench.workload import Share, Workload
from contracts.bundle import Task

PATHS: dict[Task, str] = {
    "text": "/v1/completions",
    "image": "/v1/images/generations",
    "classify": "/v1/classify",
}
SEED_BITS = 31  # all that some servers take


class Prompts(Protocol):
    def prompt(self, draw: Random) -> str: ...


@dataclass(frozen=True, slots=True)
class Call:
    place: int  # of its model in the mix
    task: Task
    body: dict[str, Any]

    @property
    def path(self) -> str:
        return PATHS[self.task]

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))

    def content(self) -> bytes:
        return json.dumps(self.body).encode()


class Calls:
    def __init__(self, workload: Workload, prompts: Sequence[Prompts], ours: bool) -> None:
        """`prompts` are those of each model of the mix. A server that is not `ours` gets no field for pictures that
        OpenAI's has not."""
        self._workload = workload
        self._prompts = prompts
        self._ours = ours
        self._weights = [share.weight for share in workload.mix]

    def call(self, run: str, number: int) -> Call:
        """The n-th of a run; runs have none in common."""
        draw = draws(self._workload.seed, run, number)
        (place,) = draw.choices(range(len(self._weights)), self._weights)
        return self.of_model(place, draw)

    def of_model(self, place: int, draw: Random) -> Call:
        share = self._workload.mix[place]
        seed = draw.getrandbits(SEED_BITS)
        body = {"model": share.model, **self._body(share, place, seed, draw), **self._workload.fields}
        return Call(place, share.task, body)

    def _body(self, share: Share, place: int, seed: int, draw: Random) -> dict[str, Any]:
        workload, prompts = self._workload, self._prompts[place]
        if share.task == "classify":
            return {"input": [prompts.prompt(draw) for _ in range(workload.texts)]}
        if share.task == "image":
            seeded = {"seed": seed} if self._ours else {}
            return {"prompt": prompts.prompt(draw), "n": workload.pictures, **seeded}
        body: dict[str, Any] = {"prompt": prompts.prompt(draw), "seed": seed}
        body["max_tokens"] = draw.randint(workload.new_tokens.least, workload.new_tokens.most)
        if workload.ignore_eos:
            body["ignore_eos"] = True
        if workload.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

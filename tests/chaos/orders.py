"""What clients ask for: a limited set of distinct requests, so that each has a reference, in several manners."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Literal

Manner = Literal["job", "follow", "cancel", "call", "stream", "leave", "vanish", "bad"]
Body = dict[str, Any]

JOBS: tuple[Manner, ...] = ("job", "follow", "cancel")
_SHARES: dict[Manner, int] = {"job": 60, "follow": 10, "cancel": 5, "call": 10, "stream": 12, "leave": 3}
_PROMPT = "the quick brown fox jumps over the lazy dog "


def _bodies() -> list[Body]:
    """Short and long texts and pictures, with settings and seeds of their own."""
    rng = Random(0)
    settings: list[Body] = [{"temperature": 1.0}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.8, "n": 2}]
    lstm = [
        {"model": "lstm", "prompt": _PROMPT[:9], "max_tokens": rng.choice([20, 60, 200]), **setting}
        for setting in settings * 3
    ]
    gpt2 = [
        {"model": "gpt2", "prompt": _PROMPT[: rng.randint(3, 40)], "max_tokens": rng.choice([10, 30, 90]), **setting}
        for setting in settings * 2
    ]
    faces = [{"model": "faces", "n": n} for n in (1, 2, 5, 16)]
    return lstm + gpt2 + faces


_USUAL = _bodies()
_LONG: Body = {"model": "lstm", "prompt": _PROMPT, "max_tokens": 400}
BODIES = [{**body, "seed": seed} for seed, body in enumerate([*_USUAL, *[_LONG] * 5])]
HANGS = range(len(_USUAL), len(_USUAL) + 4)  # each makes the engine hang, once
POISON = len(BODIES) - 1  # kills the engine, always
_FAULTS: list[Body] = [{"n": 0}, {"model": "nobody"}, {"colour": "red"}]  # of bad requests


@dataclass(frozen=True)
class Order:
    """One client's request. `manner`: a job that is waited for, followed as a stream or cancelled; a call; a stream; a
    call that is left early; a stream whose reader vanishes in the middle; a call that cannot be answered.
    """

    number: int
    manner: Manner
    body: int  # which of BODIES

    @property
    def path(self) -> str:
        if self.manner in JOBS:
            return "/v1/jobs"
        return "/v1/images/generations" if BODIES[self.body]["model"] == "faces" else "/v1/completions"

    @property
    def payload(self) -> Body:
        body = BODIES[self.body]
        if self.manner in JOBS:
            fields = {name: value for name, value in body.items() if name != "model"}
            return {"model": body["model"], "input": fields | ({"stream": True} if self.manner == "follow" else {})}
        if self.manner == "bad":
            return {**body, **_FAULTS[self.number % len(_FAULTS)]}
        return {**body, "stream": True} if self.manner in {"stream", "vanish"} else body


def orders(seed: int, jobs: int) -> list[Order]:
    """So many jobs, some of which are cancelled, and a third as many calls and streams among them.

    One job in a thousand makes an engine hang, another one kills it (at least one each).
    """
    rng = Random(seed)
    made: list[Order] = []
    while jobs:
        manner = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
        texts_only = manner in {"stream", "follow"}
        candidates = [index for index, body in enumerate(_USUAL) if not texts_only or body["model"] != "faces"]
        made.append(Order(len(made), manner, rng.choice(candidates)))
        jobs -= manner in JOBS
    places = [order.number for order in made if order.manner == "job"]
    bad = [POISON] * max(1, len(places) // 1000) + list(HANGS[: max(1, len(places) // 1000)])
    for number, body in zip(rng.sample(places, len(bad)), bad, strict=True):
        made[number] = Order(number, "job", body)
    return made

"""Memory that runs out: fewer rows run at once, everybody still gets the same bits, and one that cannot fit says so."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
import torch

from contracts.errors import EngineFailed
from contracts.requests import ImageRequest, TextRequest
from workers.engines import Delta, Done, Evicted, Failed
from workers.engines.loading import load_model
from workers.engines.memory import FIRST_WAIT_CALLS, Allowance, out_of_memory
from workers.local import LocalModel
from workers.scheduler import Scheduler

CPU = torch.device("cpu")
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    Exception("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 9"),
]


class Tight:
    """A real backend on a device with memory for so many rows in a step, or pictures in a call."""

    def __init__(self, backend: Any, rows: float) -> None:
        self._backend = backend
        self.rows = rows
        self.refusals = 0
        self.most = 0  # rows that ran

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def decode(self, tokens, positions, active):
        logits = self._backend.decode(tokens, positions, active)  # the state has changed when memory runs out
        self._check(sum(active))
        return logits

    def draw(self, latents):
        self._check(len(latents))
        return self._backend.draw(latents)

    def _check(self, rows: int) -> None:
        if rows > self.rows:
            self.refusals += 1
            raise ERRORS[self.refusals % len(ERRORS)]
        self.most = max(self.most, rows)


def tight_engine(bundle, rows: float) -> tuple[Any, Tight]:
    engine: Any = load_model(bundle, "pytorch:fp32", CPU).engine
    engine._backend = tight = Tight(engine._backend, rows)
    return engine, tight


def requests_for(bundle, count):
    rng = random.Random(4)
    target = bundle.target()
    if bundle.manifest.task == "image":
        return {str(n): ImageRequest(target=target, seed=n, count=rng.randint(1, 9)) for n in range(count)}
    return {
        str(n): TextRequest(
            target=target,
            seed=n,
            prompt_tokens=tuple(rng.randrange(1, 60) for _ in range(rng.choice([1, 5, 40]))),
            max_tokens=rng.randint(1, 40),
            temperature=rng.choice([0.0, 1.0]),
            logprobs=rng.choice([None, 2]),
            echo=rng.choice([False, True]),
            n=(choices := rng.choice([1, 1, 3])),
            num_beams=rng.choice([1, 1, 4]) if choices > 1 else 1,
        )
        for n in range(count)
    }


def run(engine, requests):
    """As the worker does: what is evicted begins again. Returns what came by request, and the failures."""
    scheduler: Scheduler[Any] = Scheduler({"m": engine})
    came: dict[str, list[Any]] = {name: [] for name in requests}
    failed: dict[str, str] = {}
    for name, request in requests.items():
        scheduler.submit("m", name, request)
    while scheduler.busy:
        scheduler.admit(lambda name, error: pytest.fail(f"{name}: {error}"))
        for event in engine.collect(engine.launch()).events:
            if isinstance(event, Evicted):
                came[event.job_id] = []
                scheduler.submit("m", event.job_id, requests[event.job_id])
            elif isinstance(event, Failed):
                failed[event.job_id] = json.loads(event.record)["message"]
            else:
                came[event.job_id].append(event)
    return {name: joined(events) for name, events in came.items()}, failed


def joined(events):
    """Deltas of a choice put together: calls end in other places when fewer rows run."""
    whole: dict[Any, Any] = {}
    for event in events:
        if isinstance(event, Delta):
            for kind in ("tokens", "scores", "prompt_scores", "pictures"):
                whole.setdefault((event.choice, kind), []).extend(vars(event)[kind])
            whole[event.choice, "beam score"] = event.beam_score
        elif isinstance(event, Done):
            assert (event.choice, "end") not in whole, "a choice ends once"
            whole[event.choice, "end"] = event.finish_reason
    return whole


@pytest.mark.parametrize(("name", "rows"), [("lstm", 4), ("lstm", 7), ("gpt2", 5), ("faces", 1), ("faces", 4)])
def test_everybody_gets_the_same_bits_with_less_memory(store, name, rows):
    bundle = store.open(name)
    requests = requests_for(bundle, 30)
    plenty, _ = tight_engine(bundle, math.inf)
    expected, _ = run(plenty, requests)
    engine, tight = tight_engine(bundle, rows)
    assert run(engine, requests) == (expected, {})
    assert tight.refusals
    assert tight.most <= rows
    assert engine.free == engine.capacity


def test_a_request_that_does_not_fit_alone_fails_alone_and_says_so(store):
    bundle = store.open("lstm")
    requests = requests_for(bundle, 20)
    wide = TextRequest(target=bundle.target(), seed=1, prompt_tokens=(5, 6), max_tokens=9, n=6)
    engine, _ = tight_engine(bundle, 4)
    came, failed = run(engine, requests | {"wide": wide})
    assert came.pop("wide") == {}
    assert failed.keys() == {"wide"}
    assert "not enough memory on the device for this request, even alone" in failed["wide"]
    assert came == run(tight_engine(bundle, math.inf)[0], requests)[0]


def test_a_picture_that_does_not_fit_alone_fails_and_says_so(store):
    engine, tight = tight_engine(store.open("faces"), 0)
    requests = requests_for(store.open("faces"), 3)
    _, failed = run(engine, requests)
    assert set(failed) == set(requests)
    assert "not enough memory on the device to draw one picture" in failed["0"]
    tight.rows = 64
    assert run(engine, requests)[1] == {}, "the engine goes on"


def test_another_error_is_not_taken_for_a_lack_of_memory(store):
    engine, _ = tight_engine(store.open("lstm"), math.inf)
    engine._backend.decode = lambda *_: 1 / 0
    engine.add("x", next(iter(requests_for(store.open("lstm"), 1).values())))
    with pytest.raises(ZeroDivisionError):
        engine.launch()
    assert engine.jobs == ["x"]


def test_a_local_run_without_memory_raises_and_leaves_the_model_usable(store):
    model: Any = LocalModel(store.open("lstm"))
    request = next(iter(requests_for(model.bundle, 1).values()))
    expected = model.text(request)
    model._engine._backend = tight = Tight(model._engine._backend, 0)
    with pytest.raises(EngineFailed, match="not enough memory"):
        model.text(request)
    tight.rows = 64
    assert model.text(request) == expected


def test_many_local_texts_are_the_same_with_less_memory(store):
    model: Any = LocalModel(store.open("lstm"))
    requests = list(requests_for(model.bundle, 30).values())
    expected = dict(model.texts(requests))
    model._engine._backend = tight = Tight(model._engine._backend, math.inf)
    results = {}
    for place, result in model.texts(requests):
        results[place] = result
        tight.rows = 5  # with texts half written
    assert results == expected
    assert tight.refusals


@pytest.mark.parametrize("error", ERRORS)
def test_what_allocators_say_is_known(error):
    assert out_of_memory(error)


def test_rows_are_halved_and_doubled_again_after_ever_longer_whiles():
    allowance = Allowance(64)
    waits = []
    for _ in range(3):
        allowance.halve(64)
        assert allowance.rows == 32
        calls = 0
        while allowance.rows < 64:
            allowance.count_call()
            calls += 1
        waits.append(calls)
    assert waits == [FIRST_WAIT_CALLS, 2 * FIRST_WAIT_CALLS, 4 * FIRST_WAIT_CALLS]
    for _ in range(100_000):
        allowance.count_call()
    assert allowance.rows == 64
    allowance.halve(1)
    assert allowance.rows == 1

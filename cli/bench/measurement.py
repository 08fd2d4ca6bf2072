"""A whole benchmark: rehearsal, each level after its warm-up, and requests repeated alone."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tqdm import tqdm

from cli.bench.calls import Calls, Prompts
from cli.bench.load import Asker, LoadRun
from cli.bench.objective import Objective
from cli.bench.outcome import Outcome
from cli.bench.rehearsal import prompts_of_words, rehearse
from cli.bench.repeats import repeat, sample
from cli.bench.results import Level, Repeats
from cli.bench.summary import summarise
from cli.bench.workload import Load, Plan, Workload


@dataclass(frozen=True)
class Measured:
    levels: tuple[Level, ...]
    characters_per_token: tuple[float | None, ...]
    interrupted: bool


class Measurement:
    def __init__(
        self,
        asker: Asker,
        workload: Workload,
        plan: Plan,
        loads: Sequence[Load],
        *,
        objective: Objective | None,
        checks: int,
        ours: bool,
    ) -> None:
        """`checks` is how many requests of each level are repeated alone."""
        self._asker = asker
        self._workload = workload
        self._plan = plan
        self._loads = loads
        self._objective = objective
        self._checks = checks
        self._ours = ours
        self._stop = asyncio.Event()

    async def run(self, prompts: Prompts | None) -> Measured:
        """`prompts` are those of a file; else they are made of words. Ctrl-C ends it with what was measured so far.
        Raises what the first requests are refused for."""
        counted: list[float | None] = [None] * len(self._workload.mix)
        if prompts is None:
            of_models, counted = await prompts_of_words(self._asker, self._workload)
        else:
            of_models = [prompts] * len(self._workload.mix)
        calls = Calls(self._workload, of_models, self._ours)
        await rehearse(self._asker, calls, self._workload)
        levels = []
        with _interrupts(self._stop), _rare_collections():
            for number, load in enumerate(self._loads):
                if self._plan.warmup and not self._stop.is_set():
                    await self._load(calls, f"warm-up {number}", load, self._plan.warmup, None, [])
                if not self._stop.is_set():
                    levels.append(await self._level(calls, f"level {number}", load))
        return Measured(tuple(levels), tuple(counted), self._stop.is_set())

    async def _level(self, calls: Calls, name: str, load: Load) -> Level:
        outcomes: list[Outcome] = []
        cpu_before = time.process_time()
        run = await self._load(calls, name, load, self._plan.requests, self._plan.duration_seconds, outcomes)
        cpu_seconds = time.process_time() - cpu_before
        return summarise(
            outcomes,
            load,
            self._workload,
            self._objective,
            await self._repeats(outcomes, load),
            begin=run.begin,
            cpu_seconds=cpu_seconds,
            given_up=run.given_up,
        )

    async def _load(
        self,
        calls: Calls,
        name: str,
        load: Load,
        requests: int | None,
        duration_seconds: float | None,
        outcomes: list[Outcome],
    ) -> LoadRun:
        """What becomes of its requests is added to `outcomes`."""
        with tqdm(total=requests, unit=" requests", desc=f"{load}", disable=None, leave=False) as bar:

            def tell(outcome: Outcome) -> None:
                outcomes.append(outcome)
                bar.update()

            run = LoadRun(self._asker, lambda number: calls.call(name, number), tell, requests, duration_seconds)
            if load.concurrency is not None:
                await run.closed_loop(load.concurrency, self._stop)
            elif load.rate is not None and self._plan.arrivals is not None:
                await run.open_loop(self._plan.arrivals.gaps(load.rate, self._workload.seed, name), self._stop)
        return run

    async def _repeats(self, outcomes: Sequence[Outcome], load: Load) -> Repeats | None:
        chosen = sample(outcomes, self._checks)
        if not chosen or self._stop.is_set():
            return None
        with tqdm(total=len(chosen), unit=" repeated", desc=f"{load}, alone", disable=None, leave=False) as bar:
            return await repeat(self._asker, chosen, self._ours, bar.update, self._stop)


@contextmanager
def _interrupts(stop: asyncio.Event) -> Iterator[None]:
    """The first Ctrl-C sets `stop`, the next one ends the command at once."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop.set()

    with suppress(ValueError, RuntimeError, NotImplementedError):  # not the main thread, or another system's loop
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        with suppress(ValueError, RuntimeError, NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """What is kept of thousands of requests is looked through less often, so that no pause of ours is measured."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()

"""Makes a real engine child fail on purpose, without any hook in the product.

Python imports a module of this name at its start. Put this folder first on the PYTHONPATH of a worker (or of
`kamishibai up`), and what shall go wrong as a JSON list into KAMISHIBAI_TEST_FAULTS; only engine children obey. The
fixture `faults` in tests/conftest.py makes that environment. A fault:

    seed     the request with this seed brings it about; without, any request does (but not a model's warm-up)
    kind     die: SIGKILL to itself.  stop: SIGSTOP to itself.  hang: sleeps for ever.  raise: the call raises.
             slow: every call takes `seconds` longer.
             memory: the runtime raises torch.OutOfMemoryError for more than `rows` rows (or pictures) at once.
    calls    it lets so many calls with that request pass before (default 0)
    times    it happens so often in all, over all children (default: always); needs `log`
    log      file that gets a line each time: the kind, then the seeds of all requests of the engine, by blanks
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "KAMISHIBAI_TEST_FAULTS"
IN_CALL: list[Any] = []  # the engine in whose call we are: a model is probed before, with as many rows as there are


class Fault:
    """One entry of the list."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.kind: str = entry["kind"]
        self.rows: int = entry.get("rows", 0)
        self.seconds: float = entry.get("seconds", 0.0)
        self._seed: int | None = entry.get("seed")
        self._calls: int = entry.get("calls", 0)
        self._times: float = entry.get("times", float("inf"))
        self._log = Path(entry["log"]) if "log" in entry else None
        self._seen: Counter[str] = Counter()  # calls by job

    def strikes(self, seeds: dict[str, int]) -> bool:
        """Whether it happens now; `seeds` of the engine's requests by job."""
        due = False
        for job, seed in seeds.items():
            if self._seed in (None, seed):
                due |= self._seen[job] >= self._calls
                self._seen[job] += 1
        return due and self._note(seeds)

    def _note(self, seeds: dict[str, int]) -> bool:
        if self._log is None:
            return True
        past = self._log.read_text().splitlines() if self._log.exists() else []
        if len(past) >= self._times:
            return False
        with self._log.open("a") as file:
            file.write(" ".join([self.kind, *map(str, seeds.values())]) + "\n")
        return True

    def happen(self) -> None:
        if self.kind == "raise":
            raise RuntimeError("a fault that a test asked for")
        if self.kind == "slow":
            time.sleep(self.seconds)
            return
        if self.kind == "hang":
            time.sleep(10_000)
        os.kill(os.getpid(), signal.SIGSTOP if self.kind == "stop" else signal.SIGKILL)


def seeds_of(engine: Any) -> dict[str, int]:
    """By job, of all clients' requests that an engine runs."""
    held = engine._orders.values() if hasattr(engine, "_orders") else filter(None, engine._slots)
    return {each.job_id: each.request.seed for each in held if each.job_id != "warm-up"}


def before_launch(launch: Callable[[Any], Any], faults: list[Fault]) -> Callable[[Any], Any]:
    def launch_with_faults(engine: Any) -> Any:
        seeds = seeds_of(engine)
        for fault in faults:
            if fault.strikes(seeds):
                fault.happen()
        IN_CALL.append(engine)
        try:
            return launch(engine)
        finally:
            IN_CALL.pop()

    return launch_with_faults


def bounded(function: Callable[..., Any], most: int, count: Callable[..., int]) -> Callable[..., Any]:
    import torch

    def run(backend: Any, *arguments: Any) -> Any:
        if IN_CALL and (rows := count(*arguments)) > most:
            raise torch.OutOfMemoryError(f"{rows} rows, and a test allows {most}")
        return function(backend, *arguments)

    return run


def install(faults: list[Fault]) -> None:
    from models.runtimes import pytorch
    from workers.engines.image import ImageEngine
    from workers.engines.text import TextEngine

    engines: list[Any] = [TextEngine, ImageEngine]
    backends: list[Any] = [pytorch.LstmBackend, pytorch.WindowedLstmBackend, pytorch.Gpt2Backend]
    for engine in engines:
        engine.launch = before_launch(engine.launch, [fault for fault in faults if fault.kind != "memory"])
    for most in (fault.rows for fault in faults if fault.kind == "memory"):
        for backend in backends:
            backend.decode = bounded(backend.decode, most, lambda tokens, positions, active: sum(active))
        images: Any = pytorch.DcganBackend
        images.draw = bounded(images.draw, most, len)


if VARIABLE in os.environ and "workers.engine_child" in sys.orig_argv:
    install([Fault(entry) for entry in json.loads(os.environ[VARIABLE])])

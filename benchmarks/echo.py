"""A worker whose engine gives every prompt back, through the product's own parent, child, channel and scheduler: what
remains is what serving costs.

    python benchmarks/echo.py worker [NAME]   claims jobs, as `kamishibai worker` does
    python benchmarks/echo.py child ORDER     its engine child, started by it

With ECHO_ROWS=8 ECHO_SECONDS=0.01 in the environment it runs at most 8 requests at once, and each call takes 10 ms
longer.

The bundle is a character LSTM whose weights nobody reads.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from logging.config import dictConfig
from pathlib import Path

from contracts.bundle import TOKENIZER, WEIGHTS, Bundle
from contracts.connection import connect
from contracts.errors import InvalidRequest
from contracts.logs import configuration
from contracts.requests import Request, TextRequest
from contracts.settings import from_environment
from contracts.store import Store
from contracts.tokenizers import CharacterTokenizer
from models.probe import Probe
from workers import child, engine_child
from workers.child import Child
from workers.crews import Wanted
from workers.engines import Call, Delta, Done, Event
from workers.engines.loading import LoadedModel
from workers.parent import WorkerParent
from workers.wanted import WantedModels

CAPACITY = int(os.environ.get("ECHO_ROWS", "64"))  # as the text engine has slots
CALL_SECONDS = float(os.environ.get("ECHO_SECONDS", "0"))
CHARACTERS = "abcdefghijklmnopqrstuvwxyz ,."


class EchoEngine:
    """The prompt's tokens are the output: all of them in one call, or, for a stream, one in each."""

    def __init__(self) -> None:
        self._left: dict[str, list[int]] = {}  # job -> what it is still to be given
        self._streams: set[str] = set()

    @property
    def capacity(self) -> int:
        return CAPACITY

    @property
    def jobs(self) -> list[str]:
        return list(self._left)

    @property
    def free(self) -> int:
        return CAPACITY - len(self._left)

    @property
    def busy(self) -> bool:
        return bool(self._left)

    def fits(self, request: Request) -> bool:
        return self.free > 0

    def add(self, job_id: str, request: Request) -> None:
        if not isinstance(request, TextRequest):
            raise InvalidRequest("only texts have an echo")
        self._left[job_id] = list(request.prompt_tokens[: request.max_tokens])
        if request.stream:
            self._streams.add(job_id)

    def remove(self, job_id: str, choice: int | None = None) -> None:
        self._left.pop(job_id, None)
        self._streams.discard(job_id)

    def launch(self) -> Call:
        began, batch, events = time.perf_counter(), len(self._left), list[Event]()
        units = 0
        time.sleep(CALL_SECONDS)
        for job_id, left in list(self._left.items()):
            now = 1 if job_id in self._streams else len(left)
            events.append(Delta(job_id, tokens=left[:now]))
            units += now
            del left[:now]
            if not left:
                events.append(Done(job_id, "length"))
                self.remove(job_id)
        return Call(events, batch, units, time.perf_counter() - began)

    def collect(self, handle: Call) -> Call:
        return handle


def write_bundle(store: Store, name: str = "echo") -> None:
    """A bundle for the engine above; a request's output may have 4,096 tokens."""

    def fill(folder: Path) -> dict[str, object]:
        (folder / WEIGHTS).write_bytes(b"nobody reads them")
        CharacterTokenizer(CHARACTERS).write(folder / TOKENIZER)
        return {
            "family": "lstm",
            "task": "text",
            "config": {},
            "limits": {"max_tokens": 4096},
            "tokenizer": "characters",
            "variants": [{"format": "pytorch", "precision": "fp32", "files": [WEIGHTS]}],
            "example": {"prompt": "a"},
        }

    store.write(name, fill)


def _load(bundle: Bundle, *_: object) -> LoadedModel:
    return LoadedModel(EchoEngine(), Probe(equal={}), fingerprint="fp_echo")


def _work(name: str) -> None:
    """As `kamishibai worker`, with settings from the environment alone, except for the child that it starts."""
    settings = from_environment()
    vars(child)["python_module"] = lambda _: [sys.executable, __file__, "child"]
    dictConfig(configuration(settings, worker=name))
    wanted = WantedModels(Store(settings.store), None, None, "cpu", connect(settings.redis_url), name)
    WorkerParent(settings.redis_url, name, wanted, partial(_make_child, settings.store)).run()


def _make_child(store: Path, wanted: Wanted) -> Child:
    return Child(store, list(wanted), "cpu", kv_bytes=1)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        _work(*sys.argv[2:] or ["echo"])
    else:
        vars(engine_child)["load_model"] = _load
        del sys.argv[1]  # what is left is what a child is started with
        engine_child.main()

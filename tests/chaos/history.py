"""What happened in a run: an append-only list that clients, faults and observers write, and the checker reads."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HISTORY = "history.jsonl"


@dataclass(frozen=True)
class Entry:
    """Something that was seen. `at` is in seconds since the run's start.

    Of a request (`number`) and perhaps its job: sent, refused, broken, accepted, ended, missing, deleted, gave up,
    results, answered, streamed, interrupted, left. Of the fleet: fault, over, exit, lost, noticed, rerun, engine down,
    engine up, memory, drained, key.
    """

    at: float
    what: str
    number: int | None = None
    job: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class History:
    """Safe for threads. Each entry is also a line of JSON in `path`, so that a run that hangs can be read."""

    def __init__(self, path: Path) -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._file = path.open("w", encoding="utf-8")
        self._entries: list[Entry] = []

    def now(self) -> float:
        return time.monotonic() - self._began

    def record(self, what: str, number: int | None = None, job: str | None = None, **facts: Any) -> None:
        with self._lock:
            entry = Entry(round(self.now(), 4), what, number, job, facts)
            self._entries.append(entry)
            self._file.write(json.dumps(asdict(entry)) + "\n")

    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

    def close(self) -> None:
        self._file.close()


def of_number(entries: Iterable[Entry], number: int) -> list[Entry]:
    return [entry for entry in entries if entry.number == number]


def read_history(path: Path) -> list[Entry]:
    """The entries of a run that is over."""
    with path.open(encoding="utf-8") as lines:
        return [Entry(**json.loads(line)) for line in lines]

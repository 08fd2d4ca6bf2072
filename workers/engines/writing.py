"""Texts whose tokens the backend draws itself, several steps in one call (multi-step decode)."""

from __future__ import annotations

import time
from collections.abc import Callable

from models.runtimes import MOST_STEPS, LaunchingWriter, Steps, Writer, Written
from models.sampling import PlainSampling
from workers.engines.rows import Row


class Writing:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._launching = writer if isinstance(writer, LaunchingWriter) else None
        self._most_steps = self._launching.most_steps if self._launching else MOST_STEPS
        self._rows: list[Row | None] = []
        self._sampling = PlainSampling([])  # of those rows
        self._step_seconds = 0.0  # what one step took lately

    def covers(self, row: Row) -> bool:
        """Whether the writer draws this row's tokens."""
        return row.is_plain or (self.launches and row.is_listed)

    def affordable_steps(self, rows: list[Row | None], seconds: float) -> int:
        """A power of two, so that calls have few shapes. How many there are changes no text."""
        wanted = max(row.request.max_tokens - len(row.output) for row in rows if row)
        affordable = int(seconds / self._step_seconds) if self._step_seconds else 1
        return 1 << (max(1, min(self._most_steps, wanted, affordable)).bit_length() - 1)

    def write(
        self, rows: list[Row | None], tokens: list[int], positions: list[int], active: list[bool], steps: int
    ) -> tuple[Written, int]:
        """Steps over a bucket of slots, of which `rows` get what was drawn. Returns also how many tokens they got."""
        started = time.perf_counter()
        written = self._writer.write(tokens, positions, active, self._coming(rows, steps))
        return self._taken(rows, steps, started, written)

    @property
    def launches(self) -> bool:
        """Whether steps need not be waited for."""
        return self._launching is not None

    def launch(
        self, rows: list[Row | None], tokens: list[int], positions: list[int], active: list[bool], steps: int
    ) -> Callable[[], tuple[Written, int]]:
        """As `write`, without waiting: what it returns waits. Raises ValueError for a writer that has to be waited for.

        Until then the same rows must be there.
        """
        if self._launching is None:
            raise ValueError("this writer does not work by itself; call write()")
        started = time.perf_counter()
        wait = self._launching.launch(tokens, positions, active, self._coming(rows, steps))
        return lambda: self._taken(rows, steps, started, wait())

    def _coming(self, rows: list[Row | None], steps: int) -> Steps:
        if not _same(rows, self._rows):
            self._rows, self._sampling = rows, PlainSampling([row.state() if row else None for row in rows])
        return self._sampling.next(steps)

    def _taken(self, rows: list[Row | None], steps: int, started: float, written: Written) -> tuple[Written, int]:
        """The rows have got their tokens."""
        self._step_seconds = (time.perf_counter() - started) / steps
        drawn = zip(rows, written.tokens.tolist(), strict=True)
        return written, sum(row.take(tokens) for row, tokens in drawn if row)


def _same(rows: list[Row | None], others: list[Row | None]) -> bool:
    return len(rows) == len(others) and all(row is other for row, other in zip(rows, others, strict=True))

"""The load itself: a closed loop of clients that each wait for their answer, or an open one that waits for nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from itertools import count
from typing import Protocol

from cli.bench.calls import Call
from cli.bench.outcome import Outcome


class Asker(Protocol):
    async def ask(self, call: Call, due: float) -> Outcome: ...


class LoadRun:
    """Requests of one level. `tell` gets each outcome as it comes."""

    def __init__(
        self,
        asker: Asker,
        call: Callable[[int], Call],
        tell: Callable[[Outcome], None],
        requests: int | None,
        duration_seconds: float | None,
    ) -> None:
        """Ends after so many requests or, once those under way have ended, after so many seconds."""
        self._asker = asker
        self._call = call
        self._tell = tell
        self._requests = requests
        self._duration_seconds = duration_seconds
        self.begin = 0.0
        self.given_up = 0  # that were under way when the run was stopped

    async def closed_loop(self, concurrency: int, stop: asyncio.Event) -> None:
        """Each client sends its next request when the one before has been answered."""
        self.begin = time.perf_counter()
        numbers = count()

        async def client() -> None:
            while self._goes_on(number := next(numbers), time.perf_counter()):
                await self._one(number, time.perf_counter())

        async def clients() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(client())

        await self._until(stop, clients())

    async def open_loop(self, gaps: Iterator[float], stop: asyncio.Event) -> None:
        """Requests are sent when they are due, and their latencies count from then. So neither a server that stands
        still nor a client that is late makes any wait look shorter (no "coordinated omission")."""
        self.begin = time.perf_counter()

        async def arrive() -> None:
            due = self.begin
            async with asyncio.TaskGroup() as group:
                for number, gap in enumerate(gaps):
                    due += gap
                    if not self._goes_on(number, due):
                        return
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    group.create_task(self._one(number, due))

        await self._until(stop, arrive())

    def _goes_on(self, number: int, seconds: float) -> bool:
        if self._requests is not None and number >= self._requests:
            return False
        return self._duration_seconds is None or seconds < self.begin + self._duration_seconds

    async def _one(self, number: int, due: float) -> None:
        try:
            outcome = await self._asker.ask(self._call(number), due)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        self._tell(outcome)

    async def _until(self, stop: asyncio.Event, requests: Coroutine[None, None, None]) -> None:
        """Until all are through; what is under way when the user stops it is given up."""
        work, stopped = asyncio.create_task(requests), asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        work.cancel()  # without effect on what is done
        with suppress(asyncio.CancelledError):
            await work

"""Rounds of calls: every engine that is due gets one, and devices never wait for what is told of the round before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from contracts.requests import Request
from workers.engines import Call, Engine
from workers.scheduler import Scheduler

log = logging.getLogger("kamishibai.engine")
T = TypeVar("T")


class Rounds:
    """`tell(engine, call)` reports a call that has ended, `fail(engine, error)` one that raised; either may take time.

    A call that a CPU has made is told of at once. What devices have made is told of once their next calls are
    launched, or when there are none.
    """

    def __init__(
        self,
        engines: dict[str, Engine[Any]],
        scheduler: Scheduler[Request],
        tell: Callable[[str, Call], None],
        fail: Callable[[str, Exception], None],
    ) -> None:
        self._engines = engines
        self._scheduler = scheduler
        self._tell = tell
        self._fail = fail
        self._untold: list[tuple[str, Call]] = []

    def go(self) -> None:
        """One round. Afterwards everything has been told, or there is another round to go."""
        launched = []
        for name in self._scheduler.due():
            handle = self._try(name, self._engines[name].launch)
            if isinstance(handle, Call):
                self._collect(name, handle)
                self._tell_all()
            elif handle is not None:
                launched.append((name, handle))
        self._tell_all()
        for name, handle in launched:
            self._collect(name, handle)
        if not self._scheduler.busy:
            self._tell_all()

    def _collect(self, name: str, handle: Any) -> None:
        if call := self._try(name, partial(self._engines[name].collect, handle)):
            self._untold.append((name, call))

    def _tell_all(self) -> None:
        for name, call in self._untold:
            self._tell(name, call)
        self._untold = []

    def _try(self, name: str, part_of_call: Callable[[], T]) -> T | None:
        """None if it raises: what was made before is told first, so that none of that is taken for lost."""
        try:
            return part_of_call()
        except Exception as error:
            log.exception("a call of %s failed", name)
            self._tell_all()
            self._fail(name, error)
            return None

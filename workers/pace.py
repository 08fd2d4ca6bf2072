"""How fast a job's tokens come: what its client would measure, without the way over the network."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Step(NamedTuple):
    """What some tokens add to the measurements; None: nothing."""

    first_token_seconds: float | None  # from being put on the queue to the job's first token
    token_seconds: float | None  # for each of these tokens, since the text's last ones


class Pace:
    """An engine call brings several tokens of a text at once: each of them counts with an equal share of the time since
    the call before. Those of a text's first call came with the first token, so they have none."""

    def __init__(self, waited_seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`waited_seconds` in the queue; None: the job has run before, and its first token is not measured."""
        self._clock = clock
        self._enqueued_at = None if waited_seconds is None else clock() - waited_seconds
        self._last: dict[int, float] = {}  # choice -> when its last tokens came

    def take(self, choice: int, tokens: int) -> Step:
        """So many tokens of a choice came just now."""
        if not tokens:
            return Step(None, None)
        now = self._clock()
        began, self._enqueued_at = self._enqueued_at, None
        last, self._last[choice] = self._last.get(choice), now
        return Step(None if began is None else now - began, None if last is None else (now - last) / tokens)

    def restart(self) -> None:
        """The engine begins again; its client has the first token already, or is never going to be told of this."""
        self._last.clear()

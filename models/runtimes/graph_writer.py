"""Text on a GPU without a word to the host between steps: a step and its draw are one CUDA graph, replayed for each.

A graph has a fixed number of rows and attends over a fixed number of positions; all else lies in tensors that it reads
and writes: the tokens to feed, which it replaces by those that it draws, their positions, and which step of the call
this is. Tiles of one width, side by side, step any number of texts in the same way: how many there are cannot change a
row's bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.candidates import keep_few
from models.cdf import invert_cdf
from models.runtimes import SMALLEST_ROWS, Steps, Written, row_buckets
from models.runtimes.cuda_graphs import Recorder
from models.runtimes.host_copies import Inbox, Outbox

# Rows that have ended in mid-call cost nothing, since all rows are always stepped: a call has more steps than on a CPU.
MOST_GRAPH_STEPS = 64

# Rows of what the host sends; uniforms come last.
_TOKENS, _POSITIONS, _ACTIVE, _TEMPERATURES, _TOP_K, _TOP_P, _MIN_P, _UNIFORMS = range(8)


class Step(Protocol):
    """One step over slots from `first` on, of fixed shapes."""

    def __call__(self, tokens: Tensor, positions: Tensor, active: Tensor, length: int, first: int) -> Tensor:
        """Tokens, positions int64 and active bool, each (rows,) -> logits (rows, vocabulary). No position is beyond
        `length`. The state of inactive rows stays as it is, but for what nobody reads before it is written."""


class GraphWriter:
    """A `LaunchingWriter`, and what computes the logits of single steps, which are the same ones: one path for both."""

    most_steps = MOST_GRAPH_STEPS

    def __init__(
        self,
        step: Step,
        recorder: Recorder,
        device: torch.device,
        *,
        vocabulary_size: int,
        slots: int,
        tile: int | None,
        lengths: Sequence[int],
    ) -> None:
        """`tile` is the width of tiles, which are all that is run; None is for a graph of each row bucket instead.
        Graphs are made for `lengths`, ascending; the last is the longest text.

        All slots are free: recording writes into them.
        """
        self.smallest_rows = min(slots, tile or SMALLEST_ROWS)
        self._logits = torch.zeros(slots, vocabulary_size, device=device)
        make = partial(_Tile, step, recorder, self._logits, lengths)
        buckets = row_buckets(slots, self.smallest_rows)
        if tile:
            tiles = [make(first, min(tile, slots - first)) for first in range(0, slots, tile)]
            self._tiles = {rows: tiles[: -(-rows // tile)] for rows in buckets}  # by how many rows a call has
        else:
            self._tiles = {rows: [make(0, rows)] for rows in reversed(buckets)}

    def write(self, tokens: list[int], positions: list[int], active: list[bool], steps: Steps) -> Written:
        return self.launch(tokens, positions, active, steps)()

    @torch.inference_mode()
    def launch(
        self, tokens: list[int], positions: list[int], active: list[bool], steps: Steps
    ) -> Callable[[], Written]:
        rows, count = steps.uniforms.shape
        tiles = [tile for tile in self._tiles[rows] if any(active[tile.slots])]
        for tile in tiles:
            own = tile.slots
            tile.launch(tokens[own], positions[own], active[own], steps.part(own))
        logits = self._logits[: rows if count == 1 else 0]
        return lambda: _written(tiles, rows, count, logits)

    def logits(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """One step whose draw nobody reads. The next call overwrites them."""
        rows = len(tokens)
        self.launch(tokens, positions, active, Steps(np.zeros((rows, 1)), np.ones(rows, np.float32)))
        return self._logits[:rows]


def _written(tiles: list[_Tile], rows: int, count: int, logits: Tensor) -> Written:
    """What the tiles tell; others have no text."""
    tokens, sound = np.zeros((rows, count), np.int64), np.ones(rows, np.bool_)
    for tile in tiles:
        told = tile.told.read()
        tokens[tile.slots], sound[tile.slots] = told[:count].T, told[MOST_GRAPH_STEPS] > 0
    return Written(tokens, sound, logits)


class _Tile:
    """All graphs of some slots, and the tensors that they work on."""

    def __init__(
        self, step: Step, recorder: Recorder, logits: Tensor, lengths: Sequence[int], first: int, rows: int
    ) -> None:
        device = logits.device
        self.slots = slice(first, first + rows)
        self._step = step
        self._lengths = lengths
        # All of it as fp64, which holds tokens, positions and fp32 exactly: one copy instead of eight.
        self._given = Inbox((_UNIFORMS + MOST_GRAPH_STEPS, rows), torch.float64, device)
        # Tokens by step, then which rows are sound.
        self.told = Outbox((MOST_GRAPH_STEPS + 1, rows), torch.int64, device)
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._positions = torch.zeros(rows, dtype=torch.int64, device=device)
        self._active = torch.zeros(rows, dtype=torch.bool, device=device)
        self._temperatures = torch.ones(rows, 1, device=device)
        self._top_k = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._top_p = torch.ones(rows, 1, dtype=torch.float64, device=device)
        self._min_p = torch.zeros(rows, 1, device=device)
        self._made = torch.zeros(1, dtype=torch.int64, device=device)  # steps of this call
        self._logits = logits[self.slots]
        with torch.inference_mode():
            self._begin = recorder.record(self._take_what_is_given)
            # The longest first: the others find room in its memory.
            self._steps = {
                (length, listed): recorder.record(partial(self._make, length, listed))
                for length in reversed(lengths)
                for listed in (True, False)
            }

    def launch(self, tokens: list[int], positions: list[int], active: list[bool], steps: Steps) -> None:
        count = steps.uniforms.shape[1]
        given = self._given.open()
        given[_TOKENS], given[_POSITIONS], given[_ACTIVE] = tokens, positions, active
        given[_TEMPERATURES] = steps.temperatures
        if listed := steps.short_lists:
            given[_TOP_K], given[_TOP_P], given[_MIN_P] = listed.top_k, listed.top_p, listed.min_p
        given[_UNIFORMS : _UNIFORMS + count] = steps.uniforms.T
        self._given.send()
        self._begin()
        longest = max(positions) + 1
        for step in range(count):
            self._steps[self._padded(longest + step), listed is not None]()
        self.told.send()

    def _padded(self, length: int) -> int:
        """What a step of texts up to this long attends over. A text that has ended in mid-call may go beyond."""
        return next((padded for padded in self._lengths if padded >= length), self._lengths[-1])

    def _take_what_is_given(self) -> None:
        given = self._given.tensor
        self._tokens.copy_(given[_TOKENS])
        self._positions.copy_(given[_POSITIONS])
        self._active.copy_(given[_ACTIVE])
        settings = self._temperatures, self._top_k, self._top_p, self._min_p
        for setting, row in zip(settings, (_TEMPERATURES, _TOP_K, _TOP_P, _MIN_P), strict=True):
            setting[:, 0].copy_(given[row])
        self.told.tensor[MOST_GRAPH_STEPS].fill_(1)
        self._made.zero_()

    def _make(self, length: int, listed: bool) -> None:
        """One step: feed, draw, and feed what was drawn next time. Short lists take time, so they have graphs of their
        own; other rows draw the same from both."""
        self._logits.copy_(self._step(self._tokens, self._positions, self._active, length, self.slots.start))
        uniform = self._given.tensor[_UNIFORMS:].index_select(0, self._made)[0]
        scores = self._logits / self._temperatures
        weights = keep_few(scores, self._top_k, self._top_p, self._min_p) if listed else scores.softmax(-1)
        drawn = invert_cdf(weights, uniform)
        # Of what is not a number something comes that is no token, which must not be looked up.
        self._tokens.copy_(drawn.clamp_(0, self._logits.shape[1] - 1))
        self.told.tensor.index_copy_(0, self._made, self._tokens[None])
        self.told.tensor[MOST_GRAPH_STEPS].mul_(self._logits.amax(-1).isfinite())
        # A text may end in mid-call, with the context; what it is stepped on from there nobody reads.
        self._positions.add_(self._active).clamp_(max=self._lengths[-1] - 1)
        self._made.add_(1)

"""Prompts on a GPU: several chunks in one CUDA graph, instead of hundreds of launches for each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from models.runtimes import PREFILL_CHUNK, Chunk
from models.runtimes.cuda_graphs import Recorder
from models.runtimes.host_copies import Inbox

_SLOT, _START, _TOKENS = range(3)  # columns of what the host sends; tokens come last


class Read(Protocol):
    """Reads whole chunks, of fixed shapes."""

    def __call__(self, slots: Tensor, tokens: Tensor, starts: Tensor, length: int) -> Tensor:
        """Slots and starts (N,), tokens (N, PREFILL_CHUNK) -> states behind the last layer (N, PREFILL_CHUNK, width).
        No chunk ends beyond `length`. Chunks of one slot are equal."""


class GraphReader:
    """Always runs `rows` chunks: fewer than those are filled up with the first one, which is written twice alike."""

    def __init__(self, read: Read, recorder: Recorder, states: Tensor, lengths: Sequence[int]) -> None:
        """`states` (rows, PREFILL_CHUNK, width) is where they are to lie; `lengths`, ascending, are what graphs are
        made for. All slots are free: recording writes into them."""
        self._read = read
        self._states = states
        self._rows = len(states)
        self._lengths = lengths
        self._given = Inbox((self._rows, _TOKENS + PREFILL_CHUNK), torch.int64, states.device)
        with torch.inference_mode():
            self._runs = {length: recorder.record(partial(self._run, length)) for length in reversed(lengths)}

    def groups(self, chunks: Sequence[Chunk]) -> list[list[Chunk]]:
        """Chunks that are read together: those that attend over the same padded length, which is each one's own."""
        by_length: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            by_length.setdefault(self._padded(chunk), []).append(chunk)
        return [
            group[begin : begin + self._rows]
            for group in by_length.values()
            for begin in range(0, len(group), self._rows)
        ]

    @torch.inference_mode()
    def read(self, group: Sequence[Chunk]) -> Tensor:
        """States (rows, PREFILL_CHUNK, width), the group's first; the next call overwrites them."""
        given = self._given.open()
        given[:] = 0
        for row in range(self._rows):
            chunk = group[row] if row < len(group) else group[0]
            given[row, _SLOT], given[row, _START] = chunk.slot, chunk.start
            given[row, _TOKENS : _TOKENS + len(chunk.tokens)] = chunk.tokens
        self._given.send()
        self._runs[self._padded(group[0])]()
        return self._states

    def _padded(self, chunk: Chunk) -> int:
        return next(length for length in self._lengths if length >= chunk.start + PREFILL_CHUNK)

    def _run(self, length: int) -> None:
        given = self._given.tensor
        self._states.copy_(self._read(given[:, _SLOT], given[:, _TOKENS:], given[:, _START], length))

"""Runs one bundle variant. Engines talk to these protocols and do not know which runtime is behind them.

A backend owns the state of its slots. Its promise is the first invariant: what it returns for a row depends on that
row's own tokens alone, bit for bit, whatever the other rows hold and however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_SLOTS = 64
MACHINE_THREADS = torch.get_num_threads()  # before any backend sets its own
PREFILL_CHUNK = 32  # prompts are cut at multiples of this position, never by what else is waiting
LENGTH_STEP = 32  # texts to classify are padded to a multiple of this, be it beyond the context
GREEDY_TEMPERATURE = 2.0**-100  # a power of two: dividing by it is exact, and all but the likeliest get a weight of 0
SMALLEST_ROWS = 4  # PyTorch's fp32 GEMMs give a row other bits with fewer rows than this
MOST_STEPS = 16  # of a writer's call; a text that ends in mid-call has been stepped in vain from there on


@dataclass(frozen=True)
class Chunk:
    """A piece of a prompt: at most PREFILL_CHUNK tokens, from a multiple of it on."""

    slot: int
    start: int
    tokens: list[int]
    scored: bool = False  # whether its logits are wanted


@dataclass(frozen=True)
class ShortLists:
    """Settings of rows (rows,), of which those with a `top_k` above 0 draw from so many tokens, or fewer."""

    top_k: NDArray[np.int64]  # 0: off; then the others are off too
    top_p: NDArray[np.float64]  # 1: off
    min_p: NDArray[np.float32]  # 0: off

    def part(self, rows: slice) -> ShortLists:
        return ShortLists(self.top_k[rows], self.top_p[rows], self.min_p[rows])


@dataclass(frozen=True)
class Steps:
    """What a writer is to draw: one row per slot, one column per step."""

    uniforms: NDArray[np.float64]  # (rows, steps) in [0, 1)
    temperatures: NDArray[np.float32]  # (rows,)
    short_lists: ShortLists | None = None  # if any row has one; for a LaunchingWriter alone

    def part(self, rows: slice) -> Steps:
        listed = self.short_lists and self.short_lists.part(rows)
        return Steps(self.uniforms[rows], self.temperatures[rows], listed)


@dataclass(frozen=True)
class Written:
    """What a writer has drawn. The memory is the backend's; the next call may overwrite it."""

    tokens: NDArray[np.int64]  # (rows, steps)
    sound: NDArray[np.bool_]  # (rows,), False where logits were not numbers
    logits: Tensor  # (rows, vocabulary), which the tokens of the only step were drawn from; none after several steps


class Writer(Protocol):
    """The part of a text backend that draws tokens itself, many steps in one call.

    It inverts the CDF of logits / temperature in index order. `GREEDY_TEMPERATURE` with uniforms of 0 gives the
    likeliest tokens. A row's tokens do not depend on how many steps a call has.
    """

    def write(self, tokens: list[int], positions: list[int], active: list[bool], steps: Steps) -> Written:
        """As many steps over the first len(tokens) slots, a row bucket, as `steps` has columns, MOST_STEPS at most.

        The first step of row i feeds tokens[i] at position positions[i] of slot i, the others feed what was drawn. The
        last token drawn is not fed. The state of inactive rows stays as it is, and their tokens mean nothing.
        """


@runtime_checkable
class LaunchingWriter(Writer, Protocol):
    """A writer of a device that works while the host does something else. It also draws from short lists."""

    @property
    def most_steps(self) -> int:
        """Of one call."""

    def launch(
        self, tokens: list[int], positions: list[int], active: list[bool], steps: Steps
    ) -> Callable[[], Written]:
        """As `write`, without waiting. What it returns waits; it is for use before the next call."""


class TextBackend(Protocol):
    """Continuous batching: slots 0 .. slots-1, of which the first `rows` are stepped together."""

    @property
    def slots(self) -> int: ...

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def writer(self) -> Writer | None:
        """None if it leaves all drawing to its caller."""

    @property
    def smallest_rows(self) -> int:
        """With fewer rows than this a row's bits would be others."""

    @property
    def threads(self) -> int:
        """CPU threads that its calls use; other numbers may give other bits."""

    def reset(self, slot: int) -> None:
        """Empty a slot for a new request."""

    def wipe(self, slot: int) -> None:
        """Empty a slot that holds numbers that are none: NaN spoils sums even where its weight is 0."""

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        """Give other slots what one slot holds. Positions before `begin` they hold already, `end` is its length: texts
        that share a beginning read it once."""

    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """Read chunks of prompts, of different slots. For a scored one the logits after each of its tokens, fp32
        (len(tokens), vocabulary)."""

    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """One step over the first len(tokens) slots, a row bucket: logits (rows, vocabulary), fp32.

        Row i feeds tokens[i] at position positions[i] of slot i. The state of inactive rows stays as it is.
        """


class ImageBackend(Protocol):
    """Dynamic batching: whole pictures in one call."""

    @property
    def latent(self) -> int: ...

    @property
    def threads(self) -> int:
        """CPU threads that its calls use; other numbers may give other bits."""

    def paint(self, latents: Tensor) -> Tensor:
        """Latents (B, latent) -> pictures fp32 (B, channels, height, width) in [-1, 1]; B is a power of two."""

    def draw(self, latents: Tensor) -> Tensor:
        """Latents (B, latent) -> their pixels uint8 (B, height, width, channels); B is a power of two."""


@runtime_checkable
class LaunchingImageBackend(ImageBackend, Protocol):
    """One on a device that works while the host does something else."""

    def launch(self, latents: Tensor) -> Callable[[], Tensor]:
        """As `draw`, without waiting. What it returns waits; it is for use before the next call."""


class ClassifyBackend(Protocol):
    """Dynamic batching: whole texts in one call."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def context_tokens(self) -> int:
        """The longest text."""

    @property
    def labels(self) -> int: ...

    @property
    def batch_tokens(self) -> int:
        """Padded tokens up to which texts are read together; a longer one is read alone."""

    @property
    def threads(self) -> int:
        """CPU threads that its calls use; other numbers may give other bits."""

    def classify(self, texts: list[list[int]]) -> Tensor:
        """Texts of one length bucket, at most `most_texts` -> logits (len(texts), labels), fp32 on the CPU."""


def length_bucket(tokens: int) -> int:
    """What a text of this length is padded to: by its own length alone, so that no longer neighbour changes it."""
    return -(-tokens // LENGTH_STEP) * LENGTH_STEP


def pad_texts(texts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Texts of one length bucket -> tokens (rows, bucket) int64 and lengths (rows,), rows being a power of two."""
    rows, width = 1 << (len(texts) - 1).bit_length(), length_bucket(len(texts[0]))
    tokens, lengths = torch.zeros(rows, width, dtype=torch.int64), torch.full((rows,), width)
    for row, text in enumerate(texts):
        tokens[row, : len(text)], lengths[row] = torch.tensor(text), len(text)
    return tokens, lengths


def most_texts(bucket: int, batch_tokens: int) -> int:
    """How many texts of this length bucket are read together at most: a power of two."""
    return 1 << (max(1, min(MOST_SLOTS, batch_tokens // bucket)).bit_length() - 1)


def row_bucket(rows: int, slots: int, smallest: int) -> int:
    """Rows that a step over the first `rows` slots runs with: a power of two from `smallest` on, or all slots."""
    return min(slots, max(smallest, 1 << (rows - 1).bit_length()))


def row_buckets(slots: int, smallest: int) -> list[int]:
    """All that `row_bucket` can give."""
    return sorted({row_bucket(rows, slots, smallest) for rows in range(1, slots + 1)})

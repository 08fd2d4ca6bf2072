"""Runs one bundle variant. Engines talk to these protocols and do not know which runtime is behind them.

A backend owns the state of its slots. Its promise is the first invariant: what it returns for a row depends on that
row's own tokens alone, bit for bit, whatever the other rows hold and however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MOST_SLOTS = 64
MACHINE_THREADS = torch.get_num_threads()  # before any backend sets its own
PREFILL_CHUNK = 32  # prompts are cut at multiples of this position, never by what else is waiting
LENGTH_STEP = 32  # texts to classify are padded to a multiple of this, be it beyond the context
SMALLEST_ROWS = 4  # PyTorch's fp32 GEMMs give a row other bits with fewer rows than this


@dataclass(frozen=True)
class Chunk:
    """A piece of a prompt: at most PREFILL_CHUNK tokens, from a multiple of it on."""

    slot: int
    start: int
    tokens: list[int]
    scored: bool = False  # whether its logits are wanted


class TextBackend(Protocol):
    """Continuous batching: slots 0 .. slots-1, of which the first `rows` are stepped together."""

    @property
    def slots(self) -> int: ...

    @property
    def vocabulary_size(self) -> int: ...

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

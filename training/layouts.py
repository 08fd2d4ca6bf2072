"""How texts become rows of equal length: one a row and padded, or one behind the other and cut into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from training.objective import IGNORED, Batch
from training.recipes import Gpt2Recipe
from training.seeds import generator_of


class Layout(Protocol):
    @property
    def batches(self) -> int: ...

    def batch(self, epoch: int | None, index: int) -> Batch:
        """Rows in the order of that epoch; None: as they lie."""


@dataclass
class _Rows:
    recipe: Gpt2Recipe
    count: int

    @property
    def batches(self) -> int:
        return -(-self.count // self.recipe.batch_rows)

    def chosen(self, epoch: int | None, index: int) -> list[int]:
        """The rows of a batch."""
        begin = index * self.recipe.batch_rows
        if epoch is None:
            return list(range(begin, min(begin + self.recipe.batch_rows, self.count)))
        order = torch.randperm(self.count, generator=generator_of(self.recipe.seed, epoch))
        chosen: list[int] = order[begin : begin + self.recipe.batch_rows].tolist()
        return chosen


@dataclass
class _Padded(_Rows):
    texts: list[list[int]]
    filler: int

    def batch(self, epoch: int | None, index: int) -> Batch:
        """As wide as the longest text of the batch: positions behind a text's end carry no loss, and under causal
        attention nothing before them sees them, so more of them would change nothing."""
        texts = [self.texts[row] for row in self.chosen(epoch, index)]
        width = max(map(len, texts))
        tokens = torch.tensor([text + [self.filler] * (width - len(text)) for text in texts])
        targets = torch.tensor([text + [IGNORED] * (width - len(text)) for text in texts])
        return Batch(tokens[:, :-1], targets[:, 1:])


@dataclass
class _Packed(_Rows):
    stream: Tensor  # (tokens,)
    block_tokens: int

    def batch(self, epoch: int | None, index: int) -> Batch:
        starts = torch.tensor(self.chosen(epoch, index)) * self.block_tokens
        blocks = self.stream[starts[:, None] + torch.arange(self.block_tokens + 1)].long()
        return Batch(blocks[:, :-1], blocks[:, 1:])


def padded(texts: Sequence[list[int]], recipe: Gpt2Recipe, filler: int) -> Layout:
    """A text a row, cut at the recipe's block. Texts of one token predict nothing and are left out."""
    rows = [text[: recipe.block_tokens] for text in texts if len(text) > 1]
    return _Padded(recipe, len(rows), rows, filler)


def packed(texts: Sequence[list[int]], recipe: Gpt2Recipe) -> Layout:
    """Texts in a mixed order, cut into blocks without padding; each block's last token is predicted and begins the
    next. What fills no block is left out, but texts that fill none are a short one."""
    order = torch.randperm(len(texts), generator=generator_of(recipe.seed)).tolist()
    stream = torch.tensor(list(chain.from_iterable(texts[place] for place in order)), dtype=torch.int32)
    targets = max(0, len(stream) - 1)
    block_tokens = max(1, min(recipe.block_tokens, targets))
    return _Packed(recipe, targets // block_tokens, stream, block_tokens)

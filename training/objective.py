"""What is learnt: a model, its batches and its loss. The loop around it is the same for all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from contracts.tokenizers import Tokenizer
from models.gpt2 import Gpt2
from models.lstm import LstmLanguageModel
from models.weights import Config
from training.recipes import TextRecipe

IGNORED = -100  # a target that carries no loss; cross_entropy's own default


class Batch(NamedTuple):
    """Tokens and what follows each of them."""

    inputs: Tensor  # (rows, time) int64
    targets: Tensor  # (rows, time) int64, IGNORED where nothing is predicted
    fresh: bool = True  # whether carried states begin at zero

    @property
    def predicted(self) -> int:
        """How many tokens carry loss."""
        return int((self.targets != IGNORED).sum())

    def part(self, rows: slice) -> Batch:
        return Batch(self.inputs[rows], self.targets[rows], self.fresh)


class Objective(Protocol):
    """Everything is a function of (seed, epoch, index), so a run that was stopped goes on as if it had not been."""

    @property
    def recipe(self) -> TextRecipe: ...

    @property
    def module(self) -> Gpt2 | LstmLanguageModel: ...

    @property
    def config(self) -> Config: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def example_prompt(self) -> str: ...

    @property
    def held_out(self) -> str:
        """Text that is not trained on, for export to judge variants by."""

    @property
    def facts(self) -> dict[str, Any]:
        """More fields of the run's description."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of an epoch, on the CPU."""

    def loss(self, model: nn.Module, batch: Batch, first_row: int) -> Tensor:
        """Summed over the predicted tokens of a part of a batch, whose rows begin at `first_row`; `model` is the module
        as the machine runs it."""

    def step_done(self) -> None:
        """The batch has been learnt; states that were carried through it are those of the next."""

    def carried(self) -> dict[str, Tensor]:
        """What is carried from batch to batch beside the weights."""

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """The opposite of `carried`."""

    def validation(self) -> Iterable[tuple[Tensor, int]]:
        """Cross-entropy in nats, summed, and the tokens that it is of, batch by batch; nothing if there is no data."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed nats of logits (rows, time, vocabulary) against targets (rows, time), in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")

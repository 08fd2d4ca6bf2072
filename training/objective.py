"""What is learnt: a model, its batches and its loss. The loop around it is the same for all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from contracts.run import RunDescription
from contracts.tokenizers import EncoderTokenizer, Tokenizer
from training.recipes import LearnerRecipe
from training.run_folder import RunFolder
from training.schedule import Schedule

IGNORED = -100  # a target that carries no loss; cross_entropy's own default


class Batch(NamedTuple):
    """Tokens and what follows each of them, or what is so of the text."""

    inputs: Tensor  # (rows, time) int64
    targets: Tensor  # (rows, time) int64, IGNORED where nothing is predicted; or (rows, labels) of 0 and 1
    fresh: bool = True  # whether carried states begin at zero
    lengths: Tensor | None = None  # (rows,) of inputs that are padded, for models that read both ways

    @property
    def predicted(self) -> int:
        """How many targets carry loss."""
        return int((self.targets != IGNORED).sum())

    def part(self, rows: slice) -> Batch:
        lengths = None if self.lengths is None else self.lengths[rows]
        return Batch(self.inputs[rows], self.targets[rows], self.fresh, lengths)

    def to(self, device: torch.device) -> Batch:
        lengths = None if self.lengths is None else self.lengths.to(device)
        return Batch(self.inputs.to(device), self.targets.to(device), self.fresh, lengths)


class Objective(Protocol):
    """Everything is a function of (seed, epoch, index), so a run that was stopped goes on as if it had not been."""

    @property
    def recipe(self) -> LearnerRecipe: ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def tokenizer(self) -> Tokenizer | EncoderTokenizer: ...

    @property
    def held_out(self) -> str:
        """Text that is not trained on, for export to judge variants by."""

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

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The weights as an optimizer takes them."""

    def schedule(self, optimizer: Optimizer, steps: int) -> Schedule:
        """How the learning rates of the groups move in so many steps."""

    def describe(self, metrics: dict[str, float]) -> RunDescription:
        """The run, as export reads it."""

    def look(self, folder: Path, epoch: int) -> str:
        """What the model can do after an epoch: files in the folder, and words for whoever watches."""

    def finish(self, folder: RunFolder) -> str:
        """What is to be done with the best weights, which are in the folder, when all is learnt; a word on it."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed nats of logits (rows, time, vocabulary) against targets (rows, time), in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def by_decay(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices, which decay, and biases and norms, which do not."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.dim() <= 1], "weight_decay": 0.0},
    ]

"""How the learning rate moves."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from training.recipes import TextRecipe

WARM_UP_SHARE = 0.1  # of one cycle


class Schedule:
    """A scheduler of PyTorch, if any: moved by steps, or by the losses of validations."""

    def __init__(self, scheduler: LRScheduler | ReduceLROnPlateau | None) -> None:
        self._scheduler = scheduler

    @classmethod
    def of_recipe(cls, optimizer: Optimizer, recipe: TextRecipe, steps: int) -> Schedule:
        match recipe.schedule:
            case "plateau":
                return cls(ReduceLROnPlateau(optimizer, factor=recipe.factor, patience=recipe.patience))
            case "one-cycle":
                return cls(OneCycleLR(optimizer, recipe.learning_rate, steps, pct_start=WARM_UP_SHARE))
            case "linear":
                return cls(LambdaLR(optimizer, lambda step: _linear(step, recipe.warmup_steps, steps)))
            case _:
                return cls(None)

    def step_done(self) -> None:
        if isinstance(self._scheduler, LRScheduler) and not isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step()

    def validated(self, loss: float) -> None:
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(loss)

    def state(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {} if self._scheduler is None else dict(self._scheduler.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state)


def _linear(step: int, warmup_steps: int, steps: int) -> float:
    """Up to 1 in the warm-up, then down to 0 at the end."""
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))

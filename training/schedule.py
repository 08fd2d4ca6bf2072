"""How the learning rate moves."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from training.recipes import TextRecipe

WARM_UP_SHARE = 0.1  # of one cycle


class Schedule:
    def __init__(self, optimizer: Optimizer, recipe: TextRecipe, steps: int) -> None:
        self._plateau: ReduceLROnPlateau | None = None
        self._by_step: LambdaLR | OneCycleLR | None = None
        if recipe.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(optimizer, factor=recipe.factor, patience=recipe.patience)
        elif recipe.schedule == "one-cycle":
            self._by_step = OneCycleLR(optimizer, recipe.learning_rate, steps, pct_start=WARM_UP_SHARE)
        elif recipe.schedule == "linear":
            self._by_step = LambdaLR(optimizer, lambda step: _linear(step, recipe.warmup_steps, steps))

    def step_done(self) -> None:
        if self._by_step is not None:
            self._by_step.step()

    def validated(self, loss: float) -> None:
        if self._plateau is not None:
            self._plateau.step(loss)

    def state(self) -> dict[str, Any]:
        """Plain numbers and words."""
        scheduler = self._by_step or self._plateau
        return {} if scheduler is None else dict(scheduler.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        if (scheduler := self._by_step or self._plateau) is not None:
            scheduler.load_state_dict(state)


def _linear(step: int, warmup_steps: int, steps: int) -> float:
    """Up to 1 in the warm-up, then down to 0 at the end."""
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))

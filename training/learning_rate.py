"""The learning-rate finder (Smith, 2017): the loss while the rate grows from tiny to absurd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from training.accelerator import make_accelerator
from training.figures import draw_learning_rates
from training.objective import Objective
from training.progress import progress_bar
from training.seeds import seed_of
from training.stepper import Stepper

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 120
_MOMENTUM = 0.9  # of the smoothed loss
_HOPELESS = 2.0  # a loss so many times the best one ends the search
_SKIPPED = 10  # first steps, in which the smoothed loss means little


class Found(NamedTuple):
    rates: list[float]
    losses: list[float]  # smoothed
    proposed: float


def find_learning_rate(
    objective: Objective, figure: Path | None = None, *, device: str = "auto", show_progress: bool = True
) -> Found:
    """The rate at which the loss falls fastest per decade. The objective's model is spoilt by this; make another.

    Raises StoreError.
    """
    stepper = Stepper(objective, make_accelerator(objective.recipe.precision, device))
    rates: list[float] = []
    losses: list[float] = []
    smoothed = 0.0
    objective.module.train()
    bar = progress_bar(STEPS, "learning rate", show=show_progress)
    for step in range(STEPS):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group in stepper.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(seed_of(objective.recipe.seed, step))
        epoch, index = divmod(step, objective.steps_per_epoch)
        loss = float(stepper.step(objective.batch(epoch, index)))
        smoothed = _MOMENTUM * smoothed + (1 - _MOMENTUM) * loss
        corrected = smoothed / (1 - _MOMENTUM ** (step + 1))
        if not math.isfinite(loss) or (len(losses) > _SKIPPED and corrected > _HOPELESS * min(losses)):
            break
        rates.append(rate)
        losses.append(corrected)
        bar.update()
    bar.close()
    found = Found(rates, losses, _steepest(rates, losses))
    if figure is not None:
        draw_learning_rates(found.rates, found.losses, found.proposed, figure)
    return found


def _steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Of the rates before the lowest loss; the lowest rate where the loss only rises."""
    lowest = min(range(len(losses)), key=losses.__getitem__, default=0)
    falls = {place: losses[place + 1] - losses[place] for place in range(_SKIPPED, lowest)}
    return rates[min(falls, key=falls.__getitem__)] if falls else LOWEST

"""DCGAN (Radford, Metz and Chintala, 2015): generator and discriminator in turns."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from contracts.errors import StoreError
from contracts.run import RunDescription
from models.dcgan import DcganConfig, discriminator, generator
from training.progress import Progress
from training.run_folder import RunFolder
from training.seeds import seeded


@dataclass(frozen=True)
class DcganRecipe:
    """The paper's settings, but for the pictures' size, which is the data's."""

    latent: int = 128
    width: int = 64
    batch: int = 128
    steps: int = 12_000
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    real_target: float = 1.0  # below 1: one-sided label smoothing
    ema_decay: float = 0.0  # the generator that is kept is an exponential moving average; 0 keeps the last one
    seed: int = 0


def train_dcgan(
    pictures: NDArray[np.uint8],
    folder: Path,
    recipe: DcganRecipe | None = None,
    *,
    show_progress: bool = True,
) -> Path:
    """Train on pictures (count, size, size, channels) and write the run folder, which holds the generator.

    Raises StoreError for a folder that exists already, for pictures of a size that cannot be drawn and for fewer than
    one batch of them.
    """
    run, recipe = RunFolder(folder), recipe or DcganRecipe()
    count, height, width, channels = pictures.shape
    if height != width or count < recipe.batch:
        raise StoreError(f"there are {count} pictures of {width}x{height}; give {recipe.batch} or more square ones")
    try:
        config = DcganConfig(height, recipe.latent, recipe.width, channels)
    except ValueError as error:
        raise StoreError(f"pictures of {width}x{height} cannot be learnt: {error}") from None
    real = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1  # (count, channels, H, W)
    progress = Progress(folder.name, recipe.steps, show_progress)
    with seeded(recipe.seed):
        drawing, judging = generator(config), discriminator(config)
        kept = _fit(drawing, judging, real, recipe, progress)
    description = RunDescription(
        family="dcgan",
        task="image",
        config=asdict(config),
        hyperparameters=asdict(recipe),
        metrics=progress.metrics(),
    )
    return run.keep(description, kept.state_dict())


def _fit(
    drawing: nn.Module, judging: nn.Module, pictures: Tensor, recipe: DcganRecipe, progress: Progress
) -> nn.Module:
    """Train both on pictures (count, channels, size, size); the generator that is to be kept."""
    drawing.apply(_initialise)
    judging.apply(_initialise)
    kept = deepcopy(drawing)
    draw_step = torch.optim.Adam(drawing.parameters(), recipe.learning_rate, recipe.betas)
    judge_step = torch.optim.Adam(judging.parameters(), recipe.learning_rate, recipe.betas)
    for _ in progress:
        real = pictures[torch.randint(len(pictures), (recipe.batch,))]
        drawn = drawing(torch.randn(recipe.batch, recipe.latent, 1, 1))
        # 1. The discriminator learns to tell them apart.
        judge_loss = _loss(judging(real), recipe.real_target) + _loss(judging(drawn.detach()), 0.0)
        judge_step.zero_grad()
        torch.autograd.backward(judge_loss)
        judge_step.step()
        # 2. The generator learns to be taken for real.
        draw_loss = _loss(judging(drawn), 1.0)
        draw_step.zero_grad()
        torch.autograd.backward(draw_loss)
        draw_step.step()
        _average(kept, drawing, recipe.ema_decay)
        progress.record(generator_loss=draw_loss.item(), discriminator_loss=judge_loss.item())
    return kept


@torch.no_grad()
def _average(kept: nn.Module, current: nn.Module, decay: float) -> None:
    """Move weights and batch statistics of `kept` towards those of `current`."""
    for old, new in zip(kept.state_dict().values(), current.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:  # a count
            old.copy_(new)


def _loss(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _initialise(module: nn.Module) -> None:
    """The paper's: weights from N(0, 0.02), gains of batch norm from N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)

"""DCGAN (Radford, Metz and Chintala, 2015): generator and discriminator, and what each learns in a step."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from contracts.errors import StoreError
from models.dcgan import DcganConfig, discriminator, generator, to_pixels
from training.recipes import DcganRecipe

# What a step measures. Scores are the discriminator's mean probabilities of being real, before it learns the batch.
MEASUREMENTS = ("generator_loss", "discriminator_loss", "real_score", "fake_score")
PICTURES_AT_ONCE = 64  # that are drawn to be looked at


class Adversaries:
    """Both networks, their optimizers and, if there is one, the average of the generator."""

    def __init__(self, recipe: DcganRecipe, accelerator: Accelerator) -> None:
        """Drawn from torch's generator. Raises StoreError."""
        if accelerator.num_processes > 1:
            raise StoreError("a DCGAN is trained by one process; start it without accelerate's launcher")
        self.config = config_of(recipe)
        self._recipe, self._accelerator = recipe, accelerator
        self.generator, self.discriminator = generator(self.config), _discriminator(self.config, recipe)
        self.generator.apply(_initialise)
        self.average = deepcopy(self.generator).requires_grad_(False) if recipe.ema_decay else None
        for network in self._networks().values():
            network.to(accelerator.device)  # before the optimizers, whose states lie where the weights lie
        betas = (recipe.beta1, recipe.beta2)
        self._draw, self._judge, self._draw_optimizer, self._judge_optimizer = accelerator.prepare(
            self.generator,
            self.discriminator,
            torch.optim.Adam(self.generator.parameters(), recipe.learning_rate, betas),
            torch.optim.Adam(self.discriminator.parameters(), recipe.learning_rate, betas),
        )

    @property
    def drawing(self) -> nn.Module:
        """The generator that pictures are drawn with, and that is kept."""
        return self.generator if self.average is None else self.average

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": self._draw_optimizer, "discriminator": self._judge_optimizer}

    def step(self, pictures: Tensor, latents: Tensor, step: int) -> Tensor:
        """Learn from pictures uint8 (B, 3, size, size) and latents (B, latent); MEASUREMENTS as (4,) on the device.

        Raises StoreError where memory does not suffice.
        """
        try:
            measured = self._step(pictures, latents)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            raise StoreError(
                f"there is not enough memory for {len(pictures)} pictures at once; give a smaller --batch-pictures,"
                " --width or --size (a batch cannot be computed in parts, since batch norm looks at it as a whole)"
            ) from error
        self._follow(step)
        return measured

    def weights(self) -> dict[str, Tensor]:
        """Of all networks."""
        return {
            f"{name}.{key}": weight
            for name, network in self._networks().items()
            for key, weight in network.state_dict().items()
        }

    def load(self, weights: dict[str, Tensor]) -> None:
        """The opposite of `weights`. Raises RuntimeError for what does not fit."""
        for name, network in self._networks().items():
            own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
            network.load_state_dict(own)

    def _networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        return networks if self.average is None else networks | {"average": self.average}

    def _step(self, pictures: Tensor, latents: Tensor) -> Tensor:
        device, backward = self._accelerator.device, self._accelerator.backward
        real = pictures.to(device, non_blocking=True).float() / 127.5 - 1
        fake = self._draw(latents.to(device)[:, :, None, None])

        # 1. The discriminator learns to tell them apart.
        self.discriminator.requires_grad_(True)
        self._judge_optimizer.zero_grad()
        real_logits, fake_logits = self._judge(real), self._judge(fake.detach())
        judge_loss = _loss(real_logits, self._recipe.real_target) + _loss(fake_logits, 0.0)
        backward(judge_loss)
        self._judge_optimizer.step()

        # 2. The generator learns to be taken for real; gradients of the discriminator's weights are not needed.
        self.discriminator.requires_grad_(False)
        self._draw_optimizer.zero_grad()
        draw_loss = _loss(self._judge(fake), 1.0)
        backward(draw_loss)
        self._draw_optimizer.step()

        scores = [logits.detach().float().sigmoid().mean() for logits in (real_logits, fake_logits)]
        return torch.stack([draw_loss.detach(), judge_loss.detach(), *scores])

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Move weights and batch statistics of the average towards the generator's."""
        if self.average is None:
            return
        decay = min(self._recipe.ema_decay, (1 + step) / (10 + step))  # what was drawn at the start is soon forgotten
        for old, new in zip(self.average.state_dict().values(), self.generator.state_dict().values(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - decay)
            else:  # a count
                old.copy_(new)


def config_of(recipe: DcganRecipe) -> DcganConfig:
    return DcganConfig(recipe.size, recipe.latent, recipe.width)


@torch.no_grad()
def draw_pixels(drawing: nn.Module, latents: Tensor) -> NDArray[np.uint8]:
    """Pictures (B, size, size, 3) of latents (B, latent), with the batch statistics that a served model has."""
    device = next(drawing.parameters()).device
    training = drawing.training
    drawing.eval()
    parts = [
        to_pixels(drawing(part.to(device)[:, :, None, None]).float()) for part in torch.split(latents, PICTURES_AT_ONCE)
    ]
    drawing.train(training)
    pixels: NDArray[np.uint8] = torch.cat(parts).cpu().numpy()
    return pixels


def _discriminator(config: DcganConfig, recipe: DcganRecipe) -> nn.Sequential:
    made = discriminator(config, batch_norm=not recipe.spectral_norm)
    made.apply(_initialise)
    if recipe.spectral_norm:
        for layer in made:
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)
    return made


def _loss(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, target, dtype=torch.float32))


def _initialise(module: nn.Module) -> None:
    """The paper's: weights from N(0, 0.02), gains of batch norm from N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)

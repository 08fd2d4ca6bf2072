"""The training loop of a DCGAN. It stops and goes on as that of texts does: order, flips and latents are functions of
the recipe's seed and the step, and everything else is in the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from contracts.errors import StoreError
from contracts.run import RunDescription
from models.noise import latents as latents_of
from training.accelerator import make_accelerator
from training.checkpoint import Checkpoint, load_optimizer, read_checkpoint, write_checkpoint
from training.dcgan import MEASUREMENTS, Adversaries, draw_pixels
from training.evaluation.pictures_distance import kernel_distance
from training.evaluation.pictures_features import Features, Scale, features_of
from training.figures import draw_distances, draw_gan_losses, draw_scores
from training.grids import grid, write_animations, write_png
from training.journal import Journal
from training.pictures import Pictures
from training.recipes import DcganRecipe
from training.run_folder import RunFolder
from training.samples import SAMPLES
from training.seeds import generator_of, seed_of, seeded
from training.stopping import SECONDS_BETWEEN_CHECKPOINTS, Stopped, stop_asked

LINE_STEPS = 10  # whose mean is a line of the journal
GRID_PICTURES = 64
MEASURED_PICTURES = 1000  # real and generated ones whose distance chooses the best weights
_ORDER, _FLIPS, _LATENTS, _GRID, _MEASURED = range(5)  # what is drawn from the recipe's seed


@dataclass
class Position:
    """Where a run is. All of it is in the checkpoint."""

    epoch: int = 0
    index: int = 0  # of the next batch in the epoch
    step: int = 0  # that are done
    best_distance: float | None = None
    sums: list[float] = field(default_factory=lambda: [0.0] * len(MEASUREMENTS))  # over the epoch's steps with a line
    counted: int = 0  # steps that `sums` is of
    recent: list[list[float]] = field(default_factory=list)  # measurements of steps without a line
    seconds: float = 0.0


class DcganTrainer:
    def __init__(
        self,
        pictures: Pictures,
        recipe: DcganRecipe,
        folder: RunFolder,
        *,
        device: str = "auto",
        show_progress: bool = True,
        logs: bool = True,
    ) -> None:
        """Goes on from the folder's checkpoint, if it has one. Raises StoreError."""
        if len(pictures) < recipe.batch_pictures:
            raise StoreError(
                f"{len(pictures)} pictures are no batch of {recipe.batch_pictures}; give more of them, or"
                f" --batch-pictures {len(pictures)} or less"
            )
        self._pictures, self._recipe, self._folder, self._logs = pictures, recipe, folder, logs
        self._steps_per_epoch = len(pictures) // recipe.batch_pictures
        self._steps = recipe.epochs * self._steps_per_epoch
        self._accelerator = make_accelerator(recipe.precision, device)
        with seeded(recipe.seed):
            self._adversaries = Adversaries(recipe, self._accelerator)
        self._position = Position()
        self._recent: list[Tensor] = []
        self._restore()
        self._real = self._real_features() if recipe.measure_epochs else None
        step = self._position.step
        self._journal = Journal(folder.path, steps=self._steps, step=step, show_progress=show_progress, logs=logs)
        self._begun = time.perf_counter() - self._position.seconds
        self._saved = time.monotonic()

    def run(self) -> Path:
        """The run's folder, trained to its end. Raises Stopped, StoreError."""
        at = self._position
        with stop_asked() as asked:
            try:
                while at.epoch < self._recipe.epochs:
                    for pictures in self._pictures.batches(self._order()):
                        self._step(pictures)
                        self._save_if_due()
                        if asked.is_set() and at.step < self._steps:
                            self._save()
                            raise Stopped(self._folder.path, at.step, self._steps)
                    self._end_epoch()
                if self._logs:
                    write_animations(sorted((self._folder.path / SAMPLES).glob("epoch-*.png")), self._folder.path)
            finally:
                self._journal.close()
        return self._folder.path

    @property
    def is_main_process(self) -> bool:
        """There is no other one."""
        return True

    def summary(self) -> str:
        at = self._position
        minutes = (time.perf_counter() - self._begun) / 60
        best = "" if at.best_distance is None else f", smallest distance {at.best_distance:.4f}"
        return f"{at.step:,} steps in {minutes:,.1f} minutes{best}"

    def _order(self) -> Iterator[Sequence[int]]:
        """The batches of this epoch that have not been learnt; what fills no batch has its turn in another epoch."""
        at = self._position
        mixed = torch.randperm(len(self._pictures), generator=generator_of(self._recipe.seed, _ORDER, at.epoch))
        for batch in torch.split(mixed, self._recipe.batch_pictures)[at.index : self._steps_per_epoch]:
            yield batch.tolist()

    def _step(self, pictures: Tensor) -> None:
        at, seed = self._position, self._recipe.seed
        if self._recipe.flips:
            mirrored = torch.rand(len(pictures), generator=generator_of(seed, _FLIPS, at.step)) < 0.5
            pictures = torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
        shape = (len(pictures), self._recipe.latent)
        latents = torch.randn(shape, generator=generator_of(seed, _LATENTS, at.step))
        self._recent.append(self._adversaries.step(pictures, latents, at.step))
        at.index += 1
        at.step += 1
        if at.step % LINE_STEPS == 0:
            self._write_line()
        self._journal.advance()

    def _write_line(self) -> None:
        """The means of the recent steps: the device is asked for them here, not at every step. Raises StoreError."""
        at = self._position
        recent = [measured.tolist() for measured in self._recent]
        self._recent.clear()
        if not recent:
            return
        sums = [math.fsum(values) for values in zip(*recent, strict=True)]
        if not all(map(math.isfinite, sums)):
            rate = self._recipe.learning_rate
            raise StoreError(f"a loss is no number at step {at.step:,}; try a lower --learning-rate than {rate:.1e}")
        at.sums = [before + value for before, value in zip(at.sums, sums, strict=True)]
        at.counted += len(recent)
        means = {name: value / len(recent) for name, value in zip(MEASUREMENTS, sums, strict=True)}
        self._journal.write(at.step, epoch=at.epoch + 1, **means)
        self._journal.show(
            epoch=f"{at.epoch + 1}/{self._recipe.epochs}",
            losses=f"{means['generator_loss']:.2f}/{means['discriminator_loss']:.2f}",
            scores=f"{means['real_score']:.2f}/{means['fake_score']:.2f}",
        )

    def _end_epoch(self) -> None:
        self._write_line()
        at = self._position
        means = {name: value / max(at.counted, 1) for name, value in zip(MEASUREMENTS, at.sums, strict=True)}
        at.sums, at.counted = [0.0] * len(MEASUREMENTS), 0
        at.epoch, at.index = at.epoch + 1, 0
        distance = self._distance()
        if distance is not None:
            means["distance"] = distance
        self._journal.write(at.step, epoch=at.epoch, **{f"epoch_{name}": value for name, value in means.items()})
        if distance is None:
            best = not self._recipe.measure_epochs
        else:
            best = at.best_distance is None or distance < at.best_distance
            at.best_distance = distance if best else at.best_distance
        if best:
            self._keep(means)
        if self._logs:
            self._show(means)
        self._save()

    def _distance(self) -> float | None:
        """Of generated pictures to real ones; None after epochs that are not measured."""
        every, at = self._recipe.measure_epochs, self._position
        if self._real is None or (at.epoch % every and at.epoch < self._recipe.epochs):
            return None
        scale, real = self._real
        drawn = draw_pixels(self._adversaries.drawing, self._fixed_latents(_MEASURED, len(real)))
        return kernel_distance(scale(features_of(drawn)), real)

    def _real_features(self) -> tuple[Scale, Features]:
        """Of a sample that stays the same for the whole run."""
        count = min(MEASURED_PICTURES, len(self._pictures))
        chosen = torch.randperm(len(self._pictures), generator=generator_of(self._recipe.seed, _MEASURED))[:count]
        parts = [part.permute(0, 2, 3, 1).numpy() for part in self._pictures.batches([chosen.tolist()])]
        features = features_of(parts[0])
        scale = Scale(features)
        return scale, scale(features)

    def _fixed_latents(self, use: int, count: int) -> Tensor:
        return latents_of(seed_of(self._recipe.seed, use), list(range(count)), self._recipe.latent)

    def _keep(self, means: dict[str, float]) -> None:
        at = self._position
        description = RunDescription(
            family="dcgan",
            task="image",
            config=asdict(self._adversaries.config),
            hyperparameters=self._recipe.model_dump(),
            metrics={
                **means,
                "epoch": at.epoch,
                "steps": at.step,
                "pictures": len(self._pictures),
                "seconds": round(time.perf_counter() - self._begun, 3),
            },
        )
        self._folder.keep(description, self._adversaries.drawing.state_dict())

    def _show(self, means: dict[str, float]) -> None:
        """Curves, the grid and a line of words."""
        at, folder = self._position, self._folder.path
        self._journal.draw(draw_gan_losses, "losses.png")
        self._journal.draw(draw_scores, "scores.png")
        if self._recipe.measure_epochs:
            self._journal.draw(draw_distances, "distance.png")
        drawn = draw_pixels(self._adversaries.drawing, self._fixed_latents(_GRID, GRID_PICTURES))
        (folder / SAMPLES).mkdir(exist_ok=True)
        write_png(grid(drawn, columns=8), folder / SAMPLES / f"epoch-{at.epoch:03}.png")
        told = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in means.items())
        self._journal.say(f"epoch {at.epoch}/{self._recipe.epochs}: {told}")

    def _save_if_due(self) -> None:
        if time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS:
            self._save()

    def _save(self) -> None:
        at = self._position
        at.seconds = time.perf_counter() - self._begun
        at.recent = [measured.tolist() for measured in self._recent]
        scaler = self._accelerator.scaler
        state = {"position": asdict(at), "scaler": {} if scaler is None else scaler.state_dict()}
        optimizers = {name: optimizer.state_dict() for name, optimizer in self._adversaries.optimizers.items()}
        checkpoint = Checkpoint(self._adversaries.weights(), optimizers, {}, state)
        write_checkpoint(self._folder.path, at.step, checkpoint)
        self._saved = time.monotonic()

    def _restore(self) -> None:
        """Raises StoreError for a checkpoint of something else."""
        if (found := read_checkpoint(self._folder.path)) is None:
            return
        try:
            self._adversaries.load(found.weights)
            self._position = Position(**found.state["position"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise StoreError(f"{self._folder.path} has a checkpoint that does not fit: {error}") from None
        for name, optimizer in self._adversaries.optimizers.items():
            load_optimizer(optimizer, found.optimizers.get(name))
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(found.state["scaler"])
        self._recent = [torch.tensor(measured) for measured in self._position.recent]

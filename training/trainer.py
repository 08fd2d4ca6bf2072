"""The training loop, the same for every text model.

A run is a sequence of steps. Batches, dropout and learning rates are functions of the recipe's seed and the step, and
everything else is in the checkpoint, so on a CPU a run that was stopped ends with the very weights of one that was not.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from contracts.errors import StoreError
from training.accelerator import make_accelerator
from training.checkpoint import Checkpoint, load_optimizer, read_checkpoint, write_checkpoint
from training.figures import LOSSES, draw_losses
from training.journal import Journal, SilentJournal
from training.objective import Objective
from training.run_folder import RunFolder
from training.seeds import seed_of, seeded
from training.stepper import Stepper
from training.stopping import SECONDS_BETWEEN_CHECKPOINTS, Stopped, stop_asked

LINE_STEPS = 10  # whose mean loss is a line of the journal


@dataclass
class Position:
    """Where a run is. All of it is in the checkpoint."""

    epoch: int = 0
    index: int = 0  # of the next batch in the epoch
    step: int = 0  # that are done
    best_loss: float | None = None
    worse: int = 0  # validations since then
    nats: float = 0.0  # since the last validation, of tokens that the journal knows
    tokens: int = 0
    recent: list[tuple[float, int]] = field(default_factory=list)  # loss and tokens of steps without a line
    seconds: float = 0.0


class Trainer:
    def __init__(
        self,
        objective: Objective,
        folder: RunFolder,
        *,
        device: str = "auto",
        show_progress: bool = True,
        logs: bool = True,
    ) -> None:
        """Goes on from the folder's checkpoint, if it has one. Raises StoreError."""
        self._objective, self._folder = objective, folder
        self._recipe = objective.recipe
        self._accelerator = make_accelerator(self._recipe.precision, device)
        self._main = self._accelerator.is_main_process
        self._stepper = Stepper(objective, self._accelerator)
        self._steps = self._recipe.epochs * objective.steps_per_epoch
        self._schedule = objective.schedule(self._stepper.optimizer, self._steps)
        self._position = Position()
        self._recent: list[tuple[Tensor, int]] = []
        self._restore()
        self._logs = logs and self._main
        self._journal = (
            Journal(
                folder.path, steps=self._steps, step=self._position.step, show_progress=show_progress, logs=self._logs
            )
            if self._main
            else SilentJournal()
        )
        self._begun = time.perf_counter() - self._position.seconds
        self._saved = time.monotonic()

    def run(self) -> Path:
        """The run's folder, trained to its end. Raises Stopped, StoreError."""
        at, objective = self._position, self._objective
        due = self._validation_indices()
        with seeded(self._recipe.seed), stop_asked() as asked:
            try:
                while at.epoch < self._recipe.epochs and not self._hopeless():
                    while at.index < objective.steps_per_epoch and not self._hopeless():
                        self._step()
                        if at.index in due:
                            self._validate()
                        self._save_if_due()
                        if self._agreed(asked.is_set()) and at.step < self._steps:
                            self._save()
                            raise Stopped(self._folder.path, at.step, self._steps)
                    self._end_epoch()
                if self._main and (said := objective.finish(self._folder)):
                    self._journal.say(said)
            finally:
                self._journal.close()
        return self._folder.path

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return bool(self._main)

    def summary(self) -> str:
        at = self._position
        minutes = (time.perf_counter() - self._begun) / 60
        return f"{at.step:,} steps in {minutes:,.1f} minutes, best loss {at.best_loss or math.nan:.4f} nats"

    def _step(self) -> None:
        at = self._position
        # Dropout's draws are a function of the step: nothing about them has to be remembered.
        torch.manual_seed(seed_of(self._recipe.seed, at.step, self._accelerator.process_index))
        self._objective.module.train()
        batch = self._objective.batch(at.epoch, at.index)
        loss = self._stepper.step(batch)
        self._schedule.step_done()
        self._recent.append((loss, batch.predicted))
        at.index += 1
        at.step += 1
        if at.step % LINE_STEPS == 0:
            self._write_line()
        self._journal.advance()

    def _write_line(self) -> None:
        """The mean of the recent steps: the device is asked for losses here, not at every step. Raises StoreError."""
        at = self._position
        rate = self._stepper.optimizer.param_groups[0]["lr"]
        recent = [(float(loss), tokens) for loss, tokens in self._recent]
        self._recent.clear()
        if not recent:
            return
        nats, tokens = sum(loss * count for loss, count in recent), sum(count for _, count in recent)
        loss = nats / tokens
        if not math.isfinite(loss):
            raise StoreError(f"the loss is {loss} at step {at.step:,}; try a lower --learning-rate than {rate:.1e}")
        at.nats, at.tokens = at.nats + nats, at.tokens + tokens
        self._journal.write(at.step, epoch=at.epoch + 1, loss=loss, learning_rate=rate)
        self._journal.show(epoch=f"{at.epoch + 1}/{self._recipe.epochs}", loss=f"{loss:.3f}")

    def _validate(self) -> None:
        """Keeps the weights if they are the best so far; the training loss stands in where nothing is held out."""
        self._write_line()
        at = self._position
        trained = at.nats / max(at.tokens, 1)
        at.nats, at.tokens = 0.0, 0
        validation = self._validation_loss()
        loss = trained if validation is None else validation
        if validation is not None:
            self._journal.write(at.step, epoch=at.epoch + 1, validation_loss=validation)
            self._journal.show(validation=f"{validation:.3f}")
        self._schedule.validated(loss)
        if at.best_loss is None or loss < at.best_loss:
            at.best_loss, at.worse = loss, 0
            self._keep(trained, validation)
        else:
            at.worse += 1
        if at.index < self._objective.steps_per_epoch:  # else the epoch's end saves at once
            self._save()

    @torch.no_grad()
    def _validation_loss(self) -> float | None:
        """Nats per token of the text that is held out; None if there is none."""
        self._objective.module.eval()
        sums = [(float(nats), tokens) for nats, tokens in self._objective.validation()]
        tokens = sum(count for _, count in sums)
        return sum(nats for nats, _ in sums) / tokens if tokens else None

    def _keep(self, trained: float, validation: float | None) -> None:
        if not self._main:
            return
        objective, at = self._objective, self._position
        metrics = {"loss": trained, "steps": at.step, "seconds": round(time.perf_counter() - self._begun, 3)}
        if validation is not None:
            metrics["validation_loss"] = validation
        description = objective.describe(metrics)
        self._folder.keep(description, objective.module.state_dict(), objective.tokenizer, objective.held_out)

    def _end_epoch(self) -> None:
        at = self._position
        at.epoch, at.index = at.epoch + 1, 0
        if self._logs:
            self._journal.draw(draw_losses, LOSSES)
            best = f"best loss so far {at.best_loss:.4f}" if at.best_loss is not None else ""
            text = self._objective.look(self._folder.path, at.epoch)
            self._journal.say(f"epoch {at.epoch}/{self._recipe.epochs}, {best}\n{text}")
        self._save()

    def _hopeless(self) -> bool:
        return self._recipe.stop_after is not None and self._position.worse >= self._recipe.stop_after

    def _validation_indices(self) -> set[int]:
        """After which batches of an epoch: evenly apart, the last one among them."""
        steps = self._objective.steps_per_epoch
        count = min(self._recipe.validations_per_epoch, steps)
        return {steps * (place + 1) // count for place in range(count)}

    def _agreed(self, stop: bool) -> bool:
        """Whether any process was asked: all of them stop after the same step."""
        if self._accelerator.num_processes == 1:
            return stop
        asked = torch.tensor(float(stop), device=self._accelerator.device)
        return bool(self._accelerator.reduce(asked, "sum") > 0)

    def _save_if_due(self) -> None:
        if self._accelerator.num_processes == 1 and time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS:
            self._save()

    def _save(self) -> None:
        at = self._position
        carried = {name: self._accelerator.gather(tensor) for name, tensor in self._objective.carried().items()}
        if self._main:
            at.seconds = time.perf_counter() - self._begun
            at.recent = [(float(loss), tokens) for loss, tokens in self._recent]
            scaler = self._accelerator.scaler
            state = {
                "position": asdict(at),
                "schedule": self._schedule.state(),
                "scaler": {} if scaler is None else scaler.state_dict(),
                "micro_batch_rows": self._stepper.micro_batch_rows,
            }
            optimizers = {"model": self._stepper.optimizer.state_dict()}
            weights = self._objective.module.state_dict()
            write_checkpoint(self._folder.path, at.step, Checkpoint(weights, optimizers, carried, state))
        self._saved = time.monotonic()

    def _restore(self) -> None:
        """Raises StoreError for a checkpoint of something else."""
        if (found := read_checkpoint(self._folder.path)) is None:
            return
        try:
            self._objective.module.load_state_dict(found.weights)
            self._position = Position(**found.state["position"])
            self._schedule.restore(found.state["schedule"])
            self._stepper.micro_batch_rows = found.state["micro_batch_rows"]
        except (RuntimeError, KeyError, TypeError) as error:
            raise StoreError(f"{self._folder.path} has a checkpoint that does not fit: {error}") from None
        load_optimizer(self._stepper.optimizer, found.optimizers.get("model"))
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(found.state["scaler"])
        self._recent = [(torch.tensor(loss), tokens) for loss, tokens in self._position.recent]
        process, processes = self._accelerator.process_index, self._accelerator.num_processes
        device = self._accelerator.device
        self._objective.carry({name: rows.chunk(processes)[process].to(device) for name, rows in found.carried.items()})

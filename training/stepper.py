"""One step of an optimizer, on any device and over any number of processes, in as many parts as memory asks for."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from contracts.errors import StoreError
from training.objective import Batch, Objective
from training.recipes import LearnerRecipe


class Stepper:
    """Owns the optimizer. Gradients are those of the whole batch, in however many parts it is computed."""

    def __init__(self, objective: Objective, accelerator: Accelerator) -> None:
        recipe = objective.recipe
        if recipe.batch_rows % accelerator.num_processes:
            raise StoreError(f"{recipe.batch_rows} rows cannot be shared by {accelerator.num_processes} processes")
        self._objective = objective
        self._accelerator = accelerator
        self._recipe = recipe
        self.micro_batch_rows = recipe.micro_batch_rows or recipe.batch_rows
        objective.module.to(accelerator.device)  # before the optimizer, whose state lies where the weights lie
        optimizer = _optimizer(objective.parameter_groups(), recipe)
        self._model, self.optimizer = accelerator.prepare(objective.module, optimizer)

    def step(self, batch: Batch) -> Tensor:
        """Learn a batch; its mean loss in nats, a scalar on the device."""
        predicted = batch.predicted
        mine = self._share(batch)
        while True:
            try:
                nats = self._gradients(mine, predicted)
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                self._halve(len(mine.inputs), error)
        if self._recipe.gradient_norm is not None:
            self._accelerator.clip_grad_norm_(self._model.parameters(), self._recipe.gradient_norm)
        self.optimizer.step()
        self._objective.step_done()
        total: Tensor = self._accelerator.reduce(nats, "sum")
        return total / predicted

    def _share(self, batch: Batch) -> Batch:
        process, processes = self._accelerator.process_index, self._accelerator.num_processes
        rows = -(-len(batch.inputs) // processes)
        return batch.part(slice(process * rows, (process + 1) * rows))

    def _gradients(self, batch: Batch, predicted: int) -> Tensor:
        """Summed nats of this process' rows; gradients are of the mean over the tokens of all processes."""
        self.optimizer.zero_grad()
        nats = torch.zeros((), device=self._accelerator.device)
        device, rows = self._accelerator.device, len(batch.inputs)
        for begin in range(0, max(rows, 1), self.micro_batch_rows):
            end = begin + self.micro_batch_rows
            part = batch.part(slice(begin, end)).to(device)
            # The last part sends the gradients to the other processes, where there are any.
            with nullcontext() if end >= rows else self._accelerator.no_sync(self._model):
                loss = self._objective.loss(self._model, part, begin)
                # Gradients of processes are averaged, losses here are shares of one sum.
                self._accelerator.backward(loss * (self._accelerator.num_processes / max(predicted, 1)))
            nats += loss.detach()
        return nats

    def _halve(self, rows: int, error: RuntimeError) -> None:
        """Raises StoreError where there is nothing to halve, or other processes wait for this one's gradients."""
        used = min(self.micro_batch_rows, rows)
        if used == 1 or self._accelerator.num_processes > 1:
            raise StoreError(
                f"there is not enough memory for {used} rows at once; give a smaller --micro-batch-rows,"
                " --block-tokens, --chunk-tokens or model"
            ) from error
        self.micro_batch_rows = -(-used // 2)
        self.optimizer.zero_grad()
        clear_device_cache(garbage_collection=True)
        tqdm.write(f"not enough memory for {used} rows at once; going on with {self.micro_batch_rows}")


def _optimizer(groups: list[dict[str, Any]], recipe: LearnerRecipe) -> Optimizer:
    if recipe.optimizer == "rmsprop":  # Keras' numbers, which the recipe's learning rate was found with
        return torch.optim.RMSprop(groups, recipe.learning_rate, alpha=0.9, eps=1e-7)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, recipe.learning_rate)

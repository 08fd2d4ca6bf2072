"""What objectives of models that write text have in common."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from contracts.run import RunDescription
from contracts.tokenizers import Tokenizer
from models.gpt2 import Gpt2
from models.lstm import LstmLanguageModel
from models.weights import family_of
from training.objective import by_decay
from training.recipes import TextRecipe
from training.run_folder import RunFolder
from training.samples import write_samples
from training.schedule import Schedule


class TextObjective:
    recipe: TextRecipe
    module: Gpt2 | LstmLanguageModel
    tokenizer: Tokenizer
    example_prompt: str
    facts: dict[str, Any]  # more fields of the run's description

    def parameter_groups(self) -> list[dict[str, Any]]:
        return by_decay(self.module, self.recipe.weight_decay)

    def schedule(self, optimizer: Optimizer, steps: int) -> Schedule:
        return Schedule.of_recipe(optimizer, self.recipe, steps)

    def describe(self, metrics: dict[str, float]) -> RunDescription:
        config = self.module.config
        return RunDescription(
            family=family_of(config),
            task="text",
            config=asdict(config),
            tokenizer=self.tokenizer.kind,
            hyperparameters=self.recipe.model_dump(),
            metrics=metrics,
            example_prompt=self.example_prompt,
            **self.facts,
        )

    def look(self, folder: Path, epoch: int) -> str:
        return write_samples(self.module, self.tokenizer, self.example_prompt, folder, epoch, self.recipe.seed)

    def finish(self, folder: RunFolder) -> str:
        return ""

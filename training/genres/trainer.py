"""A run of two: the language of the plots, in a folder of its own within the run's, then their genres."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState

from contracts.bundle import WEIGHTS
from models.weights import Weights, read_safetensors
from training.objective import Objective
from training.run_folder import RunFolder
from training.trainer import Trainer

LANGUAGE = "language"  # its folder


class LanguageFirst:
    """Stops and goes on in either part as any run does: a part that is done is not done again."""

    def __init__(
        self, language: Objective, genres: Callable[[Weights], Objective], folder: RunFolder, **options: Any
    ) -> None:
        """`genres` makes of the best weights of the language what is learnt next; `options` are the Trainer's."""
        self._genres, self._folder, self._options = genres, folder, options
        self._trainer = Trainer(language, RunFolder.of_existing(folder.path / LANGUAGE), **options)

    def run(self) -> Path:
        """The run's folder, trained to its end. Raises Stopped, StoreError."""
        language = self._trainer.run()
        PartialState().wait_for_everyone()  # one process has written what all read now
        learnt = read_safetensors(language / WEIGHTS)
        self._trainer = Trainer(self._genres(learnt), self._folder, **self._options)
        return self._trainer.run()

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self._trainer.is_main_process

    def summary(self) -> str:
        """Of the part that is being trained."""
        return self._trainer.summary()

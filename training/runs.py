"""Runs by their plans: what a command trains, and goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.dcgan_trainer import DcganTrainer
from training.genres.baseline import require_baseline
from training.genres.beginning import Beginning, read_beginning
from training.genres.data import GenreData, read_genres
from training.genres.encoder import genres_objective
from training.genres.language import language_objective
from training.genres.trainer import LanguageFirst
from training.gpt2 import gpt2_objective
from training.lstm import char_objective, word_objective
from training.objective import Objective
from training.pictures import PictureFolder
from training.recipes import CharLstmRecipe, DcganRecipe, GenresRecipe, Gpt2Recipe, WordLstmRecipe
from training.run_folder import Plan, RunFolder
from training.student import student_objective
from training.texts import read_texts
from training.trainer import Trainer


def objective_of(plan: Plan) -> Objective:
    """What a model of texts learns. Raises StoreError for data and recipes that cannot be used."""
    data = Path(plan.data)
    if plan.model == "char-lstm":
        char_recipe = CharLstmRecipe.model_validate(plan.recipe)
        return char_objective(read_texts(data, char_recipe.validation_share), char_recipe)
    if plan.model == "word-lstm":
        word_recipe = WordLstmRecipe.model_validate(plan.recipe)
        return word_objective(read_texts(data, word_recipe.validation_share), word_recipe)
    if plan.model == "genres":
        return genres_objective(*_genres(plan))
    gpt2_recipe = Gpt2Recipe.model_validate(plan.recipe)
    texts = read_texts(data, gpt2_recipe.validation_share, titles=gpt2_recipe.titles)
    return gpt2_objective(texts, gpt2_recipe) if gpt2_recipe.teacher is None else student_objective(texts, gpt2_recipe)


def trainer_of(
    plan: Plan, folder: RunFolder, *, device: str = "auto", show_progress: bool = True
) -> Trainer | LanguageFirst | DcganTrainer:
    """At the beginning of a run, or where it was stopped. Raises StoreError."""
    if plan.model == "dcgan":
        recipe = DcganRecipe.model_validate(plan.recipe)
        data = PictureFolder(Path(plan.data), recipe.size, show_progress=show_progress)
        trainer = DcganTrainer(data.pictures, recipe, folder, device=device, show_progress=show_progress)
        folder.begin(plan)
        folder.note_skipped(data.broken)
        return trainer
    if plan.model == "genres" and plan.recipe["language_epochs"]:
        return _language_first(plan, folder, device=device, show_progress=show_progress)
    objective = objective_of(plan)
    folder.begin(plan)
    return Trainer(objective, folder, device=device, show_progress=show_progress)


def _genres(plan: Plan) -> tuple[GenreData, GenresRecipe, Beginning]:
    """Raises StoreError."""
    require_baseline()
    recipe = GenresRecipe.model_validate(plan.recipe)
    data = read_genres(Path(plan.data), recipe.fewest_plots)
    return data, recipe, read_beginning(data, recipe)


def _language_first(plan: Plan, folder: RunFolder, **options: Any) -> LanguageFirst:
    """Raises StoreError."""
    data, recipe, beginning = _genres(plan)
    language = language_objective(data, recipe, beginning)
    folder.begin(plan)
    return LanguageFirst(
        language, lambda learnt: genres_objective(data, recipe, beginning.taught(learnt)), folder, **options
    )


def train(plan: Plan, output: Path, *, device: str = "auto", show_progress: bool = True) -> Path:
    """Train into a new folder. Raises StoreError, Stopped."""
    return trainer_of(plan, RunFolder(output), device=device, show_progress=show_progress).run()


def resume(run: Path, *, device: str = "auto", show_progress: bool = True) -> Path:
    """Go on with a run. Raises StoreError, Stopped."""
    folder, plan = RunFolder.of_run(run)
    plan.check_data()
    return trainer_of(plan, folder, device=device, show_progress=show_progress).run()

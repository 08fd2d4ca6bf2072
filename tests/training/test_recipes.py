"""Recipes: the projects' figures, overridden by files and flags, bad values named."""

from __future__ import annotations

import pytest

from contracts.errors import StoreError
from training.recipes import (
    PLOT_DEFAULTS,
    CharLstmRecipe,
    DcganRecipe,
    Gpt2Recipe,
    WordLstmRecipe,
    make_recipe,
    read_recipe_file,
)


def test_the_defaults_are_the_figures_of_the_projects():
    char, word, synopses, plots = (
        CharLstmRecipe(),
        WordLstmRecipe(),
        Gpt2Recipe(),
        make_recipe(Gpt2Recipe, PLOT_DEFAULTS),
    )
    assert (char.layers, char.chunk_tokens, char.window_step, char.windows_per_epoch) == ((128, 128), 60, 3, 10_000)
    assert (char.batch_rows, char.epochs, char.validation_share) == (128, 150, 0.0625)
    assert (char.optimizer, char.learning_rate) == ("rmsprop", 1e-2)
    assert (word.embedding, word.layers, word.dropout) == (100, (512, 512, 512), 0.3)
    assert (word.batch_rows, word.chunk_tokens, word.epochs) == (32, 30, 15)
    assert (word.optimizer, word.learning_rate, word.schedule, word.patience, word.factor) == (
        "adam", 1e-3, "plateau", 2, 0.5,
    )  # fmt: skip
    assert (synopses.batch_rows, synopses.epochs, synopses.learning_rate, synopses.weight_decay) == (10, 5, 1e-4, 0.003)
    assert (synopses.layout, synopses.block_tokens, synopses.schedule, synopses.warmup_steps) == (
        "padded", 300, "linear", 10,
    )  # fmt: skip
    assert (plots.layout, plots.block_tokens, plots.batch_rows, plots.epochs, plots.seed) == ("packed", 512, 4, 1, 42)
    assert (plots.learning_rate, plots.validation_share) == (1e-4, 0.05)


def test_the_defaults_for_pictures_are_the_papers():
    faces = DcganRecipe()
    assert (faces.size, faces.latent, faces.width, faces.batch_pictures, faces.epochs) == (64, 128, 64, 128, 25)
    assert (faces.learning_rate, faces.beta1, faces.beta2) == (2e-4, 0.5, 0.999)
    assert (faces.real_target, faces.spectral_norm, faces.ema_decay, faces.flips) == (1.0, False, 0.0, False)
    for size in (16, 48, 256):
        with pytest.raises(StoreError, match=f"'size' is {size}: it must be 32, 64 or 128"):
            make_recipe(DcganRecipe, {"size": size})


def test_flags_override_a_file_and_a_file_the_defaults(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("learning-rate = 0.02\nlayers = [7, 9]\nbatch_rows = 4\n")
    recipe = make_recipe(CharLstmRecipe, read_recipe_file(path), {"batch_rows": 5})
    assert (recipe.learning_rate, recipe.layers, recipe.batch_rows) == (0.02, (7, 9), 5)


def test_every_bad_value_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"'epochs' is 0: .*greater.*; 'dropout' is 2: "):
        make_recipe(CharLstmRecipe, {"epochs": 0, "dropout": 2})
    with pytest.raises(StoreError, match="'learning_rates' is not a field of this recipe; it has batch_rows, "):
        make_recipe(CharLstmRecipe, {"learning_rates": 1})
    with pytest.raises(StoreError, match="layers"):
        make_recipe(WordLstmRecipe, {"layers": []})
    path = tmp_path / "recipe.toml"
    path.write_text("layers = [")
    with pytest.raises(StoreError, match=r"recipe\.toml is not a TOML file"):
        read_recipe_file(path)

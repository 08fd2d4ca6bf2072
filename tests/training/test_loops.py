"""Each loop learns on a tiny budget, is reproducible, and leaves a run folder that export takes."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from contracts.bundle import WEIGHTS
from contracts.errors import StoreError
from contracts.run import RUN
from contracts.store import Store
from export.run import export_run
from models.runtimes.pytorch import load_images, load_text
from training.dcgan import DcganRecipe, train_dcgan
from training.demo_corpus import write_synopses
from training.demo_faces import draw_faces
from training.gpt2 import Gpt2Recipe, train_gpt2
from training.lstm import LstmRecipe, train_lstm

CPU = torch.device("cpu")
TEXTS = write_synopses(40)


def _train_lstm(folder, **options):
    recipe = LstmRecipe(layers=(24, 20), rows=8, chunk_tokens=16, steps=60, learning_rate=2e-2)
    return train_lstm("\n".join(TEXTS), folder, recipe, **options)


def _train_gpt2(folder, **options):
    recipe = Gpt2Recipe(vocabulary_size=400, context_tokens=32, width=32, layers=1, heads=2, steps=60)
    return train_gpt2(TEXTS, folder, recipe, **options)


def _train_dcgan(folder, steps=20, **options):
    recipe = DcganRecipe(latent=8, width=8, batch=16, steps=steps, learning_rate=2e-3, ema_decay=0.9)
    return train_dcgan(draw_faces(64, 16), folder, recipe, **options)


LOOPS = pytest.mark.parametrize("train", [_train_lstm, _train_gpt2, _train_dcgan], ids=["lstm", "gpt2", "dcgan"])


def _describe(run):
    return json.loads((run / RUN).read_text())


@pytest.mark.parametrize("train", [_train_lstm, _train_gpt2], ids=["lstm", "gpt2"])
def test_language_models_learn_and_are_exported(train, tmp_path):
    run = train(tmp_path / "run", show_progress=False)
    description = _describe(run)
    size = description["config"]["vocabulary_size"]
    assert description["metrics"]["loss"] < 0.8 * math.log(size)  # log(size) is what knowing nothing costs
    bundle = export_run(run, Store(tmp_path / "store"), "text")
    assert bundle.tokenizer().vocabulary_size == size
    assert load_text(bundle, CPU).decode([1] * 4, [0] * 4, [True] * 4).shape == (4, size)


def test_the_generator_learns_the_colours_of_the_pictures(tmp_path):
    run = _train_dcgan(tmp_path / "run", steps=300, show_progress=False)
    bundle = export_run(run, Store(tmp_path / "store"), "faces")
    pictures = load_images(bundle, CPU).draw(torch.randn(64, 8, generator=torch.Generator().manual_seed(1)))
    means = torch.from_numpy(draw_faces(64, 16)).float().mean(0)
    assert pictures.shape == (64, 16, 16, 3)
    # An untrained generator draws mid grey.
    assert (pictures.float().mean(0) - means).abs().mean() < 0.7 * (127.5 - means).abs().mean()


@LOOPS
def test_equal_recipes_train_equal_weights_and_leave_the_random_state_alone(train, tmp_path, threads):
    state = torch.get_rng_state()
    first, second = train(tmp_path / "a", show_progress=False), train(tmp_path / "b", show_progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    weights, again = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@LOOPS
def test_a_folder_that_exists_is_refused_before_training(train, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(StoreError, match="run exists already"):
        train(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_progress_shows_speed_and_loss(tmp_path, capsys):
    _train_lstm(tmp_path / "run")
    shown = capsys.readouterr().err
    assert "60/60" in shown
    assert "step/s" in shown
    assert "loss=" in shown


def test_a_failed_run_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("training.run_folder.write_safetensors", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        _train_lstm(tmp_path / "run", show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_used_is_refused_with_what_is_needed(tmp_path):
    with pytest.raises(StoreError, match="has 5 characters; this recipe needs 2080"):
        train_lstm("Hello", tmp_path / "lstm")
    with pytest.raises(StoreError, match="one block of this recipe needs 257"):
        train_gpt2(["Hello"], tmp_path / "gpt2")
    with pytest.raises(StoreError, match="there are 3 pictures of 16x16; give 128 or more"):
        train_dcgan(draw_faces(3, 16), tmp_path / "dcgan")
    with pytest.raises(StoreError, match="24x24 cannot be learnt: size is 24; it must be a power of two"):
        train_dcgan(draw_faces(128, 24), tmp_path / "dcgan")

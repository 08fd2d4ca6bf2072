"""The loop of pictures learns on a tiny budget, is reproducible, and leaves a run folder that export takes."""

import pytest
import torch
from safetensors.torch import load_file

from contracts.bundle import WEIGHTS
from contracts.errors import StoreError
from contracts.store import Store
from export.run import export_run
from models.runtimes.pytorch import load_images
from training.dcgan import DcganRecipe, train_dcgan
from training.demo_faces import draw_faces

CPU = torch.device("cpu")


def _train_dcgan(folder, steps=20, **options):
    recipe = DcganRecipe(latent=8, width=8, batch=16, steps=steps, learning_rate=2e-3, ema_decay=0.9)
    return train_dcgan(draw_faces(64, 16), folder, recipe, **options)


def test_the_generator_learns_the_colours_of_the_pictures(tmp_path):
    run = _train_dcgan(tmp_path / "run", steps=300, show_progress=False)
    bundle = export_run(run, Store(tmp_path / "store"), "faces")
    pictures = load_images(bundle, CPU).draw(torch.randn(64, 8, generator=torch.Generator().manual_seed(1)))
    means = torch.from_numpy(draw_faces(64, 16)).float().mean(0)
    assert pictures.shape == (64, 16, 16, 3)
    # An untrained generator draws mid grey.
    assert (pictures.float().mean(0) - means).abs().mean() < 0.7 * (127.5 - means).abs().mean()


def test_equal_recipes_train_equal_weights_and_leave_the_random_state_alone(tmp_path, threads):
    state = torch.get_rng_state()
    first = _train_dcgan(tmp_path / "a", show_progress=False)
    second = _train_dcgan(tmp_path / "b", show_progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    weights, again = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_folder_that_exists_is_refused_before_training(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(StoreError, match="run exists already"):
        _train_dcgan(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_progress_shows_speed_and_loss(tmp_path, capsys):
    _train_dcgan(tmp_path / "run")
    shown = capsys.readouterr().err
    assert "20/20" in shown
    assert "step/s" in shown
    assert "generator_loss=" in shown


def test_data_that_cannot_be_used_is_refused_with_what_is_needed(tmp_path):
    with pytest.raises(StoreError, match="there are 3 pictures of 16x16; give 128 or more"):
        train_dcgan(draw_faces(3, 16), tmp_path / "dcgan")
    with pytest.raises(StoreError, match="24x24 cannot be learnt: size is 24; it must be a power of two"):
        train_dcgan(draw_faces(128, 24), tmp_path / "dcgan")

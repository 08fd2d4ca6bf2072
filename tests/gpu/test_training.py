"""What only a GPU can show: training on CUDA learns what it learns on the CPU, also in less precision or memory."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("accelerate")

from tests.training.conftest import SMALL, train
from training.dcgan_trainer import DcganTrainer
from training.demo_faces import draw_faces
from training.journal import read_metrics
from training.pictures import CachedPictures
from training.recipes import DcganRecipe
from training.run_folder import RunFolder
from training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


def losses(run):
    return [line["validation_loss"] for line in read_metrics(run) if "validation_loss" in line]


@pytest.mark.parametrize("name", SMALL)
def test_training_on_the_gpu_comes_to_the_losses_of_the_cpu(name, tmp_path):
    recipe = SMALL[name].model_copy(update={"dropout": 0.0})
    cpu = train(tmp_path / "cpu", recipe)
    gpu = train(tmp_path / "gpu", recipe, device="auto")
    assert losses(gpu) == pytest.approx(losses(cpu), rel=0.02)


def test_genres_learnt_on_the_gpu_are_those_of_the_cpu(tmp_path):
    from tests.training.genres.test_encoder import RECIPE, objective_of

    recipe = RECIPE.model_copy(update={"dropout": 0.0, "epochs": 3})
    runs = {}
    for device in ("cpu", "auto"):
        folder = RunFolder(tmp_path / device)
        trainer = Trainer(objective_of(recipe), folder, device=device, show_progress=False, logs=False)
        runs[device] = losses(trainer.run())
    assert runs["auto"] == pytest.approx(runs["cpu"], rel=0.02)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_nearly_as_much(precision, tmp_path):
    recipe = SMALL["packed"].model_copy(update={"epochs": 4, "learning_rate": 1e-2})
    full = train(tmp_path / "full", recipe, device="auto")
    mixed = train(tmp_path / "mixed", recipe.model_copy(update={"precision": precision}), device="auto")
    assert min(losses(mixed)) == pytest.approx(min(losses(full)), rel=0.05)


def test_a_batch_that_does_not_fit_is_halved_until_it_does(tmp_path, capsys):
    """The gates of 16,384 windows take more than 2 GB; the process may use 1 GB more than it does."""
    recipe = SMALL["windows"].model_copy(
        update={"batch_rows": 16_384, "windows_per_epoch": 16_384, "layers": (512,), "epochs": 1}
    )
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (total - free + (1 << 30)) / total))
    try:
        run = train(tmp_path / "run", recipe, device="auto")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    said = capsys.readouterr()
    assert "not enough memory for 16384 rows" in said.out + said.err
    assert losses(run)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_dcgan_comes_nearer_to_the_pictures(precision, tmp_path):
    recipe = DcganRecipe(size=32, latent=8, width=8, batch_pictures=16, epochs=40, learning_rate=2e-3, ema_decay=0.9)
    own, folder = recipe.model_copy(update={"precision": precision}), RunFolder(tmp_path / "run")
    pictures = CachedPictures(draw_faces(64, 32))
    run = DcganTrainer(pictures, own, folder, device="auto", show_progress=False, logs=False).run()
    distances = [line["epoch_distance"] for line in read_metrics(run) if "epoch_distance" in line]
    assert min(distances) < 0.9 * distances[0]

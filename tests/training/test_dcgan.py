"""DCGAN: what is learnt, kept, told, stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import training.dcgan_trainer
from contracts.bundle import WEIGHTS
from contracts.errors import StoreError
from contracts.run import RUN
from contracts.store import Store
from export.run import export_run
from models.runtimes.pytorch import load_images
from training.accelerator import make_accelerator
from training.checkpoint import read_checkpoint
from training.dcgan import MEASUREMENTS, Adversaries
from training.dcgan_trainer import DcganTrainer
from training.demo_faces import draw_faces
from training.journal import read_metrics
from training.pictures import CachedPictures
from training.recipes import DcganRecipe
from training.run_folder import RunFolder
from training.stopping import Stopped

CPU = torch.device("cpu")
FACES = CachedPictures(draw_faces(56, 32))
SMALL = DcganRecipe(size=32, latent=8, width=4, batch_pictures=16, epochs=4, learning_rate=2e-3)
STABLE = SMALL.model_copy(update={"spectral_norm": True, "ema_decay": 0.9, "flips": True, "real_target": 0.9})
QUIET: dict[str, Any] = {"device": "cpu", "show_progress": False, "logs": False}
STEPS_PER_EPOCH = 3  # 56 faces hold three batches; the rest has its turn in another epoch


def train(folder, recipe=SMALL, pictures=FACES, **options):
    return DcganTrainer(pictures, recipe, RunFolder(folder), **{**QUIET, **options}).run()


def metrics(run):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_metrics(run)]


def same_tensors(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Interrupting:
    """Pictures that ask their own process to stop, as Ctrl-C does, while batch `at` of the run is learnt."""

    def __init__(self, pictures, at):
        self._pictures, self._at, self._served = pictures, at, 0

    def __len__(self):
        return len(self._pictures)

    def batches(self, order):
        for batch in self._pictures.batches(order):
            if len(batch) == SMALL.batch_pictures:  # and not the sample that distances are measured to
                self._served += 1
                if self._served == self._at:
                    os.kill(os.getpid(), signal.SIGINT)
            yield batch


def test_the_generator_learns_the_colours_of_the_pictures(tmp_path):
    recipe = SMALL.model_copy(update={"width": 8, "epochs": 60, "ema_decay": 0.9, "measure_epochs": 0})
    run = train(tmp_path / "run", recipe)
    bundle = export_run(run, Store(tmp_path / "store"), "faces")
    pictures = load_images(bundle, CPU).draw(torch.randn(64, 8, generator=torch.Generator().manual_seed(1)))
    means = torch.from_numpy(FACES.pixels).float().mean(0)
    assert pictures.shape == (64, 32, 32, 3)
    # An untrained generator draws mid grey.
    assert (pictures.float().mean(0) - means).abs().mean() < 0.7 * (127.5 - means).abs().mean()


def test_equal_recipes_train_equal_weights_and_leave_the_random_state_alone(tmp_path):
    state = torch.get_rng_state()
    first, second = train(tmp_path / "a"), train(tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), state)
    assert same_tensors(load_file(first / WEIGHTS), load_file(second / WEIGHTS))
    other = train(tmp_path / "c", SMALL.model_copy(update={"seed": 5}))
    assert not same_tensors(load_file(first / WEIGHTS), load_file(other / WEIGHTS))


@pytest.mark.parametrize("recipe", [SMALL, STABLE], ids=["plain", "stabilised"])
@pytest.mark.parametrize("at", [6, 11])
def test_a_run_that_was_stopped_and_gone_on_with_equals_one_that_was_not(recipe, at, tmp_path):
    whole = train(tmp_path / "whole", recipe)
    folder = RunFolder(tmp_path / "stopped")
    steps = recipe.epochs * STEPS_PER_EPOCH
    with pytest.raises(Stopped, match=f"after step {at} of {steps}"):
        DcganTrainer(Interrupting(FACES, at), recipe, folder, **QUIET).run()
    # As a new process does: nothing is left but the folder.
    again = DcganTrainer(FACES, recipe, folder, **QUIET).run()
    assert same_tensors(load_file(whole / WEIGHTS), load_file(again / WEIGHTS))
    assert metrics(whole) == metrics(again)
    last, other = read_checkpoint(whole), read_checkpoint(again)
    assert last is not None
    assert other is not None
    assert {name.partition(".")[0] for name in last.weights} == {"generator", "discriminator"} | (
        {"average"} if recipe.ema_decay else set()
    )
    assert same_tensors(last.weights, other.weights)
    assert last.state["position"] | {"seconds": 0} == other.state["position"] | {"seconds": 0}


def test_the_weights_with_the_smallest_distance_are_kept_and_not_the_last(tmp_path):
    """The rate is far too high: what an epoch has learnt another one spoils."""
    recipe = SMALL.model_copy(update={"epochs": 7, "learning_rate": 0.02})
    run = train(tmp_path / "run", recipe)
    distances = {line["epoch"]: line["epoch_distance"] for line in metrics(run) if "epoch_distance" in line}
    kept = json.loads((run / RUN).read_text())["metrics"]
    assert list(distances) == list(range(1, 8))
    assert kept["distance"] == distances[kept["epoch"]] == min(distances.values()) < distances[7]
    shorter = train(tmp_path / "shorter", recipe.model_copy(update={"epochs": int(kept["epoch"])}))
    last = read_checkpoint(shorter)
    assert last is not None
    weights = {name.partition(".")[2]: weight for name, weight in last.weights.items() if name.startswith("generator.")}
    assert same_tensors(load_file(run / WEIGHTS), weights)


@pytest.mark.parametrize(("every", "measured"), [(3, [3, 4]), (0, [])])
def test_the_distance_is_measured_every_few_epochs_and_at_the_end(every, measured, tmp_path):
    run = train(tmp_path / "run", SMALL.model_copy(update={"measure_epochs": every}))
    assert [line["epoch"] for line in metrics(run) if "epoch_distance" in line] == measured
    assert json.loads((run / RUN).read_text())["metrics"]["epoch"] in (measured or [4])


def test_an_epoch_tells_losses_and_scores_of_both_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(training.dcgan_trainer, "LINE_STEPS", 1)
    run = train(tmp_path / "run")
    lines = metrics(run)
    fine, coarse = ([line for line in lines if key in line] for key in ("real_score", "epoch_real_score"))
    assert (len(fine), len(coarse)) == (12, 4)
    for name in MEASUREMENTS:
        first = [line[name] for line in fine if line["epoch"] == 1]
        assert coarse[0][f"epoch_{name}"] == pytest.approx(sum(first) / 3)
    assert all(0 < line[name] < 1 for line in fine for name in ("real_score", "fake_score"))


def test_logs_are_grids_curves_events_and_an_animation(tmp_path, capsys):
    run = train(tmp_path / "run", logs=True, show_progress=True)
    for name in ("losses.png", "scores.png", "distance.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").iterdir())
    grids = []
    for epoch in (1, 2, 3, 4):
        with Image.open(run / "samples" / f"epoch-00{epoch}.png") as image:
            grids.append(np.asarray(image))
    assert {grid.shape for grid in grids} == {(8 * 34 + 2, 8 * 34 + 2, 3)}
    assert not np.array_equal(grids[0], grids[3])
    with Image.open(run / "animation.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 4
    shown = capsys.readouterr().err
    assert "epoch 4/4: generator loss " in shown
    assert "12/12" in shown
    assert "step/s" in shown


def test_no_picture_of_an_epoch_comes_twice_and_epochs_are_mixed_otherwise(tmp_path):
    seen = []

    class Noting(CachedPictures):
        def batches(self, order):
            for places in order:
                seen.append(list(places))
                yield from super().batches([places])

    train(tmp_path / "run", SMALL.model_copy(update={"epochs": 2, "measure_epochs": 0}), Noting(FACES.pixels))
    first, second = ([place for batch in seen[at : at + 3] for place in batch] for at in (0, 3))
    assert len(set(first)) == len(set(second)) == 48
    assert first != second


def test_flips_mirror_about_half_of_the_pictures_and_nothing_else(tmp_path, monkeypatch):
    learnt = []

    def step(self, pictures, latents, at):
        learnt.append(pictures)
        return torch.ones(4)

    monkeypatch.setattr(Adversaries, "step", step)
    recipe = SMALL.model_copy(update={"measure_epochs": 0})
    train(tmp_path / "plain", recipe)
    train(tmp_path / "flipped", recipe.model_copy(update={"flips": True}))
    plain, flipped = torch.cat(learnt[:12]), torch.cat(learnt[12:])
    mirrored = (plain.flip(3) == flipped).all((1, 2, 3))
    assert (mirrored | (plain == flipped).all((1, 2, 3))).all()
    assert 0.3 < mirrored.float().mean() < 0.7


def adversaries(**changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Adversaries(SMALL.model_copy(update=changes), make_accelerator("fp32", "cpu"))


def learn(networks, steps=3):
    random = torch.Generator().manual_seed(1)
    for step in range(steps):
        batch = torch.from_numpy(FACES.pixels[:16]).permute(0, 3, 1, 2)
        measured = networks.step(batch, torch.randn(16, 8, generator=random), step)
    return measured


def test_a_step_moves_both_networks_by_the_papers_losses():
    networks = adversaries()
    before = {name: weight.clone() for name, weight in networks.weights().items()}
    torch.manual_seed(0)
    real = torch.from_numpy(FACES.pixels[:16]).permute(0, 3, 1, 2)
    latents = torch.randn(16, 8)
    reference = adversaries()
    fake = reference.generator(latents[:, :, None, None])
    real_logits = reference.discriminator(real.float() / 127.5 - 1).detach()
    fake_logits = reference.discriminator(fake).detach()
    measured = dict(zip(MEASUREMENTS, networks.step(real, latents, 0).tolist(), strict=True))
    expected = -(real_logits.sigmoid().log().mean() + (1 - fake_logits.sigmoid()).log().mean())
    assert measured["discriminator_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert measured["real_score"] == pytest.approx(float(real_logits.sigmoid().mean()), rel=1e-4)
    assert measured["fake_score"] == pytest.approx(float(fake_logits.sigmoid().mean()), rel=1e-4)
    moved = {name for name, weight in networks.weights().items() if not torch.equal(weight, before[name])}
    assert {"generator.0.weight", "discriminator.0.weight"} <= moved


def test_smoothed_labels_keep_the_discriminator_from_being_sure():
    sure, unsure = (dict(zip(MEASUREMENTS, learn(adversaries(real_target=target), 60).tolist(), strict=True))
                    for target in (1.0, 0.6))  # fmt: skip
    assert unsure["real_score"] < sure["real_score"] - 0.1


def test_spectral_norm_bounds_every_convolution_and_takes_the_place_of_batch_norm():
    networks = adversaries(spectral_norm=True)
    learn(networks)
    for _ in range(20):  # each pass makes the estimate of the norm better
        networks.discriminator(torch.zeros(2, 3, 32, 32))
    convolutions = [layer for layer in networks.discriminator if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 4
    for layer in convolutions:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2) == pytest.approx(1.0, rel=0.02)
    assert not [layer for layer in networks.discriminator if isinstance(layer, torch.nn.BatchNorm2d)]


def test_the_average_lies_between_where_the_generator_was_and_is():
    networks = adversaries(ema_decay=0.99)
    begun = networks.generator[0].weight.clone()
    learn(networks, 40)
    now, average = networks.generator[0].weight, networks.drawing[0].weight
    assert networks.drawing is not networks.generator
    assert 0 < (average - now).norm() < (begun - now).norm()
    assert adversaries().drawing is not None


def test_bf16_learns_too(tmp_path):
    run = train(tmp_path / "run", SMALL.model_copy(update={"precision": "bf16", "epochs": 1}))
    assert load_file(run / WEIGHTS)["0.weight"].dtype == torch.float32


def test_too_little_memory_is_an_error_that_says_what_to_do(monkeypatch, tmp_path):
    def step(self, pictures, latents):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Adversaries, "_step", step)
    with pytest.raises(StoreError, match=r"not enough memory for 16 pictures at once; give a smaller --batch-pictures"):
        train(tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(tmp_path):
    with pytest.raises(StoreError, match=r"a loss is no number at step \d+; try a lower --learning-rate"):
        train(tmp_path / "run", SMALL.model_copy(update={"learning_rate": 1e30, "epochs": 10, "measure_epochs": 0}))


def test_fewer_pictures_than_a_batch_are_refused(tmp_path):
    with pytest.raises(StoreError, match=r"3 pictures are no batch of 16; give more of them, or --batch-pictures 3"):
        train(tmp_path / "run", pictures=CachedPictures(FACES.pixels[:3]))


def test_a_folder_that_exists_is_refused_before_training(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(StoreError, match="run exists already"):
        train(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path / "run")
    folder = RunFolder.__new__(RunFolder)
    folder.path = tmp_path / "run"
    with pytest.raises(StoreError, match="has a checkpoint that does not fit"):
        DcganTrainer(FACES, SMALL.model_copy(update={"width": 8}), folder, **QUIET)

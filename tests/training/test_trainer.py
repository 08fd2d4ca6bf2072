"""The loop: what is learnt, kept, told, stopped and gone on with."""

from __future__ import annotations

import json
import math
import os
import signal
from collections import Counter
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from contracts.bundle import TOKENIZER, WEIGHTS
from contracts.errors import StoreError
from contracts.run import HELD_OUT, RUN
from contracts.store import Store
from contracts.tokenizers import read_tokenizer
from export.run import export_run
from models.runtimes.pytorch import load_text
from tests.training.conftest import SMALL, SYNOPSES, objective_of, train
from training.checkpoint import read_checkpoint
from training.journal import read_metrics
from training.objective import Batch
from training.run_folder import RunFolder
from training.stopping import Stopped
from training.texts import Texts
from training.trainer import Trainer

CPU = torch.device("cpu")
ALL = pytest.mark.parametrize("name", SMALL)


def unigram_nats(tokenizer, texts: Texts) -> float:
    """Of the held-out text per token, by how often each token is in the training text, with one added to each."""
    counts = Counter(tokenizer.encode(texts.joined[0]))
    total = sum(counts.values()) + tokenizer.vocabulary_size
    held_out = tokenizer.encode(texts.joined[1])
    return -sum(math.log((counts[token] + 1) / total) for token in held_out) / len(held_out)


def same_weights(one, other, file=WEIGHTS):
    first, second = load_file(one / file), load_file(other / file)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def metrics(run):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_metrics(run)]


@pytest.mark.parametrize("name", ["windows", "rows", "words", "packed"])
def test_a_model_beats_a_unigram_model_on_text_that_it_has_not_seen_and_is_exported(name, tmp_path):
    recipe = SMALL[name].model_copy(update={"epochs": 8, "learning_rate": 1e-2})
    run = train(tmp_path / "run", recipe)
    description = json.loads((run / RUN).read_text())
    tokenizer = read_tokenizer(description["tokenizer"], run / TOKENIZER)
    assert description["metrics"]["validation_loss"] < 0.93 * unigram_nats(tokenizer, SYNOPSES)
    assert (run / HELD_OUT).read_text()[:40] in SYNOPSES.joined[1] + SYNOPSES.validation[0]
    bundle = export_run(run, Store(tmp_path / "store"), "text")
    assert bundle.tokenizer().vocabulary_size == description["config"]["vocabulary_size"]
    backend = load_text(bundle, CPU)
    assert backend.decode([1] * 4, [0] * 4, [True] * 4).shape == (4, backend.vocabulary_size)


@ALL
def test_equal_recipes_train_equal_weights_and_leave_the_random_state_alone(name, tmp_path):
    state = torch.get_rng_state()
    first, second = train(tmp_path / "a", SMALL[name]), train(tmp_path / "b", SMALL[name])
    assert torch.equal(torch.get_rng_state(), state)
    assert same_weights(first, second)
    other = train(tmp_path / "c", SMALL[name].model_copy(update={"seed": 5}))
    assert not same_weights(first, other)


def test_two_threads_train_the_same_weights_each_time(tmp_path, threads):
    texts = Texts(SYNOPSES.train[:12], SYNOPSES.validation)
    first, second = (train(tmp_path / name, SMALL["rows"], texts) for name in "ab")
    assert same_weights(first, second)


class Interrupting:
    """An objective that asks its own process to stop, as Ctrl-C does, while batch `at` is learnt."""

    def __init__(self, objective, at):
        self._objective, self._at = objective, at

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def batch(self, epoch, index):
        if epoch * self._objective.steps_per_epoch + index + 1 == self._at:
            os.kill(os.getpid(), signal.SIGINT)
        return self._objective.batch(epoch, index)


@ALL
@pytest.mark.parametrize("share", [0.3, 0.77])
def test_a_run_that_was_stopped_and_gone_on_with_equals_one_that_was_not(name, share, tmp_path):
    recipe = SMALL[name]
    whole = train(tmp_path / "whole", recipe)
    steps = objective_of(recipe).steps_per_epoch * recipe.epochs
    at = max(1, round(share * steps))
    folder = RunFolder(tmp_path / "stopped")
    options: dict[str, Any] = {"device": "cpu", "show_progress": False, "logs": False}
    with pytest.raises(Stopped, match=f"after step {at:,} of {steps:,}"):
        Trainer(Interrupting(objective_of(recipe), at), folder, **options).run()
    # As a new process does: nothing is left but the folder.
    again = Trainer(objective_of(recipe), folder, **options).run()
    assert same_weights(whole, again)
    assert metrics(whole) == metrics(again)
    last, other = read_checkpoint(whole), read_checkpoint(again)
    assert last is not None
    assert other is not None
    assert last.state["position"] | {"seconds": 0} == other.state["position"] | {"seconds": 0}
    for tensors, others in ((last.weights, other.weights), (last.carried, other.carried)):
        assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items())


def test_what_was_told_after_the_checkpoint_is_forgotten(tmp_path):
    run = train(tmp_path / "run", SMALL["rows"])
    told = metrics(run)
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 100000, "loss": 1.0}\n{"step": 1000')  # of a process that was killed
    folder = RunFolder.of_existing(run)
    Trainer(objective_of(SMALL["rows"]), folder, device="cpu", show_progress=False, logs=False).run()
    assert metrics(run) == told


def test_the_best_weights_are_kept_and_not_the_last(tmp_path):
    """The rate is far too high: what an epoch has learnt the next one spoils."""
    recipe = SMALL["packed"].model_copy(update={"epochs": 6, "learning_rate": 0.3, "gradient_norm": None})
    run = train(tmp_path / "run", recipe)
    losses = [line["validation_loss"] for line in metrics(run) if "validation_loss" in line]
    kept = json.loads((run / RUN).read_text())["metrics"]["validation_loss"]
    assert kept == min(losses) < losses[-1]
    objective = objective_of(recipe)
    objective.module.load_state_dict(load_file(run / WEIGHTS))
    objective.module.eval()
    with torch.no_grad():
        sums = [(float(nats), tokens) for nats, tokens in objective.validation()]
    assert sum(nats for nats, _ in sums) / sum(tokens for _, tokens in sums) == pytest.approx(kept)


@pytest.mark.parametrize("name", ["rows", "padded"])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(name, tmp_path):
    recipe = SMALL[name].model_copy(update={"dropout": 0.0, "optimizer": "adam"})
    whole = train(tmp_path / "whole", recipe)
    parts = train(tmp_path / "parts", recipe.model_copy(update={"micro_batch_rows": 3}))
    losses, others = ([line["loss"] for line in metrics(run) if "loss" in line] for run in (whole, parts))
    assert losses == pytest.approx(others, rel=2e-4)


class Hungry:
    """An objective for which memory is too small from `most` rows on."""

    def __init__(self, objective, most):
        self._objective, self._most = objective, most

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def loss(self, model, batch: Batch, first_row):
        loss = self._objective.loss(model, batch, first_row)
        if len(batch.inputs) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss


def test_too_little_memory_halves_what_is_computed_at_once_and_changes_nothing_else(tmp_path, capsys):
    recipe = SMALL["rows"].model_copy(update={"dropout": 0.0})
    usual = train(tmp_path / "usual", recipe.model_copy(update={"micro_batch_rows": 2}))
    hungry = Trainer(
        Hungry(objective_of(recipe), 3), RunFolder(tmp_path / "hungry"), device="cpu", show_progress=False, logs=False
    ).run()
    said = capsys.readouterr()
    assert "not enough memory for 8 rows at once; going on with 4" in said.out + said.err
    assert "not enough memory for 4 rows at once; going on with 2" in said.out + said.err
    assert same_weights(usual, hungry)


def test_too_little_memory_for_one_row_is_an_error_that_says_what_to_do(tmp_path):
    trainer = Trainer(
        Hungry(objective_of(SMALL["rows"]), 0), RunFolder(tmp_path / "r"), device="cpu", show_progress=False, logs=False
    )
    with pytest.raises(StoreError, match=r"not enough memory for 1 rows at once; give a smaller .*--chunk-tokens"):
        trainer.run()


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(tmp_path):
    recipe = SMALL["packed"].model_copy(update={"learning_rate": 1e30, "gradient_norm": None, "optimizer": "adam"})
    with pytest.raises(StoreError, match=r"the loss is (nan|inf) at step \d+; try a lower --learning-rate"):
        train(tmp_path / "run", recipe)


def test_without_a_held_out_text_the_training_loss_judges(tmp_path):
    run = train(tmp_path / "run", SMALL["packed"], Texts(SYNOPSES.train, []))
    description = json.loads((run / RUN).read_text())
    assert "validation_loss" not in description["metrics"]
    assert description["metrics"]["loss"] > 0
    assert not (run / HELD_OUT).exists()


def test_logs_are_a_curve_events_samples_and_lines(tmp_path, capsys):
    recipe = SMALL["rows"].model_copy(update={"epochs": 2})
    run = train(tmp_path / "run", recipe, logs=True, show_progress=True)
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").iterdir())
    first, second = (run / "samples" / f"epoch-00{epoch}.txt" for epoch in (1, 2))
    assert first.read_text() != second.read_text()
    assert first.read_text().count("[temperature ") == 4
    shown = capsys.readouterr().err
    assert first.read_text().split("\n\n")[0] in shown
    assert "step/s" in shown
    assert "validation=" in shown
    assert {"step", "epoch", "loss", "learning_rate"} == set(read_metrics(run)[0])


def test_validation_may_be_asked_for_several_times_an_epoch(tmp_path):
    recipe = SMALL["packed"].model_copy(update={"validations_per_epoch": 4})
    run = train(tmp_path / "run", recipe)
    steps = [line["step"] for line in metrics(run) if "validation_loss" in line]
    total = objective_of(recipe).steps_per_epoch
    assert steps == [total * place // 4 for place in (1, 2, 3, 4)]


def test_a_plateau_lowers_the_rate(tmp_path):
    recipe = SMALL["words"].model_copy(update={"epochs": 5, "learning_rate": 0.5, "patience": 0, "factor": 0.1})
    run = train(tmp_path / "run", recipe)
    rates = [line["learning_rate"] for line in metrics(run) if "learning_rate" in line]
    assert rates[0] == 0.5
    assert rates[-1] < 0.06


def test_a_folder_that_exists_is_refused_before_training(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(StoreError, match="run exists already"):
        train(tmp_path / "run", SMALL["rows"])
    assert list((tmp_path / "run").iterdir()) == []


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run = train(tmp_path / "run", SMALL["rows"])
    folder = RunFolder.of_existing(run)
    other = SMALL["rows"].model_copy(update={"layers": (30,)})
    with pytest.raises(StoreError, match="has a checkpoint that does not fit"):
        Trainer(objective_of(other), folder, device="cpu", show_progress=False, logs=False)

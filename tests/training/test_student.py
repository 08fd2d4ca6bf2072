"""Distillation: where a student begins and what it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contracts.errors import StoreError
from contracts.store import Store
from export.run import export_run
from tests.training.conftest import SMALL, SYNOPSES, train
from training.run_folder import RunFolder
from training.student import halved, read_teacher, student_objective
from training.trainer import Trainer

PACKED = SMALL["packed"].model_copy(update={"dropout": 0.0})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    recipe = PACKED.model_copy(update={"epochs": 6, "blocks": 4, "learning_rate": 1e-2})
    return train(tmp_path_factory.mktemp("teacher") / "run", recipe)


def test_a_student_begins_with_every_other_block_of_its_teacher(teacher):
    module, _ = read_teacher(teacher)
    student = halved(module, 0.1)
    assert student.config.layers == 2
    assert torch.equal(student.get_parameter("blocks.1.up.weight"), module.get_parameter("blocks.2.up.weight"))
    assert torch.equal(student.tokens.weight, module.tokens.weight)


def test_the_loss_is_the_weighted_sum_of_its_three_parts(teacher):
    recipe = PACKED.model_copy(update={"teacher": str(teacher)})
    objective = student_objective(SYNOPSES, recipe)
    batch = objective.batch(0, 0)
    with torch.no_grad():
        found = float(objective.loss(objective.module, batch, 0))
        (given, state), (wanted, taught) = objective.module(batch.inputs), objective.teacher(batch.inputs)
        p, log_q = (wanted / 2).softmax(-1), (given / 2).log_softmax(-1)
        soft = float((p * (p.log() - log_q)).sum()) * 4
        text = float(F.cross_entropy(given.flatten(0, 1), batch.targets.flatten(), reduction="sum"))
        cosine = float((1 - (state * taught).sum(-1) / state.norm(dim=-1) / taught.norm(dim=-1)).sum())
    assert found == pytest.approx(5 * soft + 2 * text + cosine, rel=1e-4)


def test_a_student_comes_near_its_teacher_and_is_exported(teacher, tmp_path):
    update = {"teacher": str(teacher), "epochs": 8, "learning_rate": 3e-3, "text_weight": 0.0}
    recipe = PACKED.model_copy(update=update)
    objective = student_objective(SYNOPSES, recipe)

    def distance():
        batch = objective.batch(0, 0)
        with torch.no_grad():
            given, _ = objective.module.eval()(batch.inputs)
            wanted, _ = objective.teacher(batch.inputs)
        return float(F.kl_div(given.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="batchmean"))

    before = distance()
    run = Trainer(objective, RunFolder(tmp_path / "run"), device="cpu", show_progress=False, logs=False).run()
    assert distance() < before / 10
    assert export_run(run, Store(tmp_path / "store"), "student").manifest.config["layers"] == 2


def test_a_folder_that_cannot_teach_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is not the run of a GPT-2"):
        student_objective(SYNOPSES, PACKED.model_copy(update={"teacher": str(tmp_path)}))
    run = train(tmp_path / "lstm", SMALL["rows"])
    with pytest.raises(StoreError, match="is not the run of a GPT-2"):
        student_objective(SYNOPSES, PACKED.model_copy(update={"teacher": str(run)}))

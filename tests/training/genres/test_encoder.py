"""Encoders learn genres, from scratch and from checkpoints; what they leave is exported and judged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from contracts.bundle import WEIGHTS
from contracts.requests import ClassifyRequest, TokenisedText
from contracts.run import RUN, RunDescription
from contracts.store import Store
from export.run import export_run
from tests.training.test_trainer import Interrupting, same_weights
from training.checkpoint import read_checkpoint
from training.genres.beginning import read_beginning, train_encoder_tokenizer
from training.genres.data import GenreData, LabelledPlots
from training.genres.encoder import genres_objective, rate_share
from training.genres.report import GenreReport, table
from training.recipes import SCRATCH, GenresRecipe
from training.run_folder import RunFolder
from training.stopping import Stopped
from training.trainer import Trainer
from workers.local import LocalModel

WORDS = {"War": "soldier battle army general", "Romance": "love kiss wedding heart", "Crime": "thief police murder gun"}
RECIPE = GenresRecipe(
    model=SCRATCH,
    width=32,
    blocks=1,
    heads=2,
    vocabulary_size=400,
    block_tokens=24,
    batch_rows=16,
    epochs=10,
    cycles=1,
    layer_decay=1.0,
    learning_rate=5e-3,
)


def plots(count, seed):
    random = np.random.default_rng(seed)
    texts, rows = [], []
    for _ in range(count):
        row = random.uniform(size=len(WORDS)) < 0.5
        chosen = [words.split()[random.integers(4)] for words, is_so in zip(WORDS.values(), row, strict=True) if is_so]
        texts.append(" ".join(["the", "story", *chosen, "of", f"number{random.integers(50)}"]))
        rows.append(row)
    return LabelledPlots(texts, np.array(rows))


DATA = GenreData(tuple(WORDS), plots(240, 0), plots(40, 1), {"no known genre": 2}, {"Rare": 3})


def objective_of(recipe=RECIPE):
    return genres_objective(DATA, recipe, read_beginning(DATA, recipe))


def trainer(folder, recipe=RECIPE, objective=None):
    objective = objective or objective_of(recipe)
    return Trainer(objective, folder, device="cpu", show_progress=False, logs=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trainer(RunFolder(tmp_path_factory.mktemp("genres") / "run")).run()


def test_words_of_genres_are_learnt_and_the_report_says_how_well(run):
    report = GenreReport.model_validate_json((run / "genres.json").read_bytes())
    assert report.model.micro_f1 > 0.9
    assert report.baseline.micro_f1 > 0.9
    assert [row.genre for row in report.model.genres] == list(DATA.genres)
    said = table(report)
    assert "Plots that were skipped: 2, no known genre." in said
    assert "Genres of too few plots to train on, left out: Rare (3)." in said
    assert (report.plots_to_train_on, report.plots_to_validate_with) == (240, 40)
    for name in ("genres-f1.png", "genres-together.png", "genres-calibration.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")


def test_the_run_is_exported_with_its_genres_and_thresholds_and_says_what_training_said(run, tmp_path):
    description = RunDescription.model_validate_json((run / RUN).read_bytes())
    report = GenreReport.model_validate_json((run / "genres.json").read_bytes())
    bundle = export_run(run, Store(tmp_path / "store"), "genres")
    assert bundle.labels() == description.labels
    assert bundle.labels().thresholds == tuple(row.threshold for row in report.model.genres)
    tokenizer = bundle.encoder_tokenizer()
    texts = tuple(TokenisedText(windows=(tuple(tokenizer.encode(text)),)) for text in DATA.validation.texts)
    served = LocalModel(bundle).labels(ClassifyRequest(target=bundle.target(), texts=texts)).classifications
    objective = objective_of()
    objective.module.load_state_dict(load_file(run / WEIGHTS))
    for found, probabilities in zip(served, objective.probabilities(), strict=True):
        scores = {score.label: score.score for score in found.scores}
        assert [scores[genre] for genre in DATA.genres] == pytest.approx(probabilities.tolist(), abs=1e-5)


def test_a_stopped_run_that_was_gone_on_with_equals_one_that_was_not(tmp_path):
    recipe = RECIPE.model_copy(update={"epochs": 2, "cycles": 2, "hidden_share": 0.2})
    whole = trainer(RunFolder(tmp_path / "whole"), recipe).run()
    folder = RunFolder(tmp_path / "stopped")
    with pytest.raises(Stopped):
        trainer(folder, recipe, Interrupting(objective_of(recipe), 13)).run()
    again = trainer(folder, recipe).run()
    assert same_weights(whole, again)
    assert (whole / "genres.json").read_text() == (again / "genres.json").read_text()


def test_the_loss_counts_plots_of_rare_genres_more():
    objective = objective_of()
    batch = objective.batch(0, 0)
    with torch.no_grad():
        logits = objective.module.eval()(batch.inputs, batch.lengths)
        found = float(objective.loss(objective.module, batch, 0))
    p, truth = 1 / (1 + np.exp(-logits.double().numpy())), batch.targets.numpy()
    weights = objective.weights.numpy()
    assert min(weights) == 1.0
    assert max(weights) == 3.0
    assert found == pytest.approx(-(weights * truth * np.log(p) + (1 - truth) * np.log(1 - p)).sum(), rel=1e-5)


def test_to_begin_with_every_plot_is_of_each_genre_as_likely_as_plots_are():
    objective = objective_of(RECIPE.model_copy(update={"largest_weight": 1.0}))
    torch.nn.init.zeros_(objective.module.head.weight)
    assert objective.probabilities()[0] == pytest.approx(DATA.train.truth.mean(0), abs=1e-6)


def test_that_share_of_the_tokens_is_hidden_others_in_every_epoch_and_never_the_frame():
    shown, hiding = objective_of(), objective_of(RECIPE.model_copy(update={"hidden_share": 0.3}))
    first, again, later = hiding.batch(0, 1), hiding.batch(0, 1), hiding.batch(1, 1)
    whole = shown.batch(0, 1)
    hidden = first.inputs != whole.inputs
    assert torch.equal(first.inputs, again.inputs)
    assert set(first.inputs[hidden].tolist()) == {hiding.tokenizer.mask}
    assert not hidden[:, 0].any()
    assert 0.1 < hidden.float().mean() < 0.4
    assert not torch.equal(later.inputs, shown.batch(1, 1).inputs)
    assert all(torch.equal(batch.inputs[:, 0], whole.inputs[:, 0]) for batch in (first, later))


def test_an_epoch_shows_every_plot_once_beside_plots_of_like_length():
    objective = objective_of()
    batches = [objective.batch(3, index) for index in range(objective.steps_per_epoch)]
    lengths = [batch.lengths.tolist() for batch in batches if batch.lengths is not None]
    assert sorted(length for batch in lengths for length in batch) == sorted(map(len, objective.train))
    spread = [max(batch) - min(batch) for batch in lengths]
    assert sum(spread) / len(spread) <= 1
    assert lengths != sorted(lengths)
    assert not torch.equal(batches[0].inputs, objective.batch(4, 0).inputs)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_checkpoint_of_another_task_is_where_training_begins(family, encoder_tokenizer, tmp_path):
    name = {"bert": "Bert", "roberta": "Roberta"}[family]
    tokenizer = encoder_tokenizer(family)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    getattr(transformers, f"{name}ForMaskedLM")(config).save_pretrained(tmp_path / "base")
    tokenizer.save(str(tmp_path / "base" / "tokenizer.json"))
    recipe = GenresRecipe(model=str(tmp_path / "base"), epochs=3, batch_rows=40, block_tokens=32)
    objective = objective_of(recipe)
    before = {key: weight.clone() for key, weight in objective.module.state_dict().items()}
    assert len(objective.train[0]) <= 32
    first = trainer(RunFolder(tmp_path / "run"), recipe, Interrupting(objective, objective.steps_per_epoch - 1))
    with pytest.raises(Stopped):
        first.run()
    after = objective.module.state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"pool", "head"}  # the rest is frozen in the first cycle
    done = trainer(RunFolder.of_existing(tmp_path / "run"), recipe).run()
    last = read_checkpoint(done)
    assert last is not None
    assert not torch.equal(before["blocks.1.up.weight"], last.weights["blocks.1.up.weight"])
    assert json.loads((done / RUN).read_text())["family"] == family


@given(st.integers(1, 5), st.integers(3, 300), st.integers(1, 14), st.data())
def test_rates_rise_and_fall_in_every_cycle_and_reach_the_embeddings_in_the_last(cycles, steps, deepest, data):
    recipe = GenresRecipe(cycles=cycles)
    step = data.draw(st.integers(0, steps))
    shares = [rate_share(recipe, steps, step, depth=depth, deepest=deepest) for depth in range(deepest + 1)]
    assert all(share >= 0 for share in shares)
    body = shares[1:]
    assert body == sorted(body, reverse=True)  # lower layers learn no faster
    if cycles > 1 and step / steps < 1 / cycles:
        assert set(body) == {0.0}
    if step * cycles // steps == cycles - 1 and 0 < step * cycles / steps - (cycles - 1) < 1:
        assert all(share > 0 for share in body)


def test_a_tokenizer_trained_twice_gives_the_same_ids_and_reads_every_text_framed():
    first, second = (train_encoder_tokenizer(DATA.train.texts, 300) for _ in range(2))
    tokens = first.encode("The SOLDIER's wedding, and ünknown things")
    assert tokens == second.encode("the soldier's wedding, and ünknown things")
    assert (tokens[0], tokens[-1]) == (0, 2)
    assert first.encode("soldier")[1:-1] == first.encode("the soldier")[2:-1]


def test_thresholds_may_be_searched_for_each_genre(tmp_path):
    recipe = RECIPE.model_copy(update={"epochs": 1, "thresholds": "each"})
    done = trainer(RunFolder(tmp_path / "run"), recipe).run()
    labels = RunDescription.model_validate_json((done / RUN).read_bytes()).labels
    assert labels is not None
    assert len(labels.thresholds) == 3


def test_a_run_ends_where_nothing_gets_better(tmp_path):
    recipe = RECIPE.model_copy(update={"epochs": 60, "stop_after": 1, "learning_rate": 0.05})
    done = trainer(RunFolder(tmp_path / "run"), recipe).run()
    steps = max(line["step"] for line in map(json.loads, (done / "metrics.jsonl").read_text().splitlines()))
    assert steps < 60 * 15
    # Going on with it changes nothing.
    kept = (done / WEIGHTS).read_bytes()
    trainer(RunFolder.of_existing(done), recipe).run()
    assert (done / WEIGHTS).read_bytes() == kept

"""The demo's classifier is useful: its genres are those of texts that it has not seen."""

from __future__ import annotations

import json

import numpy as np

from contracts.run import RUN, RunDescription
from training.demo import SYNOPSES, demo_genres_objective
from training.demo_corpus import write_synopses
from training.demo_genres import WORDS, genres_of, label_synopses
from training.genres.scores import best_threshold, judge
from training.run_folder import RunFolder
from training.texts import Texts
from training.trainer import Trainer


def test_every_genre_is_of_some_synopses_and_not_of_all():
    data = label_synopses(write_synopses(SYNOPSES), write_synopses(10, seed=1))
    assert data.genres == tuple(WORDS)
    shares = data.train.truth.mean(0)
    assert all((shares > 0.1) & (shares < 0.65))
    assert genres_of("A witch and a violinist.") == ("Fantasy", "Music")


def test_every_word_is_one_that_synopses_hold():
    synopses = " ".join(write_synopses(2000))
    assert [word for words in WORDS.values() for word in words if word not in synopses] == []


def test_the_demos_genres_are_better_than_chance_on_texts_that_were_not_seen(tmp_path):
    synopses = Texts(write_synopses(SYNOPSES), write_synopses(200, seed=1))
    objective = demo_genres_objective(synopses)
    trainer = Trainer(objective, RunFolder(tmp_path / "run"), device="cpu", show_progress=False, logs=False)
    run = trainer.run()
    truth = objective.data.validation.truth
    often = np.tile(objective.data.train.truth.mean(0), (len(truth), 1))
    chance = judge(often, truth, objective.data.genres, [best_threshold(often, truth)] * len(WORDS))
    labels = RunDescription.model_validate(json.loads((run / RUN).read_text())).labels
    assert labels is not None
    found = judge(objective.probabilities(), truth, labels.names, labels.thresholds)
    assert found.micro_f1 > 0.85 > 0.75 > chance.micro_f1
    assert found.macro_f1 > 0.8 > 0.6 > chance.macro_f1
    assert not (run / "genres.json").exists()  # the report needs libraries that the demo goes without

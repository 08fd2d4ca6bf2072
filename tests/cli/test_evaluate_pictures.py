"""`kamishibai evaluate pictures`: folders and models against real pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from training.demo_faces import draw_faces


def save(folder, faces):
    folder.mkdir()
    for place, face in enumerate(faces):
        Image.fromarray(face).save(folder / f"{place:02}.png")
    return folder


@pytest.fixture
def real(tmp_path):
    return save(tmp_path / "real", draw_faces(40, 48))


def test_a_folder_of_one_face_is_called_collapsed(kamishibai, real, tmp_path):
    one = np.stack([draw_faces(1, 16)[0]] * 12)
    (save(tmp_path / "one", one) / "notes.txt").write_text("not a picture")
    run = kamishibai("evaluate", "pictures", tmp_path / "one", real, "--output", tmp_path / "report")
    assert run.status == 0, run.err
    assert "distance " in run.out
    assert "12 pictures are worth 1.0 different ones" in run.out
    assert "mode collapse: " in run.out
    assert "12 generated pictures against 40 real ones" in run.out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["size"] == 16  # the real ones are looked at as small as the generated ones are
    assert report["generated"]["skipped"] == {"notes.txt": "no picture"}


def test_a_model_of_the_store_is_drawn_with_seeds(kamishibai, store, real, tmp_path):
    reports = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        options = ("--store", store.root, "--count", 70, "--seed", seed, "--device", "cpu")
        run = kamishibai("evaluate", "pictures", "faces", real, "--output", tmp_path / name, *options)
        assert run.status == 0, run.err
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))
    assert reports[0] == reports[1] != reports[2]
    assert reports[0]["generated"] == {"name": "faces", "pictures": 70, "skipped": {}}
    shown = {found["generated"] for part in ("nearest", "others") for found in reports[0]["neighbours"][part]}
    assert all(name.startswith(("seed 3, picture ", "seed 4, picture ")) for name in shown)


@pytest.mark.parametrize(
    ("generated", "said"),
    [
        ("nowhere/at/all", "nowhere/at/all is no folder; give one with pictures, or the name of a model in the store"),
        ("unknown", "unknown"),
        ("lstm", "lstm draws no pictures; its task is text"),
        ("empty", "empty holds no picture that can be read"),
    ],
)
def test_what_cannot_be_judged_is_named(kamishibai, store, real, tmp_path, monkeypatch, generated, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    run = kamishibai("evaluate", "pictures", generated, real, "--output", "report", "--store", store.root)
    assert run.status == 1
    assert said in run.err
    assert not (tmp_path / "report").exists()


def test_a_folder_with_something_else_is_refused_before_anything_is_computed(kamishibai, real, tmp_path):
    run = kamishibai("evaluate", "pictures", real, real, "--output", real)
    assert run.status == 1
    assert "which is of no report; give --output a folder of its own" in run.err

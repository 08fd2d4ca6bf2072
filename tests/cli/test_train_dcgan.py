"""`kamishibai train dcgan` as people use it: a real process, Ctrl-C, wrong input, exported at the end."""

from __future__ import annotations

import signal
import time

import pytest
from PIL import Image
from safetensors.torch import load_file

from contracts.bundle import WEIGHTS
from contracts.store import Store
from tests.cli.test_train import ended, start
from training.demo_faces import draw_faces
from training.journal import read_metrics

TINY = ("--size", 32, "--width", 4, "--latent", 8, "--batch-pictures", 8, "--device", "cpu", "--flips")


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for place, face in enumerate(draw_faces(20, 40)):
        Image.fromarray(face).save(folder / f"{place:02}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_a_run_is_interrupted_gone_on_with_exported_and_used(kamishibai, faces, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    command = ("train", "dcgan", faces, *TINY, "--epochs", 8)
    process = start(*command, "--output", stopped, cwd=tmp_path)
    while not (stopped / "samples" / "epoch-001.png").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    status, said = ended(process)
    assert status == 130, said
    assert "20 pictures; 1 skipped: notes.txt (no picture)" in said
    assert f"go on with: kamishibai train dcgan --resume {stopped}" in said
    assert "Traceback" not in said
    assert (stopped / "skipped.txt").read_text() == "notes.txt: no picture\n"
    status, said = ended(start("train", "dcgan", "--resume", stopped, "--device", "cpu", cwd=tmp_path))
    assert status == 0, said
    done = kamishibai(*command, "--output", whole)
    assert done.status == 0, done.err
    assert f"serve it with: kamishibai export {whole} --name whole" in done.out
    first, second = load_file(whole / WEIGHTS), load_file(stopped / WEIGHTS)
    assert all(first[name].equal(second[name]) for name in first)
    assert read_metrics(whole) == read_metrics(stopped)
    for name in ("animation.gif", "samples/epoch-001.png", "samples/epoch-008.png"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()
    store = tmp_path / "store"
    assert kamishibai("export", whole, "--name", "tiny", "--store", store, "--formats", "pytorch").status == 0
    assert Store(store).open("tiny").manifest.family == "dcgan"
    drawn = kamishibai("generate", "tiny", "--store", store, "--seed", 1, "--n", 4, "--out", tmp_path / "four.png")
    assert "4 pictures of 32x32, seed 1" in drawn.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Give FOLDER to train on, or --resume RUN"),
        (("missing",), "missing"),
        (("faces/notes.txt",), "is no folder; give one with pictures"),
        (("faces", "--size", "48"), "'size' is 48: it must be 32, 64 or 128"),
        (("faces", "--size", "32"), "20 pictures are no batch of 128; give more of them, or --batch-pictures 20"),
        (("faces", "--ema-decay", "1"), "'ema_decay' is 1.0"),
        (("faces", "--find-learning-rate"), "No such option"),
    ],
)
def test_wrong_input_is_named(kamishibai, faces, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    run = kamishibai("train", "dcgan", *arguments)
    assert run.status != 0
    assert said in run.err
    assert "Traceback" not in run.err
    assert not (tmp_path / "runs").exists()


def test_a_run_is_not_gone_on_with_on_other_pictures(kamishibai, faces, tmp_path):
    run = tmp_path / "run"
    assert kamishibai("train", "dcgan", faces, "--output", run, *TINY, "--epochs", 1).status == 0
    again = kamishibai("train", "dcgan", "--resume", run)
    assert (again.status, again.err.count("Error")) == (0, 0)
    (faces / "07.png").rename(faces / "77.png")
    renamed = kamishibai("train", "dcgan", "--resume", run)
    assert "is not what this run began with: it has been changed" in renamed.err

"""`kamishibai train` as people use it: real processes, Ctrl-C, wrong input, exported at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from contracts.bundle import WEIGHTS
from contracts.store import Store
from training.data.records import PlotRecord, SynopsisRecord, write_records
from training.demo_corpus import write_synopses
from training.journal import read_metrics

TINY = ("--layers", "16", "--layout", "rows", "--batch-rows", "4", "--chunk-tokens", "16", "--device", "cpu")
SCRATCH = ("--model", "scratch", "--width", "32", "--blocks", "1", "--heads", "2", "--vocabulary-size", "300")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(write_synopses(20)))
    return path


def start(*arguments: object, cwd: Path, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, "-m", "cli.main", *map(str, arguments)]
    path = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def test_a_run_is_interrupted_gone_on_with_exported_and_used(kamishibai, corpus, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    epochs = ("--epochs", "6", "--dropout", "0.2")
    process = start("train", "char-lstm", corpus, "--output", stopped, *TINY, *epochs, cwd=tmp_path)
    while not (stopped / "samples" / "epoch-001.txt").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    status, said = ended(process)
    assert status == 130, said
    assert f"go on with: kamishibai train char-lstm --resume {stopped}" in said
    assert "Traceback" not in said
    status, said = ended(start("train", "char-lstm", "--resume", stopped, "--device", "cpu", cwd=tmp_path))
    assert status == 0, said
    done = kamishibai("train", "char-lstm", corpus, "--output", whole, *TINY, *epochs)
    assert done.status == 0, done.err
    assert f"serve it with: kamishibai export {whole} --name whole" in done.out
    first, second = load_file(whole / WEIGHTS), load_file(stopped / WEIGHTS)
    assert all(first[name].equal(second[name]) for name in first)
    assert read_metrics(whole) == read_metrics(stopped)
    store = tmp_path / "store"
    assert kamishibai("export", whole, "--name", "tiny", "--store", store, "--formats", "pytorch").status == 0
    assert Store(store).open("tiny").manifest.family == "lstm"
    written = kamishibai("generate", "tiny", "--store", store, "--prompt", "The ", "--seed", "1", "--max-tokens", "20")
    assert written.out.startswith("The ")


def test_gpt2_takes_records_a_recipe_file_and_flags(kamishibai, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [
        SynopsisRecord(title=f"T{n}", text=text, genres=[], split="train") for n, text in enumerate(write_synopses(12))
    ]
    records.append(SynopsisRecord(title="V", text=write_synopses(1, seed=1)[0], genres=[], split="validation"))
    write_records(tmp_path / "synopses.jsonl", records)
    (tmp_path / "recipe.toml").write_text("epochs = 3\nbatch-rows = 6\ncontext-tokens = 300\n")
    run = kamishibai(
        "train", "gpt2", "synopses.jsonl", "--recipe", "recipe.toml", *SCRATCH, "--batch-rows", "4", "--device", "cpu"
    )
    assert run.status == 0, run.err
    folder = tmp_path / "runs" / "synopses-gpt2"
    assert max(line["step"] for line in read_metrics(folder)) == 3 * 3
    found = kamishibai("train", "gpt2", "synopses.jsonl", "--output", "rate", *SCRATCH, "--find-learning-rate")
    assert "the loss falls fastest at a learning rate of" in found.out
    assert [path.name for path in (tmp_path / "rate").iterdir()] == ["learning-rate.png"]


@pytest.mark.long
def test_two_processes_learn_what_one_learns(corpus, tmp_path):
    arguments: list[object] = [
        "train",
        "gpt2",
        corpus,
        *SCRATCH,
        "--block-tokens",
        32,
        "--batch-rows",
        6,
        "--epochs",
        2,
    ]
    arguments += ["--dropout", 0, "--learning-rate", 0.003, "--device", "cpu"]
    status, said = ended(start(*arguments, "--output", tmp_path / "one", cwd=tmp_path))
    assert status == 0, said
    # `accelerate launch --cpu` starts one process, whatever number it is given.
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launcher += ["--tee", "3", "--log-dir", str(tmp_path / "logs")]
    two = start(*arguments, "--output", tmp_path / "two", cwd=tmp_path, launcher=launcher)
    status, said = ended(two)
    assert status == 0, said
    assert sorted(path.name for path in (tmp_path / "logs").glob("*/attempt_0/*")) == ["0", "1"]
    losses, others = (
        [line.get("loss", line.get("validation_loss")) for line in read_metrics(tmp_path / name)]
        for name in ("one", "two")
    )
    assert losses == pytest.approx(others, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Give DATA to train on, or --resume RUN"),
        (("missing.txt",), "missing.txt"),
        (("corpus.txt", "--epochs", "0"), "'epochs' is 0"),
        (("corpus.txt", "--layers", "12,x"), "'12,x' is not a list of whole numbers like 128,128"),
        (("corpus.txt", "--layout", "columns"), "'columns' is not one of 'windows', 'rows'"),
        (("corpus.txt", "--output", "taken"), "taken exists already: go on with it (--resume), remove it"),
        (("--resume", "taken"), "taken is not the folder of a run that can be gone on with"),
        (("--resume", "taken", "--epochs", "3"), "--resume goes on with a run's own data and recipe"),
        (("corpus.txt", "--recipe", "bad.toml"), "'layer' is not a field of this recipe"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(kamishibai, corpus, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "bad.toml").write_text("layer = [3]\n")
    run = kamishibai("train", "char-lstm", *arguments)
    assert run.status != 0
    assert said in run.err
    assert "Traceback" not in run.err
    assert not (tmp_path / "runs").exists()
    assert list((tmp_path / "taken").iterdir()) == []


def test_a_run_is_not_gone_on_with_as_another_kind_or_on_other_data(kamishibai, corpus, tmp_path):
    run = tmp_path / "run"
    assert kamishibai("train", "char-lstm", corpus, "--output", run, *TINY, "--epochs", "1").status == 0
    other = kamishibai("train", "gpt2", "--resume", run)
    assert f"trains a char-lstm; go on with: kamishibai train char-lstm --resume {run}" in other.err
    corpus.write_text(corpus.read_text() + " More.")
    changed = kamishibai("train", "char-lstm", "--resume", run)
    assert "is not what this run began with: it has been changed" in changed.err


def test_genres_are_trained_from_scratch_with_defaults_for_that(kamishibai, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {"War": "soldiers fight a battle", "Romance": "lovers meet and marry"}
    records = [
        PlotRecord(title=f"T{n}", primary=f"T{n}", plot=f"{text} number {n}", genres=[genre], split=split)
        for split, count in (("train", 40), ("validation", 6))
        for n in range(count)
        for genre, text in words.items()
    ]
    write_records(tmp_path / "plots.jsonl", records)
    sizes = ["--width", "32", "--blocks", "1", "--heads", "2", "--vocabulary-size", "400", "--device", "cpu"]
    sizes += ["--learning-rate", "0.005", "--batch-rows", "8"]
    run = kamishibai("train", "genres", "plots.jsonl", "--model", "scratch", *sizes, "--output", "run")
    assert run.status == 0, run.err
    assert "micro" in run.err
    assert "BASELINE F1" in run.err
    assert kamishibai("export", "run", "--name", "genres", "--formats", "pytorch").status == 0
    said = kamishibai("classify", "genres", "soldiers fight a battle number 7", "--json", "--top-k", "1").out
    assert json.loads(said)["scores"][0]["label"] == "War"

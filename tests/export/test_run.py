"""What training leaves becomes a bundle that serves the same weights; damage is found before and after."""

import json
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from contracts.bundle import TOKENIZER, WEIGHTS, Bundle
from contracts.errors import StoreError
from contracts.run import RUN, RunDescription
from contracts.tokenizers import CharacterTokenizer
from export.run import export_run
from models.dcgan import DcganConfig, generator
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes.pytorch import load_images, load_text

CPU = torch.device("cpu")


def _write(folder, description, weights, tokenizer=None):
    folder.mkdir()
    (folder / RUN).write_text(description.model_dump_json())
    save_file(weights, folder / WEIGHTS)
    if tokenizer:
        tokenizer.write(folder / TOKENIZER)
    return folder


@pytest.fixture
def run(tmp_path):
    description = RunDescription(
        family="lstm",
        task="text",
        config={"vocabulary_size": 4, "layers": [8, 6]},
        tokenizer="characters",
        hyperparameters={"steps": 3},
        metrics={"loss": 1.25},
        example_prompt="abc",
    )
    model = LstmLanguageModel(LstmConfig(4, (8, 6)))
    return _write(tmp_path / "run", description, model.state_dict(), CharacterTokenizer("abc\n"))


def test_a_bundle_holds_the_weights_and_the_story_of_its_run(run, store):
    bundle = export_run(run, store, "letters")
    weights, trained = load_file(bundle.path / WEIGHTS), load_file(run / WEIGHTS)
    assert weights.keys() == trained.keys()
    assert all(torch.equal(weights[name], trained[name]) for name in trained)
    assert bundle.manifest.provenance["metrics"] == {"loss": 1.25}
    assert bundle.manifest.provenance["hyperparameters"] == {"steps": 3}
    assert set(bundle.manifest.provenance["sha256"]) == {RUN, WEIGHTS, TOKENIZER}
    assert bundle.manifest.example.prompt == "abc"
    assert bundle.tokenizer().encode("cab") == [2, 0, 1]
    assert load_text(bundle, CPU).decode([0] * 4, [0] * 4, [True] * 4).shape == (4, 4)


def test_what_the_training_has_drawn_comes_along_and_nothing_else(run, store, monkeypatch):
    monkeypatch.setattr("export.run.MOST_REPORT_BYTES", 10)
    (run / "loss.png").write_bytes(b"curve")
    (run / "animation.gif").write_bytes(b"far too large")
    (run / "metrics.jsonl").write_bytes(b"")
    (run / "samples").mkdir()
    for epoch in (1, 2):
        (run / "samples" / f"epoch-00{epoch}.png").write_bytes(b"%d" % epoch)
    bundle = export_run(run, store, "letters")
    assert bundle.manifest.reports == ["epoch-002.png", "loss.png"]
    assert (bundle.path / "loss.png").read_bytes() == b"curve"
    assert "metrics.jsonl" not in bundle.manifest.files


def test_a_picture_run_becomes_a_bundle_without_tokenizer(tmp_path, store):
    config = DcganConfig(size=8, latent=5, width=4)
    description = RunDescription(family="dcgan", task="image", config=vars(config), hyperparameters={}, metrics={})
    bundle = export_run(_write(tmp_path / "run", description, generator(config).state_dict()), store, "faces")
    assert bundle.manifest.limits.picture_pixels == (8, 8)
    assert bundle.manifest.tokenizer is None
    assert load_images(bundle, CPU).draw(torch.zeros(2, 5)).shape == (2, 8, 8, 3)


@pytest.mark.parametrize("name", [WEIGHTS, TOKENIZER])
def test_a_flipped_byte_is_found_when_the_bundle_is_opened(run, store, name):
    path = export_run(run, store, "letters").path
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(StoreError, match=f"{name} was changed"):
        Bundle.open(path)


REFUSALS = {
    "family": ({"family": "rnn"}, "family"),
    "config": ({"config": {"layer": 3}}, "does not fit the family 'lstm'"),
    "config of another type": ({"config": {"vocabulary_size": "4", "layers": [8]}}, "its sizes are whole numbers"),
    "no layer": ({"config": {"vocabulary_size": 4, "layers": []}}, "one layer or more"),
    "a layer of nothing": ({"config": {"vocabulary_size": 4, "layers": [8, 0]}}, "whole numbers from 1 on"),
    "half a window": ({"config": {"vocabulary_size": 4, "layers": [8, 6], "window": 2.5}}, "whole numbers from 1 on"),
    "an embedding of nothing": (
        {"config": {"vocabulary_size": 4, "layers": [8, 6], "embedding": 0}},
        "whole numbers from 1 on",
    ),
    "activation": (
        {"config": {"vocabulary_size": 4, "layers": [8, 6], "recurrent_activation": "relu"}},
        "recurrent_activation is 'relu'",
    ),
    "other sizes": ({"config": {"vocabulary_size": 4, "layers": [8, 7]}}, "layers.1.weight_hh_l0 is"),
    "other vocabulary": ({"config": {"vocabulary_size": 5, "layers": [8, 6]}}, "tokenizer has 4 tokens"),
    "no tokenizer": ({"tokenizer": None}, "needs a tokenizer"),
    "no prompt": ({"example_prompt": None}, "example prompt None"),
    "unknown prompt": ({"example_prompt": "xyz"}, "example prompt 'xyz'"),
    "unknown field": ({"colour": "red"}, "'colour' is not a field"),
}


@pytest.mark.parametrize(("change", "fault"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_run_that_does_not_fit_is_refused_by_name(run, store, change, fault):
    description = json.loads((run / RUN).read_text())
    (run / RUN).write_text(json.dumps(description | change))
    with pytest.raises(StoreError, match=fault):
        export_run(run, store, "letters")
    assert store.names() == []


@pytest.mark.parametrize("missing", [RUN, WEIGHTS, TOKENIZER])
def test_a_missing_file_is_named(run, store, missing):
    (run / missing).unlink()
    with pytest.raises(StoreError, match=missing):
        export_run(run, store, "letters")


def test_a_bad_name_is_refused(run, store):
    with pytest.raises(StoreError, match="cannot name a model"):
        export_run(run, store, "../letters")


@pytest.mark.parametrize(
    ("most_bytes", "unwritten"), [(1000, WEIGHTS), (2500, "fp32.onnx"), (6000, "fp32.torchscript")]
)
def test_a_full_disk_leaves_the_versions_that_were_there(run, store, most_bytes, unwritten):
    """A limit on the size of files stands in for the disk: writing fails half-way, reading goes on."""
    export_run(run, store, "letters")
    limited = (
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}));"
        " runpy.run_module('cli.main', run_name='__main__')"
    )
    words = ["export", str(run), "--name", "letters", "--store", str(store.root)]
    words += ["--formats", "onnx,torchscript", "--precisions", "fp32"]
    ended = subprocess.run([sys.executable, "-c", limited, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert unwritten in ended.stderr or "File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert store.versions("letters") == [1]
    assert not list(store.root.glob(".incoming-*"))
    assert export_run(run, store, "letters").manifest.version == 2


def test_an_export_that_is_killed_midway_leaves_the_versions_that_were_there(run, store):
    export_run(run, store, "letters")
    words = ["export", str(run), "--name", "letters", "--store", str(store.root)]
    with subprocess.Popen([sys.executable, "-m", "cli.main", *words], stderr=subprocess.DEVNULL) as exporter:
        while not list(store.root.glob(f".incoming-*/{WEIGHTS}")):
            assert exporter.poll() is None, "it was over too soon"
            time.sleep(0.001)
        exporter.kill()
    assert store.versions("letters") == [1]
    assert store.open("letters").manifest.version == 1
    assert export_run(run, store, "letters").manifest.version == 2

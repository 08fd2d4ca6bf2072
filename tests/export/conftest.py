"""Sources to import: a tiny tf.js model and a tiny Hugging Face checkpoint, and the numpy reference of the first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from contracts.store import Store
from training.gpt2 import train_tokenizer

WINDOW = 5
UNITS = (8, 6)


@dataclass
class TfjsModel:
    """A model on disk and in memory; `save` writes what was changed."""

    folder: Path
    corpus: Path
    topology: dict[str, Any]
    weights: dict[str, NDArray[np.float32]]

    @property
    def layers(self) -> list[dict[str, Any]]:
        layers: list[dict[str, Any]] = self.topology["modelTopology"]["config"]
        return layers

    def save(self) -> None:
        (self.folder / "model.json").write_text(json.dumps(self.topology))

    def logits(self, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Keras' definition: windows (count, time) -> logits (count, characters) after each, in fp64."""
        inputs = np.eye(self.layers[-1]["config"]["units"])[windows]  # (count, time, width)
        for layer in self.layers[:-1]:
            inputs = self._run_lstm(layer["config"], inputs)
        dense = self.layers[-1]["config"]["name"]
        return inputs[:, -1] @ self.weights[f"{dense}/kernel"] + self.weights[f"{dense}/bias"]

    def _run_lstm(self, config: dict[str, Any], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        kernel, recurrent, bias = (
            self.weights[f"{config['name']}/{part}"].astype(np.float64)
            for part in ("kernel", "recurrent_kernel", "bias")
        )
        h = c = np.zeros((len(inputs), config["units"]))
        outputs = []
        for time in range(inputs.shape[1]):
            i, f, g, o = np.split(inputs[:, time] @ kernel + h @ recurrent + bias, 4, axis=-1)
            c = _hard_sigmoid(f) * c + _hard_sigmoid(i) * np.tanh(g)
            h = _hard_sigmoid(o) * np.tanh(c)
            outputs.append(h)
        return np.stack(outputs, axis=1)


def _hard_sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(0.2 * x + 0.5, 0, 1)


def _read_tfjs(folder: Path, corpus: Path) -> TfjsModel:
    topology = json.loads((folder / "model.json").read_text())
    (group,) = topology["weightsManifest"]
    values = np.frombuffer(b"".join((folder / path).read_bytes() for path in group["paths"]), dtype="<f4")
    weights = {}
    for weight in group["weights"]:
        count = int(np.prod(weight["shape"]))
        weights[weight["name"]], values = values[:count].reshape(weight["shape"]), values[count:]
    return TfjsModel(folder, corpus, topology, weights)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def tfjs(tmp_path: Path) -> TfjsModel:
    """Two LSTM layers with random weights over the eight characters of "Hello world", cut into two files."""
    random = np.random.default_rng(12)
    folder, corpus = tmp_path / "tfjs", tmp_path / "corpus.txt"
    folder.mkdir()
    corpus.write_text("Hello world" * 3)
    characters = len(set(corpus.read_text()))
    layers: list[dict[str, Any]] = []
    shapes: dict[str, list[int]] = {}
    width = characters
    for index, units in enumerate(UNITS):
        config = {
            "name": f"lstm_{index}",
            "units": units,
            "activation": "tanh",
            "recurrent_activation": "hard_sigmoid",
            "use_bias": True,
            "return_sequences": index < len(UNITS) - 1,
            "dropout": 0,
        }
        layers.append({"class_name": "LSTM", "config": config})
        shapes |= {
            f"lstm_{index}/kernel": [width, 4 * units],
            f"lstm_{index}/recurrent_kernel": [units, 4 * units],
            f"lstm_{index}/bias": [4 * units],
        }
        width = units
    layers[0]["config"]["batch_input_shape"] = [None, WINDOW, characters]
    dense = {"name": "dense", "units": characters, "activation": "softmax", "use_bias": True}
    layers.append({"class_name": "Dense", "config": dense})
    shapes |= {"dense/kernel": [width, characters], "dense/bias": [characters]}
    values = b"".join((random.normal(size=shape) * 1.5).astype("<f4").tobytes() for shape in shapes.values())
    (folder / "a.bin").write_bytes(values[:1001])
    (folder / "b.bin").write_bytes(values[1001:])
    entries = [{"name": name, "shape": shape, "dtype": "float32"} for name, shape in shapes.items()]
    topology = {
        "modelTopology": {"class_name": "Sequential", "config": layers, "keras_version": "tfjs-layers 1.2.2"},
        "weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": entries}],
    }
    (folder / "model.json").write_text(json.dumps(topology))
    return _read_tfjs(folder, corpus)


@pytest.fixture
def shakespeare(data_folder: Path) -> TfjsModel:
    """The trained model among the real data."""
    return _read_tfjs(data_folder / "tfjs_shakespeare_lstm", data_folder / "oveddan_shakespeare.txt")


@pytest.fixture(scope="session")
def saved_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 as `save_pretrained` writes it, with a tokenizer; not to be changed."""
    transformers.utils.logging.set_verbosity_error()
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = train_tokenizer(["the old castle town by the sea", "Once upon a time"] * 4, 290)
    config = transformers.GPT2Config(
        vocab_size=tokenizer.vocabulary_size, n_positions=32, n_embd=16, n_layer=2, n_head=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(13)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.write(folder / "tokenizer.json")
    return folder


@pytest.fixture
def checkpoint(saved_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may change."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in saved_checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder

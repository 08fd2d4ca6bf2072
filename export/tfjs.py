"""A tf.js layers model becomes a bundle: stacked LSTM layers and a softmax over one-hot characters.

Such a model predicts each character from a window of fixed length that starts from the zero state. Keras kernels are
(inputs, 4 x units) with the gates in PyTorch's order, and one bias per layer.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from contracts.bundle import Bundle, sha256_of
from contracts.errors import StoreError
from contracts.requests import MAX_COUNT, MAX_SEED
from contracts.store import Store
from contracts.tokenizers import CharacterTokenizer
from export.draft import Draft
from export.formats import Wishes
from models.lstm import LstmConfig
from models.pretrained.source import Source, read_json

Array = NDArray[np.float32]
Size = Annotated[int, Field(ge=1, le=MAX_COUNT)]


class _Part(BaseModel):
    """A part of model.json: what changes the numbers is checked, the rest (names, initialisers, dropout) is ignored."""

    model_config = ConfigDict(frozen=True, strict=True)


class _LstmSettings(_Part):
    name: str
    units: Size
    activation: Literal["tanh"]
    recurrent_activation: Literal["sigmoid", "hard_sigmoid"]
    use_bias: Literal[True]
    return_sequences: bool
    return_state: Literal[False] = False
    go_backwards: Literal[False] = False
    stateful: Literal[False] = False
    batch_input_shape: Annotated[list[int | None], Field(min_length=3, max_length=3)] | None = None


class _DenseSettings(_Part):
    name: str
    units: Size
    activation: Literal["softmax"]
    use_bias: Literal[True]


class _LstmLayer(_Part):
    class_name: Literal["LSTM"]
    config: _LstmSettings


class _DenseLayer(_Part):
    class_name: Literal["Dense"]
    config: _DenseSettings


class _Topology(_Part):
    class_name: Literal["Sequential"]
    config: list[Annotated[_LstmLayer | _DenseLayer, Field(discriminator="class_name")]]

    @model_validator(mode="before")
    @classmethod
    def _layers_in_a_list(cls, data: Any) -> Any:
        """Later versions of tf.js write {"name": ..., "layers": [...]} where the first ones wrote the list."""
        if isinstance(data, dict) and isinstance(data.get("config"), dict):
            return {**data, "config": data["config"].get("layers")}
        return data


class _Weight(_Part):
    name: str
    shape: Annotated[list[Annotated[int, Field(ge=1, le=MAX_SEED)]], Field(max_length=8)]
    dtype: Literal["float32"]
    quantization: None = None

    @property
    def values(self) -> int:
        return math.prod(self.shape)


class _WeightGroup(_Part):
    paths: list[str]
    weights: list[_Weight]


class _Model(_Part):
    topology: _Topology = Field(alias="modelTopology")
    groups: list[_WeightGroup] = Field(alias="weightsManifest")


def import_tfjs(folder: Path, corpus: Path, store: Store, name: str, wishes: Wishes | None = None) -> Bundle:
    """The next version of model `name`, from model.json and its weight files in `folder`.

    The model's characters are those of `corpus`, in order of first appearance. Raises StoreError for models of another
    kind, damaged files and a corpus with another number of characters.
    """
    source = Source(folder)
    model = read_json(_Model, source.file("model.json"))
    lstms, dense = _stack(model.topology)
    config = _config(lstms, dense)
    text = _read_corpus(corpus)
    characters = "".join(dict.fromkeys(text))
    if len(characters) != config.vocabulary_size:
        raise StoreError(
            f"{corpus} has {len(characters)} different characters, the model {config.vocabulary_size}: "
            "give the text that it was trained on"
        )
    draft = Draft(
        config=config,
        weights=_weights(lstms, dense, _read_arrays(source, model.groups)),
        tokenizer=CharacterTokenizer(characters),
        example_prompt=text[: config.window],
        provenance={"source": "tfjs", "sha256": source.digests, "corpus_sha256": sha256_of(corpus)},
    )
    return draft.publish(store, name, wishes)


def _stack(topology: _Topology) -> tuple[list[_LstmSettings], _DenseSettings]:
    """LSTM layers that hand on sequences, the last one its last output, and one dense layer."""
    lstms = [layer.config for layer in topology.config if isinstance(layer, _LstmLayer)]
    denses = [layer.config for layer in topology.config if isinstance(layer, _DenseLayer)]
    kinds = [layer.class_name for layer in topology.config]
    if not lstms or kinds != ["LSTM"] * len(lstms) + ["Dense"]:
        raise StoreError(
            f"the layers are {', '.join(kinds) or 'none'}: only LSTM layers and then one Dense can be used"
        )
    if [lstm.return_sequences for lstm in lstms] != [True] * (len(lstms) - 1) + [False]:
        raise StoreError("return_sequences must be true for every LSTM layer but the last, and false for that one")
    return lstms, denses[0]


def _config(lstms: list[_LstmSettings], dense: _DenseSettings) -> LstmConfig:
    activations = {lstm.recurrent_activation for lstm in lstms}
    if len(activations) > 1:
        raise StoreError("recurrent_activation differs between the LSTM layers; it must be the same in all of them")
    shape = lstms[0].batch_input_shape
    _, window, vocabulary = shape or (None, None, None)
    if not window or window < 1 or vocabulary != dense.units:
        raise StoreError(
            f"batch_input_shape of the first layer is {shape}: it must be [null, window, {dense.units}], "
            "since the output has that many characters"
        )
    try:
        return LstmConfig(
            vocabulary_size=dense.units,
            layers=tuple(lstm.units for lstm in lstms),
            recurrent_activation=activations.pop(),
            window=window,
        )
    except ValueError as error:
        raise StoreError(f"batch_input_shape of the first layer is {shape}: {error}") from None


def _read_corpus(corpus: Path) -> str:
    try:
        return corpus.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"the corpus {corpus} cannot be read as UTF-8 text: {error}") from None


def _read_arrays(source: Source, groups: list[_WeightGroup]) -> dict[str, Array]:
    """All weights by name. A group's files hold its weights one after another, cut anywhere."""
    arrays: dict[str, Array] = {}
    paths = [path for group in groups for path in group.paths]
    if len(set(paths)) < len(paths):
        raise StoreError("model.json names a file of weights twice")
    for group in groups:
        content = b"".join(source.file(path).read_bytes() for path in group.paths)
        needed = 4 * sum(weight.values for weight in group.weights)
        if len(content) != needed:
            files = ", ".join(group.paths) or "no files"
            raise StoreError(f"{files} in {source.folder} hold {len(content)} bytes; model.json says {needed}")
        values = np.frombuffer(content, dtype="<f4")
        for weight in group.weights:
            arrays[weight.name] = values[: weight.values].reshape(weight.shape)
            values = values[weight.values :]
    return arrays


def _weights(lstms: list[_LstmSettings], dense: _DenseSettings, arrays: dict[str, Array]) -> dict[str, Tensor]:
    """Weights by our names; takes all of `arrays`."""
    weights: dict[str, Tensor] = {}
    for index, lstm in enumerate(lstms):
        bias = _take(arrays, lstm.name, "bias")
        weights[f"layers.{index}.weight_ih_l0"] = _take_kernel(arrays, lstm.name, "kernel")
        weights[f"layers.{index}.weight_hh_l0"] = _take_kernel(arrays, lstm.name, "recurrent_kernel")
        weights[f"layers.{index}.bias_ih_l0"] = bias
        weights[f"layers.{index}.bias_hh_l0"] = torch.zeros_like(bias)
    weights["head.weight"] = _take_kernel(arrays, dense.name, "kernel")
    weights["head.bias"] = _take(arrays, dense.name, "bias")
    if arrays:
        raise StoreError(f"model.json lists weights that no layer has: {', '.join(sorted(arrays))}")
    return weights


def _take(arrays: dict[str, Array], layer: str, weight: str) -> Tensor:
    name = f"{layer}/{weight}"
    if name not in arrays:
        raise StoreError(f"model.json lists no weight {name}")
    return torch.tensor(arrays.pop(name))


def _take_kernel(arrays: dict[str, Array], layer: str, weight: str) -> Tensor:
    """As PyTorch keeps it: (outputs, inputs)."""
    kernel = _take(arrays, layer, weight)
    if kernel.dim() != 2:
        raise StoreError(f"{layer}/{weight} has the shape {list(kernel.shape)}; a kernel has inputs and outputs")
    return kernel.t()

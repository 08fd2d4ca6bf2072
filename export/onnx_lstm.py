"""An LSTM that carries its state as an ONNX graph of one step.

Letters in shapes: R rows, V vocabulary, W wanted logits. Inputs: `tokens` int64 (R,); `active` bool (R, 1), rows whose
state advances; `wanted` int64 (W,), rows that get logits; per layer `past_h.i` and `past_c.i` fp32 (R, layer size).
Outputs: `logits` fp32 (W, V), and `h.i`, `c.i`, which the caller binds to the memory of the inputs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from onnx import TensorProto
from safetensors.torch import load_file, save_file
from torch import Tensor

from contracts.bundle import FP32_GRAPH, GRAPH_WEIGHTS, INT8_GRAPH, INT8_WEIGHTS, WEIGHTS
from contracts.errors import StoreError
from export.onnx_graph import Graph
from export.onnx_linear import Linear, write_int8
from models.lstm import LstmConfig


def write_onnx_lstm(folder: Path, config: LstmConfig) -> None:
    """Writes both graphs and their weights beside the fp32 weights that lie in `folder`.

    Raises StoreError for a model with a window, which has no state to carry.
    """
    if config.window is not None:
        raise StoreError("an LSTM that reads a window of tokens anew for each token has no ONNX variant")
    save_file(_arranged(load_file(folder / WEIGHTS), config), folder / GRAPH_WEIGHTS)
    write_int8(folder, GRAPH_WEIGHTS, lambda name, weight: name.endswith(".weight"))
    for name, int8 in ((FP32_GRAPH, False), (INT8_GRAPH, True)):
        graph = Graph()
        for weights in (WEIGHTS, GRAPH_WEIGHTS, *([INT8_WEIGHTS] if int8 else [])):
            graph.weights_of(folder / weights)
        _Builder(graph, config, Linear(graph, int8)).build()
        graph.save(folder / name)


def _arranged(weights: dict[str, Tensor], config: LstmConfig) -> dict[str, Tensor]:
    """Per layer one matrix for input and state together and a bias, or one for the state and a table of each token.

    Gates are put in the order input, forget, output, cell, so that the three with the same activation are neighbours.
    """
    found = {"head.weight": weights["head.weight"]}
    for layer in range(len(config.layers)):
        parts = {
            name: torch.cat([weights[f"layers.{layer}.{name}_l0"].chunk(4)[gate] for gate in (0, 1, 3, 2)])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        bias = parts["bias_ih"] + parts["bias_hh"]
        if layer == 0 and config.embedding is None:
            found["layers.0.table"] = parts["weight_ih"].t().contiguous() + bias
            found["layers.0.weight"] = parts["weight_hh"]
        else:
            found[f"layers.{layer}.bias"] = bias
            found[f"layers.{layer}.weight"] = torch.cat([parts["weight_ih"], parts["weight_hh"]], 1)
    return found


class _Builder:
    def __init__(self, graph: Graph, config: LstmConfig, linear: Linear) -> None:
        self._graph = graph
        self._config = config
        self._linear = linear

    def build(self) -> None:
        graph, config = self._graph, self._config
        graph.input("tokens", TensorProto.INT64, ["R"])
        graph.input("active", TensorProto.BOOL, ["R", 1])
        wanted = graph.input("wanted", TensorProto.INT64, ["W"])
        x = None
        if config.embedding is not None:
            x = graph.node("Gather", ["embedding.weight", "tokens"], "embedded")
        for layer, size in enumerate(config.layers):
            x = self._layer(x, layer, size)
        product = self._linear.multiply(x or "", "head.weight", "head.product", rows=wanted)
        graph.node("Add", [product, "head.bias"], "logits")
        graph.output("logits", TensorProto.FLOAT, ["W", config.vocabulary_size])

    def _layer(self, x: str | None, layer: int, size: int) -> str:
        """Adds a layer over x (R, width), or over the tokens themselves. Returns its new h."""
        graph, name = self._graph, f"layers.{layer}"
        h, c = (graph.input(f"past_{part}.{layer}", TensorProto.FLOAT, ["R", size]) for part in "hc")
        if x is None:
            product = self._linear.multiply(h, f"{name}.weight", f"{name}.product")
            told = graph.node("Gather", [f"{name}.table", "tokens"], f"{name}.told")
        else:
            together = graph.node("Concat", [x, h], f"{name}.together", axis=1)
            product = self._linear.multiply(together, f"{name}.weight", f"{name}.product")
            told = f"{name}.bias"
        gates = graph.node("Add", [product, told], f"{name}.gates")
        new_h, new_c = self._gated(gates, c, name, size)
        for part, new, old in (("h", new_h, h), ("c", new_c, c)):
            graph.node("Where", ["active", new, old], f"{part}.{layer}")
            graph.output(f"{part}.{layer}", TensorProto.FLOAT, ["R", size])
        return new_h

    def _gated(self, gates: str, c: str, name: str, size: int) -> tuple[str, str]:
        """Gates (R, 4 * size) and cell -> the next h and c."""
        graph = self._graph
        sizes = [graph.integers(f"{name}.open", [3 * size, size]), graph.integers(f"{name}.each", [size] * 3)]
        graph.node("Split", [gates, sizes[0]], f"{name}.pre", more=[f"{name}.cell"], axis=1)
        if self._config.recurrent_activation == "sigmoid":
            opened = graph.node("Sigmoid", [f"{name}.pre"], f"{name}.opened")
        else:
            opened = graph.node("HardSigmoid", [f"{name}.pre"], f"{name}.opened", alpha=0.2, beta=0.5)
        graph.node("Split", [opened, sizes[1]], f"{name}.i", more=[f"{name}.f", f"{name}.o"], axis=1)
        told = graph.node("Mul", [f"{name}.i", graph.node("Tanh", [f"{name}.cell"], f"{name}.g")], f"{name}.ig")
        kept = graph.node("Mul", [f"{name}.f", c], f"{name}.fc")
        new_c = graph.node("Add", [told, kept], f"{name}.c")
        return graph.node("Mul", [f"{name}.o", graph.node("Tanh", [new_c], f"{name}.tanh")], f"{name}.h"), new_c

"""An LSTM as an ONNX graph over any number of rows and tokens.

Letters in shapes: R rows, T time, V vocabulary, W wanted logits. Inputs: `tokens` int64 (R, T); `active` bool (R, T),
where a row's state advances; `wanted` int64 (W,), which of the R * T states, row by row, get logits; per layer
`past_h.i` and `past_c.i` fp32 (R, layer size). Outputs: `logits` fp32 (W, V), and `h.i`, `c.i`, which the caller may
bind to the memory of the inputs. Time is a Scan: the LSTM operator has no form in int8 with a scale per row.
"""

from __future__ import annotations

from pathlib import Path

import torch
from onnx import TensorProto
from safetensors.torch import load_file
from torch import Tensor

from contracts.bundle import GRAPH_WEIGHTS, GRAPHS, INT8_WEIGHTS, WEIGHTS, Precision
from export.onnx_graph import Graph
from export.onnx_linear import Linear, write_int8
from models.lstm import LstmConfig
from models.weights import write_safetensors


def write_onnx_lstm(folder: Path, config: LstmConfig, precision: Precision) -> tuple[str, ...]:
    """Writes a graph and the weights that it needs beside the fp32 weights that lie in `folder`.

    Returns the names of all files of the variant.
    """
    write_safetensors(_arranged(load_file(folder / WEIGHTS), config), folder / GRAPH_WEIGHTS)
    files = [WEIGHTS, GRAPH_WEIGHTS]
    if precision == "int8":
        write_int8(folder, GRAPH_WEIGHTS, lambda name, weight: name.endswith(".weight"))
        files.append(INT8_WEIGHTS)
    graph = Graph()
    for file in files:
        graph.weights_of(folder / file)
    _Builder(graph, config, precision).build()
    graph.save(folder / GRAPHS[precision])
    return (*files, GRAPHS[precision])


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
    def __init__(self, graph: Graph, config: LstmConfig, precision: Precision) -> None:
        self._graph = graph
        self._step = graph.body()
        self._config = config
        self._int8 = precision == "int8"

    def build(self) -> None:
        graph, config = self._graph, self._config
        self._build_step()
        states = [(f"{part}.{layer}", size) for layer, size in enumerate(config.layers) for part in "hc"]
        past = [graph.input(f"past_{name}", TensorProto.FLOAT, ["R", size]) for name, size in states]
        sides: list[str | int] = ["R", "T"]
        read = [graph.input("tokens", TensorProto.INT64, sides), graph.input("active", TensorProto.BOOL, sides)]
        for name, size in states:
            graph.output(name, TensorProto.FLOAT, ["R", size])
        graph.scan(self._step, past + read, [*(name for name, _ in states), "hidden"], read=2, written=1)
        flat = graph.node("Reshape", ["hidden", graph.integers("hidden.shape", [-1, config.layers[-1]])], "hidden.flat")
        wanted = graph.input("wanted", TensorProto.INT64, ["W"])
        product = Linear(graph, self._int8).multiply(flat, "head.weight", "head.product", rows=wanted)
        graph.node("Add", [product, "head.bias"], "logits")
        graph.output("logits", TensorProto.FLOAT, ["W", config.vocabulary_size])

    def _build_step(self) -> None:
        """The body of the loop: one token of every row."""
        step, config = self._step, self._config
        for layer, size in enumerate(config.layers):
            for part in "hc":
                step.input(f"step.past_{part}.{layer}", TensorProto.FLOAT, ["R", size])
        step.input("step.tokens", TensorProto.INT64, ["R"])
        step.input("step.active", TensorProto.BOOL, ["R"])
        step.node("Unsqueeze", ["step.active", step.integers("columns", [-1])], "step.moves")
        x = None
        if config.embedding is not None:
            x = step.node("Gather", ["embedding.weight", "step.tokens"], "step.embedded")
        for layer, size in enumerate(config.layers):
            x = self._layer(x, layer, size)
        step.node("Identity", [x or ""], "step.hidden")
        step.output("step.hidden", TensorProto.FLOAT, ["R", config.layers[-1]])

    def _layer(self, x: str | None, layer: int, size: int) -> str:
        """Adds a layer over x (R, width), or over the tokens themselves. Returns its new h."""
        step, name, linear = self._step, f"layers.{layer}", Linear(self._step, self._int8)
        h, c = f"step.past_h.{layer}", f"step.past_c.{layer}"
        if x is None:
            product = linear.multiply(h, f"{name}.weight", f"{name}.product")
            told = step.node("Gather", [f"{name}.table", "step.tokens"], f"{name}.told")
        else:
            together = step.node("Concat", [x, h], f"{name}.together", axis=1)
            product = linear.multiply(together, f"{name}.weight", f"{name}.product")
            told = f"{name}.bias"
        gates = step.node("Add", [product, told], f"{name}.gates")
        new_h, new_c = self._gated(gates, c, name, size)
        for part, new, old in (("h", new_h, h), ("c", new_c, c)):
            step.node("Where", ["step.moves", new, old], f"step.{part}.{layer}")
            step.output(f"step.{part}.{layer}", TensorProto.FLOAT, ["R", size])
        return new_h

    def _gated(self, gates: str, c: str, name: str, size: int) -> tuple[str, str]:
        """Gates (R, 4 * size) and cell -> the next h and c."""
        graph = self._step
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

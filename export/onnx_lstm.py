"""An LSTM as two ONNX graphs over any number of rows: one reads tokens, the other writes them.

Letters in shapes: R rows, T tokens of each, S steps, V vocabulary, W wanted logits. Both have, per layer, inputs
`past_h.i` and `past_c.i` fp32 (R, layer size) and outputs `h.i` and `c.i`, which the caller may bind to the same
memory, an input `wanted` int64 (W,), which of the R * T or R * S states, row by row, get logits, and the output
`logits` fp32 (W, V). Time is a Scan: the LSTM operator has no form in int8 in which rows cannot move each other.

The reader has inputs `tokens` int64 (R, T) and `active` bool (R, T), where a row's state advances.

The writer has inputs `tokens` int64 (R,), the first to be fed, `active` bool (R, 1), `uniforms` fp64 (R, S) and
`temperatures` fp32 (R,): after each token it draws the next, by inverting the CDF of logits / temperature with that
step's uniform. Outputs are `drawn` int64 (R, S) and `totals` fp64 (R, S), the sums of those distributions, NaN where
logits are not numbers. It is a graph of its own because ONNX Runtime packs the weights of a loop, but not of a loop in
a branch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from onnx import TensorProto
from safetensors.torch import load_file
from torch import Tensor

from contracts.bundle import GRAPH_WEIGHTS, GRAPHS, INT8_WEIGHTS, WEIGHTS, WRITERS, Precision
from export.onnx_draw import draw
from export.onnx_graph import Graph
from export.onnx_linear import Linear, write_int8
from models.lstm import LstmConfig
from models.weights import write_safetensors


def write_onnx_lstm(folder: Path, config: LstmConfig, precision: Precision) -> tuple[str, ...]:
    """Writes graphs and the weights that they need beside the fp32 weights that lie in `folder`.

    Returns the names of all files of the variant.
    """
    write_safetensors(_arranged(load_file(folder / WEIGHTS), config), folder / GRAPH_WEIGHTS)
    files = [WEIGHTS, GRAPH_WEIGHTS]
    if precision == "int8":
        write_int8(folder, GRAPH_WEIGHTS, lambda name, weight: name.endswith(".weight"))
        files.append(INT8_WEIGHTS)
    graphs: dict[str, type[_Reader | _Writer]] = {GRAPHS[precision]: _Reader}
    if config.window is None:  # else nothing is carried from one token to the next
        graphs[WRITERS[precision]] = _Writer
    for name, kind in graphs.items():
        graph = Graph()
        for file in files:
            graph.weights_of(folder / file)
        kind(graph, config, precision == "int8").build()
        graph.save(folder / name)
    return (*files, *graphs)


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
    """What both graphs have."""

    def __init__(self, graph: Graph, config: LstmConfig, int8: bool) -> None:
        self.graph = graph
        self.config = config
        self.int8 = int8
        self.states = [(f"{part}.{layer}", size) for layer, size in enumerate(config.layers) for part in "hc"]
        self.past = [f"past_{name}" for name, _ in self.states]

    def add_states(self) -> None:
        for (name, size), past in zip(self.states, self.past, strict=True):
            self.graph.input(past, TensorProto.FLOAT, ["R", size])
            self.graph.output(name, TensorProto.FLOAT, ["R", size])

    def add_logits(self, hidden: str) -> None:
        """After the wanted ones of hidden (R, T or S, width)."""
        graph, shape = self.graph, self.graph.integers("hidden.shape", [-1, self.config.layers[-1]])
        flat = graph.node("Reshape", [hidden, shape], "hidden.flat")
        wanted = graph.input("wanted", TensorProto.INT64, ["W"])
        self.add_head(graph, graph.node("Gather", [flat, wanted], "hidden.wanted"), "logits")
        graph.output("logits", TensorProto.FLOAT, ["W", self.config.vocabulary_size])

    def add_head(self, graph: Graph, h: str, name: str) -> str:
        return Linear(graph, self.int8).multiply_bounded(h, "head.weight", name, "head.bias")


class _Reader(_Builder):
    def build(self) -> None:
        graph, width = self.graph, self.config.layers[-1]
        self.add_states()
        step = _Step(graph.body(), self.config, self.int8)
        body = step.graph
        token = body.input("step.token", TensorProto.INT64, ["R"])
        active = body.input("step.active", TensorProto.BOOL, ["R"])
        moves = body.node("Unsqueeze", [active, body.integers("columns", [-1])], "step.moves")
        h = step.advance(token)
        for name, size in self.states:
            body.node("Where", [moves, f"new.{name}", f"step.{name}"], f"next.{name}")
            body.output(f"next.{name}", TensorProto.FLOAT, ["R", size])
        body.output(body.node("Identity", [h], "step.hidden"), TensorProto.FLOAT, ["R", width])
        sides: list[str | int] = ["R", "T"]
        read = [graph.input("tokens", TensorProto.INT64, sides), graph.input("active", TensorProto.BOOL, sides)]
        graph.scan(body, [*self.past, *read], [*(name for name, _ in self.states), "hidden"], read=2, written=1)
        self.add_logits("hidden")


class _Writer(_Builder):
    def build(self) -> None:
        graph, width = self.graph, self.config.layers[-1]
        self.add_states()
        fed = graph.input("tokens", TensorProto.INT64, ["R"])
        active = graph.input("active", TensorProto.BOOL, ["R", 1])
        uniforms = graph.input("uniforms", TensorProto.DOUBLE, ["R", "S"])
        temperatures = graph.input("temperatures", TensorProto.FLOAT, ["R"])
        divisors = graph.node("Unsqueeze", [temperatures, graph.integers("columns", [-1])], "divisors")
        body = graph.body()
        token = body.input("step.token", TensorProto.INT64, ["R"])  # goes round the loop before the states
        step = _Step(body, self.config, self.int8)
        uniform = body.input("step.uniform", TensorProto.DOUBLE, ["R"])
        h = step.advance(token)
        logits = self.add_head(body, h, "step.logits")
        drawn, total = draw(body, logits, uniform, divisors, self.config.vocabulary_size)
        body.output(drawn, TensorProto.INT64, ["R"])
        for name, size in self.states:
            body.output(f"new.{name}", TensorProto.FLOAT, ["R", size])
        body.output(body.node("Identity", [drawn], "step.drawn"), TensorProto.INT64, ["R"])
        body.output(total, TensorProto.DOUBLE, ["R"])
        body.output(body.node("Identity", [h], "step.hidden"), TensorProto.FLOAT, ["R", width])
        ends = [f"end.{name}" for name, _ in self.states]
        made = ["token", *ends, "drawn", "totals", "hidden"]
        graph.scan(body, [fed, *self.past, uniforms], made, read=1, written=3)
        for (name, _), end, past in zip(self.states, ends, self.past, strict=True):
            graph.node("Where", [active, end, past], name)
        graph.output("drawn", TensorProto.INT64, ["R", "S"])
        graph.output("totals", TensorProto.DOUBLE, ["R", "S"])
        self.add_logits("hidden")


class _Step:
    """The body of a loop that feeds one token to every row: `step.h.i` -> `new.h.i`, and so for c."""

    def __init__(self, graph: Graph, config: LstmConfig, int8: bool) -> None:
        self.graph = graph
        self._config = config
        self._linear = Linear(graph, int8)
        for layer, size in enumerate(config.layers):
            for part in "hc":
                graph.input(f"step.{part}.{layer}", TensorProto.FLOAT, ["R", size])

    def advance(self, token: str) -> str:
        """Feeds a token int64 (R,). Returns the h of the last layer."""
        x = ""
        if self._config.embedding is not None:
            x = self.graph.node("Gather", ["embedding.weight", token], "step.embedded")
        for layer, size in enumerate(self._config.layers):
            x = self._layer(x, token, layer, size)
        return x

    def _layer(self, x: str, token: str, layer: int, size: int) -> str:
        """A layer over x (R, width), or over the tokens themselves. Returns its new h."""
        graph, name = self.graph, f"layers.{layer}"
        h = f"step.h.{layer}"
        weight, gates = f"{name}.weight", f"{name}.gates"
        if layer:  # both factors of the product are states: each a sigmoid times a tanh
            together = graph.node("Concat", [x, h], f"{name}.together", axis=1)
            self._linear.multiply_bounded(together, weight, gates, f"{name}.bias")
        elif x:  # an embedding has no bound
            together = graph.node("Concat", [x, h], f"{name}.together", axis=1)
            graph.node("Add", [self._linear.multiply(together, weight, f"{name}.product"), f"{name}.bias"], gates)
        else:
            told = graph.node("Gather", [f"{name}.table", token], f"{name}.told")
            graph.node("Add", [self._linear.multiply_bounded(h, weight, f"{name}.product"), told], gates)
        return self._gated(gates, name, layer, size)

    def _gated(self, gates: str, name: str, layer: int, size: int) -> str:
        """Gates (R, 4 * size) and the cell -> the next h, whose name is returned, and c."""
        graph, c = self.graph, f"step.c.{layer}"
        sizes = [graph.integers(f"{name}.open", [3 * size, size]), graph.integers(f"{name}.each", [size] * 3)]
        graph.node("Split", [gates, sizes[0]], f"{name}.pre", more=[f"{name}.cell"], axis=1)
        if self._config.recurrent_activation == "sigmoid":
            opened = graph.node("Sigmoid", [f"{name}.pre"], f"{name}.opened")
        else:
            opened = graph.node("HardSigmoid", [f"{name}.pre"], f"{name}.opened", alpha=0.2, beta=0.5)
        graph.node("Split", [opened, sizes[1]], f"{name}.i", more=[f"{name}.f", f"{name}.o"], axis=1)
        told = graph.node("Mul", [f"{name}.i", graph.node("Tanh", [f"{name}.cell"], f"{name}.g")], f"{name}.ig")
        kept = graph.node("Mul", [f"{name}.f", c], f"{name}.fc")
        new_c = graph.node("Add", [told, kept], f"new.c.{layer}")
        narrowed = graph.node("Tanh", [new_c], f"{name}.tanh")
        return graph.node("Mul", [f"{name}.o", narrowed], f"new.h.{layer}")

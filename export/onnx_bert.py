"""BERT and RoBERTa classifiers as an ONNX graph of the standard's own operators.

Letters in shapes: B texts, T time, H heads, D head size, E width = H * D, L labels.

Inputs: `tokens` and `positions` int64 (B, T); `mask` fp32 (B, 1, 1, T), added to the scores of attention: 0 where a
text is, minus infinity behind it. Output: `logits` fp32 (B, L).
"""

from __future__ import annotations

import math
from pathlib import Path

from onnx import TensorProto

from contracts.bundle import GRAPHS, INT8_WEIGHTS, WEIGHTS, Precision
from export.onnx_graph import Graph
from export.onnx_linear import Linear, write_int8
from models.bert import BertConfig

_TABLES = ("tokens.weight", "positions.weight")  # looked up, not multiplied with


def write_onnx_bert(folder: Path, config: BertConfig, precision: Precision) -> tuple[str, ...]:
    """Writes the graph, and for int8 its weights, beside the fp32 weights that lie in `folder`. Returns its files."""
    graph = Graph()
    graph.weights_of(folder / WEIGHTS)
    files = [WEIGHTS, GRAPHS[precision]]
    if precision == "int8":
        write_int8(folder, WEIGHTS, lambda name, weight: weight.dim() == 2 and name not in _TABLES)
        graph.weights_of(folder / INT8_WEIGHTS)
        files.append(INT8_WEIGHTS)
    _Builder(graph, config, Linear(graph, int8=precision == "int8")).build()
    graph.save(folder / GRAPHS[precision])
    return tuple(files)


class _Builder:
    """States are kept flat, (B * T, E), except around attention."""

    def __init__(self, graph: Graph, config: BertConfig, linear: Linear) -> None:
        self._graph = graph
        self._config = config
        self._linear = linear

    def build(self) -> None:
        graph, config = self._graph, self._config
        x = self._embed()
        for layer in range(config.layers):
            block = f"blocks.{layer}"
            x = self._norm(x, self._attend(x, f"{block}.attention"), f"{block}.norm1")
            up = self._activate(self._product(x, f"{block}.up"), f"{block}.active")
            x = self._norm(x, self._product(up, f"{block}.down"), f"{block}.norm2")
        pooled = graph.node("Tanh", [self._product(self._first(x), "pool")], "pooled")
        graph.node("Identity", [self._product(pooled, "head")], "logits")
        graph.output("logits", TensorProto.FLOAT, ["B", config.labels])

    def _embed(self) -> str:
        """Normalised sums of embedded tokens and positions; beside them the shapes that the blocks need."""
        graph, config = self._graph, self._config
        flat = graph.integers("flat", [-1])
        embedded = []
        for name in ("tokens", "positions"):
            ids = graph.node("Reshape", [graph.input(name, TensorProto.INT64, ["B", "T"]), flat], f"{name}.flat")
            embedded.append(graph.node("Gather", [f"{name}.weight", ids], f"{name}.embedded"))
        graph.input("mask", TensorProto.FLOAT, ["B", 1, 1, "T"])
        size = graph.integers("heads.size", [config.heads, config.width // config.heads])
        time = graph.node("Shape", ["tokens"], "tokens.shape")
        graph.node("Concat", [time, size], "heads.shape", axis=0)  # B T H D
        graph.node("Concat", [time, graph.integers("width", [config.width])], "texts.shape", axis=0)  # B T E
        graph.integers("states.shape", [-1, config.width])
        graph.constant("heads.scale", TensorProto.FLOAT, 1 / math.sqrt(config.width // config.heads))
        return self._norm(embedded[0], embedded[1], "norm")

    def _attend(self, x: str, name: str) -> str:
        """The attention block's contribution to the states."""
        graph = self._graph
        parts = [f"{name}.{part}" for part in ("q", "k", "v")]
        graph.node("Split", [self._product(x, f"{name}.qkv")], parts[0], more=parts[1:], axis=1, num_outputs=3)
        q, k, v = (self._to_heads(part, last) for part, last in zip(parts, ("D", "T", "D"), strict=True))
        scores = graph.node("Mul", [graph.node("MatMul", [q, k], f"{name}.qk"), "heads.scale"], f"{name}.scaled")
        weights = graph.node("Softmax", [graph.node("Add", [scores, "mask"], f"{name}.masked")], f"{name}.w", axis=-1)
        mixed = graph.node("MatMul", [weights, v], f"{name}.bhtd")
        mixed = graph.node("Transpose", [mixed], f"{name}.bthd", perm=[0, 2, 1, 3])
        return self._product(graph.node("Reshape", [mixed, "states.shape"], f"{name}.flat"), f"{name}.out")

    def _to_heads(self, part: str, last: str) -> str:
        """(B * T, E) -> (B, H, T, D), or (B, H, D, T) where time is to come last."""
        apart = self._graph.node("Reshape", [part, "heads.shape"], f"{part}.bthd")
        order = [0, 2, 1, 3] if last == "D" else [0, 2, 3, 1]
        return self._graph.node("Transpose", [apart], f"{part}.heads", perm=order)

    def _activate(self, x: str, name: str) -> str:
        if self._config.hidden_activation == "relu":
            return self._graph.node("Relu", [x], name)
        approximate = "tanh" if self._config.hidden_activation == "gelu_tanh" else "none"
        return self._graph.node("Gelu", [x], name, approximate=approximate)

    def _norm(self, x: str, added: str, name: str) -> str:
        """x + added, normalised."""
        total = self._graph.node("Add", [x, added], f"{name}.sum")
        inputs = [total, f"{name}.weight", f"{name}.bias"]
        return self._graph.node("LayerNormalization", inputs, f"{name}.out", axis=-1, epsilon=self._config.epsilon)

    def _product(self, x: str, name: str) -> str:
        """A linear layer."""
        product = self._linear.multiply(x, f"{name}.weight", f"{name}.product")
        return self._graph.node("Add", [product, f"{name}.bias"], f"{name}.sum")

    def _first(self, x: str) -> str:
        """The states (B, E) of the first tokens."""
        graph = self._graph
        texts = graph.node("Reshape", [x, "texts.shape"], "texts")
        return graph.node("Gather", [texts, graph.integer("first", 0)], "texts.first", axis=1)

"""GPT-2 as an ONNX graph: one graph for prefill and decode, over a cache that is written in place.

Letters in shapes: R rows, T time, C context, H heads, D head size, E width = H * D, V vocabulary, W wanted logits.

Inputs: `tokens` and `positions` int64 (R, T); `last` int32 (R,), the last position of each row; `total` int32 (1,), the
length of the longest row after this call; `wanted` int64 (W,), which of the R * T states get logits, so that a prompt's
chunk needs none; and per layer `past_keys.i` and `past_values.i` (R, H, C, D), fp16 for that precision, else fp32.
Outputs: `logits` fp32 (W, V) and `keys.i`, `values.i`, which the caller binds to the memory of the inputs.
"""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto

from contracts.bundle import FP16_WEIGHTS, GRAPHS, INT8_WEIGHTS, WEIGHTS, Precision
from export.onnx_graph import CONTRIB, Graph
from export.onnx_linear import Linear, write_fp16, write_int8
from models.gpt2 import Gpt2Config


def write_onnx_gpt2(folder: Path, config: Gpt2Config, precision: Precision) -> tuple[str, ...]:
    """Writes a graph, and the weights that it needs besides, beside the fp32 weights that lie in `folder`.

    Returns the names of all files of the variant.
    """
    if precision == "fp16":
        write_fp16(folder, WEIGHTS)
        files = [FP16_WEIGHTS]
    elif precision == "int8":
        write_int8(folder, WEIGHTS, lambda name, weight: weight.dim() == 2 and name != "positions.weight")
        files = [WEIGHTS, INT8_WEIGHTS]
    else:
        files = [WEIGHTS]
    graph = Graph()
    for file in files:
        graph.weights_of(folder / file)
    _Builder(graph, config, precision).build()
    graph.save(folder / GRAPHS[precision])
    return (*files, GRAPHS[precision])


class _Builder:
    """States are kept flat, (R * T, E), except around attention."""

    def __init__(self, graph: Graph, config: Gpt2Config, precision: Precision) -> None:
        self._graph = graph
        self._config = config
        self._linear = Linear(graph, precision == "int8")
        self._element = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT

    def build(self) -> None:
        graph, config = self._graph, self._config
        embedded, placed = self._embed()
        x, residual = self._norm(embedded, placed, None, "blocks.0.norm1")
        for layer in range(config.layers):
            block = f"blocks.{layer}"
            x, residual = self._norm(residual, *self._attend(x, layer), f"{block}.norm2")
            up = self._linear.multiply(x, f"{block}.up.weight", f"{block}.up")
            up = graph.node("FastGelu", [up, f"{block}.up.bias"], f"{block}.gelu", CONTRIB)
            following = f"blocks.{layer + 1}.norm1" if layer + 1 < config.layers else "norm"
            x, residual = self._norm(residual, *self._product(up, f"{block}.down"), following)
        wanted = graph.input("wanted", TensorProto.INT64, ["W"])
        scores = self._linear.multiply(x, "tokens.weight", "scores", rows=wanted)
        graph.node("Cast", [scores], "logits", to=TensorProto.FLOAT)
        graph.output("logits", TensorProto.FLOAT, ["W", config.vocabulary_size])

    def _embed(self) -> tuple[str, str]:
        """Embedded tokens and embedded positions; beside them what attention needs to know."""
        graph, config = self._graph, self._config
        flat = graph.integers("flat", [-1])
        embedded = []
        for name in ("tokens", "positions"):
            ids = graph.node("Reshape", [graph.input(name, TensorProto.INT64, ["R", "T"]), flat], f"{name}.flat")
            embedded.append(graph.node("Gather", [f"{name}.weight", ids], f"{name}.embedded"))
        graph.input("last", TensorProto.INT32, ["R"])
        graph.input("total", TensorProto.INT32, [1])
        graph.integers("states.shape", [-1, config.width])
        qkv_width = graph.integers("qkv.width", [3 * config.width])
        graph.node("Concat", [graph.node("Shape", ["tokens"], "tokens.shape"), qkv_width], "qkv.shape", axis=0)
        return embedded[0], embedded[1]

    def _attend(self, x: str, layer: int) -> tuple[str, str]:
        """The attention block's contribution to the states, and its bias."""
        graph, config, name = self._graph, self._config, f"blocks.{layer}.attention"
        cache: list[str | int] = ["R", config.heads, "C", config.width // config.heads]
        past = [graph.input(f"past_{part}.{layer}", self._element, cache) for part in ("keys", "values")]
        for part in ("keys", "values"):
            graph.output(f"{part}.{layer}", self._element, cache)
        qkv = graph.node("Add", list(self._product(x, f"{name}.qkv")), f"{name}.qkv.flat")
        qkv = graph.node("Reshape", [qkv, "qkv.shape"], f"{name}.qkv.rows")
        mixed = graph.node(
            "GroupQueryAttention",
            [qkv, "", "", *past, "last", "total"],
            f"{name}.mixed",
            CONTRIB,
            more=[f"keys.{layer}", f"values.{layer}"],
            num_heads=config.heads,
            kv_num_heads=config.heads,
        )
        return self._product(graph.node("Reshape", [mixed, "states.shape"], f"{name}.flat"), f"{name}.out")

    def _norm(self, x: str, added: str, bias: str | None, name: str) -> tuple[str, str]:
        """x + added + bias normalised, and the sum itself."""
        total = f"{name}.sum"
        inputs = [x, added, f"{name}.weight", f"{name}.bias", *([bias] if bias else [])]
        more, epsilon = ["", "", total], self._config.epsilon
        normed = self._graph.node("SkipLayerNormalization", inputs, f"{name}.out", CONTRIB, more=more, epsilon=epsilon)
        return normed, total

    def _product(self, x: str, name: str) -> tuple[str, str]:
        """A linear layer's product, and the bias that is still to be added."""
        return self._linear.multiply(x, f"{name}.weight", name), f"{name}.bias"

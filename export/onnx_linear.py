"""Products with a weight matrix in an ONNX graph, in floating point or int8.

In int8 every output of a weight and every row of activations has a scale of its own, its largest magnitude; activations
that have a bound, such as the states of an LSTM, have that one for all rows. Sums of integers are exact in any order,
so that a row's bits cannot depend on the others; a scale per tensor, as ONNX Runtime's own dynamic quantisation has it,
would let one row move another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from onnx import TensorProto
from safetensors.torch import load_file
from torch import Tensor

from contracts.bundle import FP16_WEIGHTS, INT8_WEIGHTS
from export.onnx_graph import CONTRIB, Graph
from models.weights import write_safetensors

_LEVELS = 127  # int8 without -128, so that zero is in the middle


def write_int8(folder: Path, file: str, wanted: Callable[[str, Tensor], bool]) -> None:
    """Writes the int8 form of the wanted fp32 weights of `file` in `folder`, as `<name>.int8` and `<name>.scale`."""
    found: dict[str, Tensor] = {}
    for name, weight in load_file(folder / file).items():
        if wanted(name, weight):
            found[f"{name}.int8"], found[f"{name}.scale"] = quantise(weight)
    write_safetensors(found, folder / INT8_WEIGHTS)


def write_fp16(folder: Path, file: str) -> None:
    """Writes the fp16 form of all weights of `file` in `folder`, by the same names."""
    halves = {name: weight.half() for name, weight in load_file(folder / file).items()}
    write_safetensors(halves, folder / FP16_WEIGHTS)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (outputs, inputs) -> int8 (inputs, outputs) and fp32 scales (outputs,): the largest becomes 127."""
    scale = (weight.abs().amax(-1) / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight / scale[:, None]).round().to(torch.int8).t().contiguous(), scale


class Linear:
    """Adds products to a graph that knows the weights, and for int8 their int8 forms too."""

    def __init__(self, graph: Graph, int8: bool) -> None:
        self._graph = graph
        self._int8 = int8

    def multiply(self, x: str, weight: str, name: str, rows: str | None = None) -> str:
        """x (N, inputs), or the rows of it that an input names, times the transpose of a weight (outputs, inputs)."""
        graph = self._graph
        if not self._int8:
            return graph.node("Gemm", [self._take(x, rows), weight], name, transB=1)
        magnitudes = graph.node("Abs", [x], f"{name}.magnitudes")
        largest = graph.node("ReduceMax", [magnitudes, graph.integers("columns", [-1])], f"{name}.largest")
        scaled = graph.node("Div", [x, largest], f"{name}.scaled")
        product = self._multiply_levels(scaled, weight, f"{name}.unscaled", rows)
        return graph.node("Mul", [product, self._take(largest, rows)], name)

    def multiply_bounded(self, x: str, weight: str, name: str, bias: str | None = None) -> str:
        """As `multiply`, for x in [-1, 1], whose scale in int8 is that bound; a bias (outputs,) may be added."""
        more = [bias] if bias else []
        if not self._int8:
            return self._graph.node("Gemm", [x, weight, *more], name, transB=1)
        return self._multiply_levels(x, weight, name, more=more)

    def _multiply_levels(
        self, x: str, weight: str, name: str, rows: str | None = None, more: list[str] | None = None
    ) -> str:
        """The product in int8 of x (N, inputs) in [-1, 1]."""
        graph = self._graph
        step = graph.constant("int8.step", TensorProto.FLOAT, 1 / _LEVELS)
        # Unsigned times signed is what processors multiply fast: two signed factors take ten times as long.
        zero = graph.constant("int8.zero", TensorProto.UINT8, _LEVELS + 1)
        integers = graph.node("QuantizeLinear", [x, step, zero], f"{name}.uint8")
        operands = [self._take(integers, rows), f"{weight}.int8", step, f"{weight}.scale", zero, ""]
        return graph.node("MatMulIntegerToFloat", [*operands, *(more or [])], name, CONTRIB)

    def _take(self, x: str, rows: str | None) -> str:
        return x if rows is None else self._graph.node("Gather", [x, rows], f"{x}.taken")

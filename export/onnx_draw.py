"""Drawing tokens inside a graph, as models.cdf does it outside: the CDF is inverted in index order, with one uniform.

A row whose temperature is `GREEDY_TEMPERATURE` and whose uniform is 0 gets its likeliest token, of equal ones the
first: divided by that power of two, which is exact, all others have a probability of 0.
"""

from __future__ import annotations

from onnx import TensorProto

from export.onnx_graph import Graph
from models.cdf import BLOCK, FEW_VALUES


def draw(graph: Graph, logits: str, uniform: str, temperature: str, values: int) -> tuple[str, str]:
    """Logits fp32 (R, values), uniforms fp64 (R,) in [0, 1), temperatures fp32 (R, 1).

    Returns names of the tokens int64 (R,) and of the sums of the probabilities fp64 (R,), NaN if they are not numbers.
    """
    scores = graph.node("Div", [logits, temperature], "draw.scores")
    probabilities = graph.node("Softmax", [scores], "draw.probabilities", axis=-1)
    columns = graph.integers("columns", [-1])
    point = graph.node("Unsqueeze", [uniform, columns], "draw.uniform")
    if values <= FEW_VALUES:
        sums, total = _running_sums(graph, probabilities, values, "draw")
        token, _ = _first_above(graph, sums, graph.node("Mul", [point, total], "draw.point"), total, "draw")
        return token, graph.node("Squeeze", [total, columns], "draw.total")
    blocks = -(-values // BLOCK)
    width = graph.integers("draw.padding", [0, 0, 0, blocks * BLOCK - values])
    padded = graph.node("Pad", [probabilities, width], "draw.padded")
    split = graph.node("Reshape", [padded, graph.integers("draw.split", [-1, blocks, BLOCK])], "draw.blocks")
    masses = graph.node("ReduceSum", [split, columns], "draw.masses", keepdims=0)
    borders, total = _running_sums(graph, masses, blocks, "draw.borders")
    point = graph.node("Mul", [point, total], "draw.point")
    block, below = _first_above(graph, borders, point, total, "draw.block")
    before = graph.node("Where", [below, borders, graph.constant("draw.nothing", TensorProto.DOUBLE, 0)], "draw.passed")
    before = graph.node("ReduceMax", [before, columns], "draw.before")
    chosen = graph.node("Unsqueeze", [block, columns], "draw.chosen")
    inside = graph.node("GatherND", [split, chosen], "draw.inside", batch_dims=1)
    sums, mass = _running_sums(graph, inside, BLOCK, "draw.within")
    rest = graph.node("Sub", [point, before], "draw.rest")
    place, _ = _first_above(graph, sums, rest, mass, "draw.place")
    start = graph.node("Mul", [block, graph.integer("draw.width", BLOCK)], "draw.start")
    token = graph.node("Add", [start, place], "draw.token")
    return token, graph.node("Squeeze", [total, columns], "draw.total")


def _running_sums(graph: Graph, values: str, count: int, name: str) -> tuple[str, str]:
    """fp32 (R, count) -> fp64 (R, count) and the last of them (R, 1)."""
    exact = graph.node("Cast", [values], f"{name}.fp64", to=TensorProto.DOUBLE)
    sums = graph.node("CumSum", [exact, graph.integer("draw.axis", 1)], f"{name}.sums")
    return sums, graph.node("Gather", [sums, graph.integers(f"{name}.last", [count - 1])], f"{name}.all", axis=1)


def _first_above(graph: Graph, sums: str, point: str, total: str, name: str) -> tuple[str, str]:
    """Where running sums (R, n) first exceed the point (R, 1), or, if rounding put it too high, where they first reach
    their total (R, 1): places (R,), and which sums come before."""
    passed = graph.node("LessOrEqual", [sums, point], f"{name}.not_above")
    rising = graph.node("Less", [sums, total], f"{name}.rising")
    below = graph.node("And", [passed, rising], f"{name}.below")
    ones = graph.node("Cast", [below], f"{name}.ones", to=TensorProto.INT64)
    return graph.node("ReduceSum", [ones, graph.integers("columns", [-1])], f"{name}.found", keepdims=0), below

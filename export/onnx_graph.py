"""Building ONNX graphs node by node. Weights stay in safetensors files beside the graph, which it points into."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

OPSET = 21
IR_VERSION = 10  # the oldest that knows this opset
CONTRIB = "com.microsoft"  # ONNX Runtime's own operators
_TYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "I8": TensorProto.INT8}


@dataclass
class Graph:
    """Nodes, inputs, outputs and weights of a graph in the making; `save` writes it."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)  # names that nodes read, those of bodies included

    def input(self, name: str, element: int, shape: list[str | int]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def output(self, name: str, element: int, shape: list[str | int]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, element, shape))

    def integers(self, name: str, values: list[int]) -> str:
        """A constant vector, such as a shape."""
        self.weights[name] = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        return name

    def integer(self, name: str, value: int) -> str:
        """A constant whole number, such as an index."""
        self.weights[name] = helper.make_tensor(name, TensorProto.INT64, [], [value])
        return name

    def constant(self, name: str, element: int, value: float) -> str:
        """A constant number."""
        self.weights[name] = helper.make_tensor(name, element, [], [value])
        return name

    def weights_of(self, file: Path) -> None:
        """Makes the tensors of a safetensors file, which must lie beside the graph, known by their names."""
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(header_bytes))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            tensor = TensorProto(name=name, data_type=_TYPES[entry["dtype"]], dims=entry["shape"])
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": file.name, "offset": 8 + header_bytes + begin, "length": end - begin}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            self.weights[name] = tensor

    def node(
        self,
        kind: str,
        inputs: list[str],
        name: str,
        domain: str = "",
        more: list[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Adds a node whose first output is called `name` and the others as in `more`. Returns `name`."""
        outputs = [name, *(more or [])]
        self._used.update(inputs)
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return name

    def body(self) -> Graph:
        """A graph to be run by a node of this one, such as a loop. Its names must be others; weights are shared."""
        return Graph(weights=self.weights, _used=self._used)

    def scan(self, body: Graph, inputs: list[str], outputs: list[str], *, read: int, written: int) -> None:
        """Runs a body once per place along the second side of the last `read` inputs.

        Inputs before those are states: the body returns them first, and then what is stacked along the second side of
        the last `written` outputs.
        """
        self.node(
            "Scan",
            inputs,
            outputs[0],
            more=outputs[1:],
            body=helper.make_graph(body.nodes, "body", body.inputs, body.outputs),
            num_scan_inputs=read,
            scan_input_axes=[1] * read,
            scan_output_axes=[1] * written,
        )

    def save(self, file: Path) -> None:
        """Writes the graph with the weights that it uses."""
        weights = [tensor for name, tensor in self.weights.items() if name in self._used]
        graph = helper.make_graph(self.nodes, file.stem, self.inputs, self.outputs, initializer=weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), file)

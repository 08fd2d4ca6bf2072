"""A DCGAN's generator as an ONNX graph, batch norm folded into the convolutions.

Input: `latents` (B, latent, 1, 1). Output: `pictures` fp32 (B, channels, height, width) in [-1, 1]. Latents and
weights are fp16 for that precision, else fp32.
"""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto
from safetensors.torch import load_file, save_file
from torch import nn

from contracts.bundle import FP16_WEIGHTS, GRAPH_WEIGHTS, GRAPHS, WEIGHTS, Precision
from export.onnx_graph import Graph
from export.programs import fold_batch_norm
from models.dcgan import DcganConfig, generator


def write_onnx_dcgan(folder: Path, config: DcganConfig, precision: Precision) -> tuple[str, ...]:
    """Writes a graph and its weights beside the fp32 weights that lie in `folder`.

    Returns the names of all files of the variant.
    """
    model = generator(config)
    model.load_state_dict(load_file(folder / WEIGHTS))
    folded = fold_batch_norm(model.eval())
    half = precision == "fp16"
    file = FP16_WEIGHTS if half else GRAPH_WEIGHTS
    save_file((folded.half() if half else folded).state_dict(), folder / file)
    graph = Graph()
    graph.weights_of(folder / file)
    _build(graph, config, folded, TensorProto.FLOAT16 if half else TensorProto.FLOAT)
    graph.save(folder / GRAPHS[precision])
    return (file, GRAPHS[precision])


def _build(graph: Graph, config: DcganConfig, layers: nn.Sequential, element: int) -> None:
    x = graph.input("latents", element, ["B", config.latent, 1, 1])
    for index, layer in enumerate(layers):
        name = f"layers.{index}"
        if isinstance(layer, nn.ConvTranspose2d):
            stride, padding = layer.stride[0], int(layer.padding[0])
            weights = [f"{index}.weight", *([f"{index}.bias"] if layer.bias is not None else [])]
            x = graph.node("ConvTranspose", [x, *weights], name, strides=[stride] * 2, pads=[padding] * 4)
        else:
            x = graph.node("Relu" if isinstance(layer, nn.ReLU) else "Tanh", [x], name)
    graph.node("Cast", [x], "pictures", to=TensorProto.FLOAT)
    graph.output("pictures", TensorProto.FLOAT, ["B", config.channels, config.size, config.size])

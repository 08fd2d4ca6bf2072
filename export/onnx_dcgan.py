"""A DCGAN's generator as an ONNX graph, batch norm folded into the convolutions.

Input: `latents` (B, latent, 1, 1). Output: `pictures` fp32 (B, channels, height, width) in [-1, 1]. Latents and
weights are fp16 for that precision. In int8 they are fp32, weights have a scale per output channel and the inputs of
each convolution one that was calibrated on pictures and is fixed, so that no picture moves another's. ONNX Runtime has
no int8 ConvTranspose: it rounds to int8 and computes in fp32, so this form is small and not fast.
"""

from __future__ import annotations

from pathlib import Path

import torch
from onnx import TensorProto
from safetensors.torch import load_file
from torch import Tensor, nn

from contracts.bundle import FP16_WEIGHTS, GRAPH_WEIGHTS, GRAPHS, INT8_WEIGHTS, WEIGHTS, Precision
from export.onnx_graph import Graph
from models.dcgan import DcganConfig, fold_batch_norm, generator
from models.noise import latents
from models.weights import Weights, write_safetensors

CALIBRATION_SEED = 1
CALIBRATION_PICTURES = 256

_FILES = {"fp32": GRAPH_WEIGHTS, "fp16": FP16_WEIGHTS, "int8": INT8_WEIGHTS}


def write_onnx_dcgan(folder: Path, config: DcganConfig, precision: Precision) -> tuple[str, ...]:
    """Writes a graph and its weights beside the fp32 weights that lie in `folder`.

    Returns the names of all files of the variant.
    """
    model = generator(config)
    model.load_state_dict(load_file(folder / WEIGHTS))
    folded = fold_batch_norm(model.eval())
    weights: Weights = folded.state_dict()
    if precision == "fp16":
        weights = {name: weight.half() for name, weight in weights.items()}
    elif precision == "int8":
        weights = {**_quantised(weights), **_input_steps(folded, config)}
    write_safetensors(weights, folder / _FILES[precision])
    graph = Graph()
    graph.weights_of(folder / _FILES[precision])
    _build(graph, config, folded, precision)
    graph.save(folder / GRAPHS[precision])
    return (_FILES[precision], GRAPHS[precision])


def _quantised(weights: Weights) -> Weights:
    """Kernels (inputs, outputs, height, width) as int8 with fp32 scales (outputs,); biases as they are."""
    found: Weights = {}
    for name, weight in weights.items():
        if weight.dim() < 4:
            found[name] = weight
            continue
        scale = (weight.abs().amax((0, 2, 3)) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        found[f"{name}.int8"] = (weight / scale[:, None, None]).round().to(torch.int8)
        found[f"{name}.scale"] = scale
    return found


@torch.inference_mode()
def _input_steps(layers: nn.Sequential, config: DcganConfig) -> Weights:
    """The step of each convolution's input: latents have 127 either side of zero, what a ReLU leaves has 255."""
    x: Tensor = latents(CALIBRATION_SEED, list(range(CALIBRATION_PICTURES)), config.latent)[:, :, None, None]
    steps: Weights = {}
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.ConvTranspose2d):
            steps[f"{index}.step"] = x.abs().max() / (255 if index else 127)
        x = layer(x)
    return steps


def _build(graph: Graph, config: DcganConfig, layers: nn.Sequential, precision: Precision) -> None:
    element = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    x = graph.input("latents", element, ["B", config.latent, 1, 1])
    for index, layer in enumerate(layers):
        name, kernel = f"layers.{index}", f"{index}.weight"
        if not isinstance(layer, nn.ConvTranspose2d):
            x = graph.node("Relu" if isinstance(layer, nn.ReLU) else "Tanh", [x], name)
            continue
        if precision == "int8":
            zero = graph.constant(f"{index}.zero", TensorProto.UINT8 if index else TensorProto.INT8, 0)
            x = graph.node("QuantizeLinear", [x, f"{index}.step", zero], f"{name}.integers")
            x = graph.node("DequantizeLinear", [x, f"{index}.step", zero], f"{name}.rounded")
            kernel = graph.node("DequantizeLinear", [f"{kernel}.int8", f"{kernel}.scale"], f"{name}.kernel", axis=1)
        stride, padding = layer.stride[0], int(layer.padding[0])
        inputs = [x, kernel, *([f"{index}.bias"] if layer.bias is not None else [])]
        x = graph.node("ConvTranspose", inputs, name, strides=[stride] * 2, pads=[padding] * 4)
    graph.node("Cast", [x], "pictures", to=TensorProto.FLOAT)
    graph.output("pictures", TensorProto.FLOAT, ["B", config.channels, config.size, config.size])

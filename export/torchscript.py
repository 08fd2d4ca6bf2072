"""TorchScript archives: traced programs that run wherever PyTorch does, without this project.

TorchScript is deprecated upstream (PyTorch 2.13 warns at every call); `export/pt2.py` writes its successor's archives
for the families that it can express.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from contracts.bundle import Precision, archive
from export.programs import program
from models.weights import Config, Weights


@torch.inference_mode(False)
def write_torchscript(folder: Path, config: Config, weights: Weights, precision: Precision) -> str:
    """Writes a model's program in a precision into `folder`. Returns the file's name."""
    module, example = program(config, weights, precision)
    name = archive("torchscript", precision)
    with warnings.catch_warnings():
        known = r"`torch\.jit\.(trace|trace_method|save)` is (deprecated|not supported)"
        warnings.filterwarnings("ignore", known, DeprecationWarning)
        # Its own check traces once more and compares; parity is measured on what was written.
        traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        content = io.BytesIO()  # its own writing of files ends the process when the disk is full
        torch.jit.save(traced, content)
    (folder / name).write_bytes(content.getbuffer())
    return name

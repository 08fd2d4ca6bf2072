"""Reads weight files of PyTorch models; none of them can run code."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from contracts.errors import StoreError


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises StoreError for a file that is not safetensors."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise StoreError(f"{path} is not a safetensors file: {error}") from None


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a state dict that `torch.save` wrote. Raises StoreError for anything else in the file."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - tensors alone
    except Exception as error:  # torch raises many kinds for damaged files and for files that hold more than tensors
        raise StoreError(f"{path} is not a file of tensors alone: {error}") from None
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise StoreError(f"{path} does not hold a state dict of tensors by name")
    return weights

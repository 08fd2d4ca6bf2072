"""Reads weights that others saved; no file of them can run code, or claim more memory than it has bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from contracts.errors import StoreError
from models.pretrained.source import Source, read_json
from models.weights import read_safetensors


class _Index(BaseModel):
    weight_map: dict[str, str]  # tensor -> file


def read_weights(source: Source) -> dict[str, Tensor]:
    """Tensors by name from model.safetensors, whole or in shards, or else pytorch_model.bin. Raises StoreError."""
    if source.has("model.safetensors"):
        return read_safetensors(source.file("model.safetensors"))
    if source.has("model.safetensors.index.json"):
        index = read_json(_Index, source.file("model.safetensors.index.json"))
        weights: dict[str, Tensor] = {}
        for shard in sorted(set(index.weight_map.values())):
            weights |= read_safetensors(source.file(shard))
        return weights
    if source.has("pytorch_model.bin"):
        return read_checkpoint(source.file("pytorch_model.bin"))
    raise StoreError(f"{source.folder} holds no weights: give model.safetensors or pytorch_model.bin")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a state dict that `torch.save` wrote. Raises StoreError for anything else in the file."""
    _refuse_bomb(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - tensors alone
    except Exception as error:  # torch raises many kinds for damaged files and for files that hold more than tensors
        raise StoreError(f"{path} is not a file of tensors alone: {error}") from None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise StoreError(f"{path} does not hold a state dict of tensors by name")
    if strange := [name for name, weight in weights.items() if not _is_plain(weight)]:
        raise StoreError(f"{path} does not hold a state dict of tensors by name: {strange[0]} is no plain tensor")
    return weights


def _is_plain(weight: Any) -> bool:
    """Whether every value lies in memory: a file of a few bytes can hold a tensor that repeats one value for ever."""
    return (
        isinstance(weight, Tensor)
        and weight.layout is torch.strided
        and weight.device.type == "cpu"
        and not weight.is_quantized
        and weight.numel() * weight.itemsize <= weight.untyped_storage().nbytes()
    )


def _refuse_bomb(path: Path) -> None:
    """`torch.save` packs nothing, so what is larger than the file that holds it was made to fill the memory."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise StoreError(f"{path} is a damaged archive: {error}") from None
        if unpacked > path.stat().st_size:
            raise StoreError(f"{path} would unpack to {unpacked} bytes, more than it has; save it with torch.save")

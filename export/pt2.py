"""`torch.export` archives, TorchScript's successor, of the families that it can express.

They are written and measured here and taken elsewhere; no worker loads one. Their loader reads symbolic sizes by
evaluating them and, where reading tensors alone fails, falls back to pickle, so an archive can run what it likes. What
is measured here was written by this very process.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from contracts.bundle import Bundle, Precision, Variant, archive
from contracts.settings import DEFAULT_KV_BYTES
from export.programs import program
from models.bert import BertConfig
from models.gpt2 import Gpt2Config
from models.runtimes import ClassifyBackend, ImageBackend, TextBackend, programs
from models.weights import Config, Weights, read_config


@torch.inference_mode(False)
def write_pt2(folder: Path, config: Config, weights: Weights, precision: Precision) -> str:
    """Writes a model's program in a precision into `folder`. Returns the file's name."""
    module, example = program(config, weights, precision)
    name = archive("pt2", precision)
    exported = torch.export.export(module, example, dynamic_shapes=_dynamic(config), strict=False)
    content = io.BytesIO()  # its own writing of files ends the process when the disk is full
    torch.export.save(exported, content)
    (folder / name).write_bytes(content.getbuffer())
    return name


def load_pt2_text(bundle: Bundle, variant: Variant, device: torch.device) -> TextBackend:
    """The backend of an archive that this process has written."""
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    return programs.text_backend(config, _read(bundle, variant), device, DEFAULT_KV_BYTES)


def load_pt2_images(bundle: Bundle, variant: Variant, device: torch.device) -> ImageBackend:
    """The backend of an archive that this process has written."""
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    return programs.image_backend(config, _read(bundle, variant), device)


def load_pt2_classifier(bundle: Bundle, variant: Variant, device: torch.device) -> ClassifyBackend:
    """The backend of an archive that this process has written."""
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    return programs.classify_backend(config, _read(bundle, variant), device)


def _read(bundle: Bundle, variant: Variant) -> nn.Module:
    path = bundle.path / archive("pt2", variant.precision)
    return torch.export.load(path).module()  # noqa: TID251 - this process has written it


def _dynamic(config: Config) -> tuple[Any, ...]:
    """Which sides of a program's inputs may have any length."""
    rows = Dim("rows", min=1)
    if isinstance(config, BertConfig):
        return ({0: rows, 1: Dim("time", min=1)}, {0: rows})
    if not isinstance(config, Gpt2Config):
        return ({0: rows},)
    time, wanted = Dim("time", min=1, max=config.context_tokens), Dim("wanted", min=0)
    cache = {1: rows, 3: Dim("length", min=1, max=config.context_tokens)}
    return ({0: rows, 1: time}, {0: rows, 1: time}, {0: wanted}, cache, cache)

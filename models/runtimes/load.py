"""From a bundle's variant to its backend, whatever runs it."""

from __future__ import annotations

import torch

from contracts.bundle import Bundle, Precision, Variant
from contracts.errors import StoreError
from contracts.settings import DEFAULT_KV_BYTES
from models.runtimes import ClassifyBackend, ImageBackend, TextBackend, onnx, programs, pytorch

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_text(bundle: Bundle, variant: Variant, device: torch.device, kv_bytes: int = DEFAULT_KV_BYTES) -> TextBackend:
    """A text bundle's backend, its KV cache at most `kv_bytes` large. Raises StoreError where it cannot be run here."""
    _check(bundle, variant, device)
    if variant.format == "pytorch":
        return pytorch.load_text(bundle, device, kv_bytes, DTYPES[variant.precision])
    if variant.format == "torchscript":
        return programs.load_text(bundle, variant, device, kv_bytes)
    return onnx.load_text(bundle, variant, device, kv_bytes)


def load_images(bundle: Bundle, variant: Variant, device: torch.device) -> ImageBackend:
    """An image bundle's backend. Raises StoreError where it cannot be run here."""
    _check(bundle, variant, device)
    if variant.format == "pytorch":
        return pytorch.load_images(bundle, device, DTYPES[variant.precision])
    if variant.format == "torchscript":
        return programs.load_images(bundle, variant, device)
    return onnx.load_images(bundle, variant, device)


def load_classifier(bundle: Bundle, variant: Variant, device: torch.device) -> ClassifyBackend:
    """A classifier bundle's backend. Raises StoreError where it cannot be run here."""
    _check(bundle, variant, device)
    if variant.format == "pytorch":
        return pytorch.load_classifier(bundle, device, DTYPES[variant.precision])
    if variant.format == "torchscript":
        return programs.load_classifier(bundle, variant, device)
    return onnx.load_classifier(bundle, variant, device)


def _check(bundle: Bundle, variant: Variant, device: torch.device) -> None:
    if variant.format == "pt2":
        raise StoreError(
            f"{bundle.path}: variant {variant.name} is there to be taken elsewhere and is not served, since PyTorch's "
            f"loader falls back to pickle; serve pytorch:{variant.precision}, which computes the same"
        )
    if variant.format == "pytorch" and variant.precision not in DTYPES:
        raise StoreError(f"{bundle.path}: PyTorch does not run {variant.precision}; serve pytorch:fp32")

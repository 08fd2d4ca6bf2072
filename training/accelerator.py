"""The device that is trained on."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from contracts.errors import StoreError

_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(precision: str, device: str) -> Accelerator:
    """`device` is auto (a GPU if there is one) or cpu. Raises StoreError for what the machine has not."""
    AcceleratorState._reset_state()  # of an earlier run in this process, whose precision may have been another
    try:
        return Accelerator(mixed_precision=_PRECISIONS[precision], cpu=device == "cpu")
    except ValueError as error:
        raise StoreError(f"precision {precision} cannot be had on this machine: {error}") from None

"""Which devices this machine has, without importing torch."""

from __future__ import annotations

import os
from pathlib import Path


def devices(wanted: str) -> list[str]:
    """`auto` is every NVIDIA GPU that this process may see, or else the CPU; anything else is itself."""
    if wanted != "auto":
        return [wanted]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = len([part for part in visible.split(",") if part.strip() not in {"", "-1"}])
    else:
        folder = Path("/proc/driver/nvidia/gpus")
        count = len(list(folder.iterdir())) if folder.is_dir() else 0
    return [f"cuda:{index}" for index in range(count)] or ["cpu"]

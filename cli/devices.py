"""Which devices this machine has, without importing torch."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

_GPUS = Path("/proc/driver/nvidia/gpus")
_DRIVER = Path("/proc/driver/nvidia/version")
_CPUS = Path("/proc/cpuinfo")


def devices(wanted: str) -> list[str]:
    """`auto` is every NVIDIA GPU that this process may see, or else the CPU; anything else is itself."""
    if wanted != "auto":
        return [wanted]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = len([part for part in visible.split(",") if part.strip() not in {"", "-1"}])
    else:
        count = len(list(_GPUS.iterdir())) if _GPUS.is_dir() else 0
    return [f"cuda:{index}" for index in range(count)] or ["cpu"]


def device_class(device: str) -> str:
    """What decides how fast a variant is: the kind of GPU, or of processor and how many threads it gets."""
    if not device.startswith("cuda"):
        return f"{_first(_CPUS, r'model name') or platform.machine()}, {_threads()} threads"
    informed = sorted(_GPUS.glob("*/information"))
    index = int(device.partition(":")[2] or 0)
    # Processes of one machine mostly see GPUs of one kind, so that any will do where the number is out of reach.
    return _first(informed[min(index, len(informed) - 1)], "Model") or "NVIDIA GPU" if informed else "NVIDIA GPU"


def driver_version() -> str | None:
    """Of NVIDIA's kernel module; None without one."""
    try:
        found = re.search(r"Kernel Module\D*([\d.]+)", _DRIVER.read_text(errors="replace"))
    except OSError:
        return None
    return found[1] if found else None


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1


def _first(file: Path, field: str) -> str | None:
    try:
        found = re.search(rf"^{field}\s*:\s*(.+?)\s*$", file.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None

"""What of a processor decides which bits are computed."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

_DESCRIPTION = Path("/proc/cpuinfo")
_FIELDS = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part", "Features")
_INSTRUCTION_SETS = re.compile(r"(?:avx|amx|fma|sse|ssse|f16c)\w*")


def ask_for_steady_products() -> None:
    """Give a row of PyTorch's products the same bits among any number of rows, unless the environment says otherwise.

    Intel's mathematical library, which multiplies for PyTorch, takes its kernel by the number of rows, and on newer
    processors of Intel a row's last bits with it. Its strict reproducibility does not; it is read at the first product
    of a process. Elsewhere its kernels keep the bits from four rows on, and it is left alone. docs/log.md has figures.
    """
    if _description().get("vendor_id") == "GenuineIntel":
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def processor() -> str:
    """Kind of processor, its instruction sets, and what the mathematical library is told to keep to.

    PyTorch's own word for it (`torch.backends.cpu.get_cpu_capability()`) is too coarse: of two processors that are both
    AVX512 one may round other sums, since libraries look at the model and at single instructions.
    """
    described = _description()
    kind = [described[name] for name in _FIELDS if name in described]
    sets = sorted(_INSTRUCTION_SETS.findall(described.get("flags", "")))
    return " ".join([platform.machine(), *kind, *sets, os.environ.get("MKL_CBWR", "")])


def _description() -> dict[str, str]:
    """Of the first processor; nothing where the system does not tell."""
    try:
        first = _DESCRIPTION.read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    return dict(re.findall(r"^([^\t:]+)\s*: ?(.*)$", first, re.MULTILINE))

"""What of a processor decides which bits are computed."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

_DESCRIPTION = Path("/proc/cpuinfo")
_FIELDS = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part", "Features")
_INSTRUCTION_SETS = re.compile(r"(?:avx|amx|fma|sse|ssse|f16c)\w*")


def processor() -> str:
    """Kind of processor, its instruction sets, and what the mathematical library is told to keep to.

    PyTorch's own word for it (`torch.backends.cpu.get_cpu_capability()`) is too coarse: of two processors that are both
    AVX512 one may round other sums, since libraries look at the model and at single instructions.
    """
    try:
        first = _DESCRIPTION.read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        first = ""
    described = dict(re.findall(r"^([^\t:]+)\s*: ?(.*)$", first, re.MULTILINE))
    kind = [described[name] for name in _FIELDS if name in described]
    sets = sorted(_INSTRUCTION_SETS.findall(described.get("flags", "")))
    return " ".join([platform.machine(), *kind, *sets, os.environ.get("MKL_CBWR", "")])

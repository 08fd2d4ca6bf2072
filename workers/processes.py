"""Small things about processes that several parts of the product need."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None  # loaded before any fork


def die_with_parent(signal_number: signal.Signals) -> None:
    """Have the kernel send us this signal when our parent dies, however it dies. Linux only; elsewhere a no-op.

    The setting survives exec, so it also works between fork and exec of a child that is not ours.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number)


def python_module(module: str) -> list[str]:
    """The command that runs one of our modules, whatever lies in the working directory (-P)."""
    return [sys.executable, "-P", "-m", module]

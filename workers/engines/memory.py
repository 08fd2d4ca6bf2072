"""When a device's memory runs out: how to tell, and how many rows may run at once from then on."""

from __future__ import annotations

import torch

FIRST_WAIT_CALLS = 1000

# What allocators say that raise no type of their own: PyTorch's on a CPU, cuBLAS, ONNX Runtime.
_PHRASES = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "Failed to allocate memory", "out of memory")


def out_of_memory(error: Exception) -> bool:
    """Whether an engine's call failed for lack of memory alone, so that less of it may go well."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(phrase in str(error) for phrase in _PHRASES)


class Allowance:
    """How many rows may run at once: half of those for which there was no memory, twice as many after a while.

    The while is counted in calls, and each time that memory runs out it is twice as long. So one that has taken the
    memory for a time does not slow us down for ever, and raising too early costs ever less.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls = 0
        self._wait_calls = FIRST_WAIT_CALLS // 2  # memory has not run out yet
        self.rows = most

    def halve(self, rows: int) -> None:
        """There was no memory for so many rows."""
        self.rows = max(1, rows // 2)
        self._calls, self._wait_calls = 0, 2 * self._wait_calls

    def count_call(self) -> None:
        """A call went well."""
        self._calls += 1
        if self._calls >= self._wait_calls:
            self.rows = min(self._most, 2 * self.rows)
            self._calls = 0

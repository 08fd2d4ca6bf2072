"""What a host and a device tell each other without waiting. On a CPU both have the same memory."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class _Pair:
    """A tensor on a device and its copy in the host's memory, which is page-locked: other memory is copied at once,
    with the host waiting."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.tensor = torch.zeros(shape, dtype=dtype, device=device)
        self._host = torch.zeros(shape, dtype=dtype, pin_memory=True) if self.tensor.is_cuda else self.tensor
        self._copied = torch.cuda.Event() if self.tensor.is_cuda else None  # type: ignore[no-untyped-call]

    def _copy(self, target: Tensor, source: Tensor) -> None:
        if self._copied:
            target.copy_(source, non_blocking=True)
            self._copied.record(torch.cuda.current_stream(self.tensor.device))

    def _wait(self) -> NDArray[Any]:
        if self._copied:
            self._copied.synchronize()
        return self._host.numpy()


class Inbox(_Pair):
    """What the host decides before a call."""

    def open(self) -> NDArray[Any]:
        """To be filled. Waits until what was sent before has been copied."""
        return self._wait()

    def send(self) -> None:
        self._copy(self.tensor, self._host)


class Outbox(_Pair):
    """What the host reads after a call."""

    def send(self) -> None:
        self._copy(self._host, self.tensor)

    def read(self) -> NDArray[Any]:
        """Waits until it is there. The next call overwrites it."""
        return self._wait()

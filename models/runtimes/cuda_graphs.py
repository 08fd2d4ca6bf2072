"""Work of fixed shapes as CUDA graphs: one launch by the host for what otherwise takes hundreds.

Such work is a function without arguments that reads and writes tensors which stay where they are, and never asks the
device for a number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Work = Callable[[], None]


class CudaGraphs:
    """Records work for one device. The works of one recorder run one after the other, on whatever stream is current:
    they share the memory of what they compute in between, which no other recorder uses."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # cuBLAS keeps its scratch memory per stream and writes its address into a graph: on the stream that
        # torch.cuda.graph takes by itself, the graphs of two models would share it, and may run at the same time.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Work) -> Work:
        """Runs the work once, since libraries set themselves up in their first call, then records it."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                work()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                work()
        return graph.replay


class NoGraphs:
    """Leaves work as it is: what a CPU does, and what graphs are compared with."""

    def record(self, work: Work) -> Work:
        return work


Recorder = CudaGraphs | NoGraphs


def recorder_for(device: torch.device) -> Recorder:
    return CudaGraphs(device) if device.type == "cuda" else NoGraphs()

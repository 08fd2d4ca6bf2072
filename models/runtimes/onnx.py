"""The ONNX Runtime: graphs that `export/` made, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contracts.errors import StoreError
from models.gpt2 import Gpt2Config, KvCache
from models.runtimes import PREFILL_CHUNK, SMALLEST_ROWS, row_bucket

MOST_SLOTS = 64
KV_BYTES = 2 << 30


def open_session(graph: Path, threads: int) -> Any:
    """An onnxruntime.InferenceSession. Raises StoreError where the library is missing or refuses the graph."""
    try:
        import onnxruntime
    except ImportError:
        raise StoreError("ONNX variants need ONNX Runtime; install it with: pip install 'kamishibai[cpu]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared with other processes
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        raise StoreError(f"{graph} cannot be run: {error}") from None


class OnnxGpt2Backend:
    """KV cache in contiguous slots, which attention writes in place; decode runs over the first rows of it."""

    device_name = "cpu"

    def __init__(self, graph: Path, config: Gpt2Config, kv_bytes: int = KV_BYTES) -> None:
        affordable = kv_bytes // KvCache.bytes_per_slot(config, torch.float32)
        self.slots = max(SMALLEST_ROWS, min(MOST_SLOTS, affordable // SMALLEST_ROWS * SMALLEST_ROWS))
        self._config = config
        self._session = open_session(graph, torch.get_num_threads())
        shape = (config.layers, self.slots, config.heads, config.context_tokens, config.width // config.heads)
        self._keys = np.zeros(shape, np.float32)
        self._values = np.zeros(shape, np.float32)
        self._steps: dict[int, _Call] = {}  # by rows

    def reset(self, slot: int) -> None:
        """Nothing to do: positions beyond a slot's length are not attended to, and written before they are read."""

    def prefill(self, chunks: list[tuple[int, int, list[int]]]) -> None:
        """Chunk by chunk, each padded to the full width: one shape per place in a prompt."""
        for slot, start, tokens in chunks:
            width = min(PREFILL_CHUNK, self._config.context_tokens - start)
            call = self._call(slot, 1, width, logits=False)
            call.tokens[0, : len(tokens)] = tokens
            call.positions[0] = np.arange(start, start + width)
            call.last[0] = start + width - 1
            call.run(self._session, start + width)

    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """An inactive row writes at its position, which a later prefill or decode of that slot overwrites unread.

        The logits lie in memory that the next call with as many rows overwrites.
        """
        rows = len(tokens)
        if rows not in self._steps:
            self._steps[rows] = self._call(0, rows, 1, logits=True)
        call = self._steps[rows]
        call.tokens[:, 0] = tokens
        call.positions[:, 0] = positions
        call.last[:] = positions
        call.run(self._session, max(positions) + 1)
        return call.logits

    def _call(self, slot: int, rows: int, width: int, logits: bool) -> _Call:
        return _Call(self._session, self._config, self._keys[:, slot:][:, :rows], self._values[:, slot:][:, :rows], rows, width, logits)


class _Call:
    """The inputs and outputs of calls of one shape, bound once to memory that stays: fill it, run."""

    def __init__(self, session: Any, config: Gpt2Config, keys: Any, values: Any, rows: int, width: int, logits: bool) -> None:
        wanted = np.arange(rows * width if logits else 0)
        self.tokens = np.zeros((rows, width), np.int64)
        self.positions = np.zeros((rows, width), np.int64)
        self.last = np.zeros(rows, np.int32)
        self._total = np.zeros(1, np.int32)
        self._logits = np.zeros((len(wanted), config.vocabulary_size), np.float32)
        self.logits = torch.from_numpy(self._logits)
        self._binding = session.io_binding()
        inputs = {"tokens": self.tokens, "positions": self.positions, "last": self.last, "total": self._total, "wanted": wanted}
        self._wanted = wanted
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for layer in range(config.layers):
            for name, array in ((f"keys.{layer}", keys[layer]), (f"values.{layer}", values[layer])):
                self._binding.bind_input(f"past_{name}", "cpu", 0, array.dtype, array.shape, array.ctypes.data)
                self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        array = self._logits
        if logits:
            self._binding.bind_output("logits", "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        else:
            self._binding.bind_output("logits", "cpu")

    def run(self, session: Any, total: int) -> None:
        self._total[0] = total
        session.run_with_iobinding(self._binding)

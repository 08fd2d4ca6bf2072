"""The ONNX Runtime: graphs that `export/` made, on a CPU."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contracts.bundle import GRAPHS, Bundle, Variant
from contracts.errors import StoreError
from contracts.settings import DEFAULT_KV_BYTES
from models.bert import BertConfig
from models.dcgan import DcganConfig, to_pixels
from models.gpt2 import Gpt2Config, KvCache
from models.lstm import LstmConfig, State
from models.runtimes import (
    MACHINE_THREADS,
    MOST_SLOTS,
    PREFILL_CHUNK,
    Chunk,
    ClassifyBackend,
    ImageBackend,
    TextBackend,
    pad_texts,
)
from models.runtimes.pytorch import WindowedLstmBackend
from models.weights import read_config

WIDE_LAYER = 256
BATCH_TOKENS = 256  # of texts that are classified together; more bring nothing (docs/log.md)
# How long threads wait for each other without sleeping: on quiet cores a step gets a fifth faster, on cores that others
# use a quarter slower; longer gains no more and costs more (docs/log.md).
SPIN_MICROSECONDS = 50

Floats = NDArray[np.float32]


def load_text(bundle: Bundle, variant: Variant, kv_bytes: int = DEFAULT_KV_BYTES) -> TextBackend:
    """A text bundle's backend, its KV cache at most `kv_bytes` large.

    Raises StoreError where ONNX Runtime is missing or refuses the graph, or the processor cannot compute it exactly.
    """
    if variant.precision == "int8" and not multiplies_int8_exactly():
        raise StoreError(f"{bundle.path}: variant {variant.name} needs a processor with VNNI; use onnx:fp32")
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    graph = bundle.path / GRAPHS[variant.precision]
    if isinstance(config, Gpt2Config):
        return OnnxGpt2Backend(graph, config, kv_bytes)
    if isinstance(config, LstmConfig):
        return OnnxLstmBackend(graph, config) if config.window is None else OnnxWindowedLstmBackend(graph, config)
    raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and writes no text")


def load_classifier(bundle: Bundle, variant: Variant) -> ClassifyBackend:
    """A classifier bundle's backend. Raises StoreError where ONNX Runtime is missing or refuses the graph."""
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    if not isinstance(config, BertConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and classifies no texts")
    return OnnxBertBackend(bundle.path / GRAPHS[variant.precision], config)


def load_images(bundle: Bundle, variant: Variant) -> ImageBackend:
    """An image bundle's backend. Raises StoreError where ONNX Runtime is missing or refuses the graph."""
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    if not isinstance(config, DcganConfig):
        raise StoreError(f"{bundle.path} writes text and draws no pictures")
    return OnnxDcganBackend(bundle.path / GRAPHS[variant.precision], config)


def multiplies_int8_exactly() -> bool:
    """False for x86 processors without VNNI, whose products of unsigned and signed bytes are clipped to 16 bits."""
    cpus = Path("/proc/cpuinfo")
    return platform.machine() not in {"x86_64", "AMD64"} or not cpus.exists() or "vnni" in cpus.read_text()


def open_session(graph: Path, threads: int) -> Any:
    """An onnxruntime.InferenceSession. Raises StoreError where the library is missing or refuses the graph."""
    try:
        import onnxruntime
    except ImportError:
        raise StoreError("ONNX variants need ONNX Runtime; install it with: pip install 'kamishibai[cpu]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        raise StoreError(f"{graph} cannot be run: {error}") from None


def _input_dtype(session: Any, name: str) -> np.dtype[Any]:
    """The floating-point type of an input."""
    types = {known.name: known.type for known in session.get_inputs()}
    return np.dtype(np.float16 if types[name] == "tensor(float16)" else np.float32)


def bind(session: Any, inputs: dict[str, NDArray[Any]], outputs: dict[str, NDArray[Any]]) -> Any:
    """Ties a graph's inputs and outputs to arrays, which the caller must keep. Returns an onnxruntime.IOBinding."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    return binding


class OnnxGpt2Backend:
    """KV cache in contiguous slots, which attention writes in place; decode runs over the first rows of it."""

    smallest_rows = 1

    def __init__(self, graph: Path, config: Gpt2Config, kv_bytes: int = DEFAULT_KV_BYTES) -> None:
        self.threads = MACHINE_THREADS
        self._session = open_session(graph, self.threads)
        dtype = _input_dtype(self._session, "past_keys.0")
        slot_bytes = KvCache.bytes_per_slot(config, torch.float16 if dtype == np.float16 else torch.float32)
        self.slots = min(MOST_SLOTS, kv_bytes // slot_bytes)
        if not self.slots:
            raise StoreError(
                f"a KV cache of {kv_bytes:,} bytes has no room for one text of {slot_bytes:,}; raise --kv-memory"
            )
        self.vocabulary_size = config.vocabulary_size
        self._config = config
        # Zeros from the system, not yet in memory: a slot costs nothing until it is written.
        shape = (config.layers, self.slots, config.heads, config.context_tokens, config.width // config.heads)
        self._keys, self._values = np.zeros(shape, dtype), np.zeros(shape, dtype)
        self._steps: dict[int, _Call] = {}  # by rows

    def reset(self, slot: int) -> None:
        """Nothing to do: positions beyond a slot's length are not attended to, and written before they are read."""

    def wipe(self, slot: int) -> None:
        for cache in (self._keys, self._values):
            cache[:, slot] = 0

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        for cache in (self._keys, self._values):
            cache[:, targets, :, begin:end] = cache[:, source, None, :, begin:end]

    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """Chunk by chunk, each padded to the full width: one shape per place in a prompt."""
        logits: list[Tensor | None] = []
        for chunk in chunks:
            width = min(PREFILL_CHUNK, self._config.context_tokens - chunk.start)
            call = self._bind(slice(chunk.slot, chunk.slot + 1), width, wanted=width if chunk.scored else 0)
            call.tokens[0, : len(chunk.tokens)] = chunk.tokens
            call.run(np.arange(chunk.start, chunk.start + width)[None])
            logits.append(torch.from_numpy(call.logits[: len(chunk.tokens)]) if chunk.scored else None)
        return logits

    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """An inactive row writes at its position, which a later prefill or decode of that slot overwrites unread.

        The logits lie in memory that the next call with as many rows overwrites.
        """
        torch.set_num_threads(1)  # the sampler's threads would fight with this runtime's
        rows = len(tokens)
        if rows not in self._steps:
            self._steps[rows] = self._bind(slice(0, rows), 1, wanted=rows)
        step = self._steps[rows]
        step.tokens[:, 0] = tokens
        step.run(np.asarray(positions)[:, None])
        return torch.from_numpy(step.logits)

    def _bind(self, slots: slice, width: int, wanted: int) -> _Call:
        logits = np.empty((wanted, self._config.vocabulary_size), np.float32)
        return _Call(self._session, self._keys[:, slots], self._values[:, slots], width, logits)


def _lstm_threads(config: LstmConfig) -> int:
    """Handing layers as small as these to a second thread costs more than it brings."""
    return 1 if max(config.layers) < WIDE_LAYER else MACHINE_THREADS


class OnnxLstmBackend:
    """State carried in slots, which a call writes in place: h and c per layer."""

    smallest_rows = 1

    def __init__(self, graph: Path, config: LstmConfig, slots: int = MOST_SLOTS) -> None:
        self.slots = slots
        self.vocabulary_size = config.vocabulary_size
        self.threads = _lstm_threads(config)
        self._session = open_session(graph, self.threads)
        self._state = {
            f"{part}.{layer}": np.zeros((slots, size), np.float32)
            for layer, size in enumerate(config.layers)
            for part in "hc"
        }
        self._steps: dict[int, _Advance] = {}  # by rows

    def reset(self, slot: int) -> None:
        for array in self._state.values():
            array[slot] = 0

    wipe = reset

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        for array in self._state.values():
            array[targets] = array[source]

    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """All chunks together; the other rows keep their state."""
        rows, longest = max(chunk.slot for chunk in chunks) + 1, max(len(chunk.tokens) for chunk in chunks)
        wanted = rows * longest if any(chunk.scored for chunk in chunks) else 0
        call = self._bind(rows, longest, wanted)
        for chunk in chunks:
            call.tokens[chunk.slot, : len(chunk.tokens)] = chunk.tokens
            call.active[chunk.slot, : len(chunk.tokens)] = True
        call.run()
        logits = torch.from_numpy(call.logits).view(rows, wanted // rows, self.vocabulary_size)
        return [logits[chunk.slot, : len(chunk.tokens)] if chunk.scored else None for chunk in chunks]

    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """The logits lie in memory that the next call with as many rows overwrites."""
        torch.set_num_threads(1)  # the sampler's threads would fight with this runtime's
        rows = len(tokens)
        if rows not in self._steps:
            self._steps[rows] = self._bind(rows, time=1, wanted=rows)
        step = self._steps[rows]
        step.tokens[:, 0], step.active[:, 0] = tokens, active
        step.run()
        return torch.from_numpy(step.logits)

    def _bind(self, rows: int, time: int, wanted: int) -> _Advance:
        state = {name: array[:rows] for name, array in self._state.items()}
        return _Advance(self._session, state, (rows, time), np.arange(wanted), self.vocabulary_size)


class OnnxBertBackend:
    """Texts are padded to their length bucket, and their number to a power of two: few shapes, all of them probed."""

    def __init__(self, graph: Path, config: BertConfig) -> None:
        self.vocabulary_size = config.vocabulary_size
        self.context_tokens = config.context_tokens
        self.labels = config.labels
        self.batch_tokens = BATCH_TOKENS
        self.threads = 1 if config.width < WIDE_LAYER else MACHINE_THREADS
        self._config = config
        self._session = open_session(graph, self.threads)

    def classify(self, texts: list[list[int]]) -> Tensor:
        tokens, lengths = pad_texts(texts)
        behind = torch.arange(tokens.shape[1]) >= lengths[:, None]  # (rows, T)
        mask = torch.zeros(behind.shape).masked_fill(behind, -torch.inf)[:, None, None]
        inputs = {"tokens": tokens, "positions": self._config.positions(tokens), "mask": mask}
        (logits,) = self._session.run(["logits"], {name: array.numpy() for name, array in inputs.items()})
        return torch.from_numpy(logits)[: len(texts)]


class OnnxWindowedLstmBackend(WindowedLstmBackend):
    """Windows run through the graph from the zero state."""

    smallest_rows = 1

    def __init__(self, graph: Path, config: LstmConfig) -> None:
        super().__init__(_WindowProgram(graph, config), torch.device("cpu"))
        self.threads = _lstm_threads(config)


class _WindowProgram:
    """A graph with the calls of `LstmLanguageModel` that the backend of windows uses."""

    def __init__(self, graph: Path, config: LstmConfig) -> None:
        self.config = config
        self._session = open_session(graph, _lstm_threads(config))

    def parameters(self) -> Iterator[nn.Parameter]:
        """None that PyTorch's threads would work on."""
        return iter(())

    def zero_state(self, rows: int) -> State:
        return [(torch.zeros(rows, size), torch.zeros(rows, size)) for size in self.config.layers]

    def advance(self, tokens: Tensor, active: Tensor, wanted: Tensor, state: State) -> tuple[Tensor, State]:
        """As `LstmLanguageModel.advance`; the state is written in place."""
        arrays = {
            f"{part}.{layer}": tensor.numpy()
            for layer, pair in enumerate(state)
            for part, tensor in zip("hc", pair, strict=True)
        }
        rows, time = tokens.shape
        call = _Advance(self._session, arrays, (rows, time), wanted.numpy(), self.config.vocabulary_size)
        call.tokens[:], call.active[:] = tokens.numpy(), active.numpy()
        call.run()
        return torch.from_numpy(call.logits), state


class _Advance:
    """LSTM calls of one shape, bound once: fill `tokens` and `active` (rows, time), run, read `logits` (wanted, V)."""

    def __init__(
        self,
        session: Any,
        state: dict[str, Floats],
        shape: tuple[int, int],
        wanted: NDArray[np.int64],
        vocabulary_size: int,
    ) -> None:
        self.tokens = np.zeros(shape, np.int64)
        self.active = np.zeros(shape, np.bool_)
        self.logits = np.empty((len(wanted), vocabulary_size), np.float32)
        self._wanted = wanted
        inputs: dict[str, NDArray[Any]] = {"tokens": self.tokens, "active": self.active, "wanted": self._wanted}
        self._session = session
        self._binding = bind(
            session, inputs | {f"past_{name}": part for name, part in state.items()}, {"logits": self.logits, **state}
        )

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)


class OnnxDcganBackend:
    def __init__(self, graph: Path, config: DcganConfig) -> None:
        self.latent = config.latent
        self.threads = MACHINE_THREADS
        self._session = open_session(graph, self.threads)
        self._dtype = _input_dtype(self._session, "latents")

    def paint(self, latents: Tensor) -> Tensor:
        (pictures,) = self._session.run(None, {"latents": latents[:, :, None, None].numpy().astype(self._dtype)})
        return torch.from_numpy(pictures)

    def draw(self, latents: Tensor) -> Tensor:
        return to_pixels(self.paint(latents))


class _Call:
    """Calls of one shape, whose inputs and outputs are bound once: fill `tokens`, run, read `logits`.

    Keys and values (layers, rows, H, C, D) are read and written where they lie; logits (rows or 0, V).
    """

    def __init__(self, session: Any, keys: Floats, values: Floats, width: int, logits: Floats) -> None:
        rows = keys.shape[1]
        self.tokens = np.zeros((rows, width), np.int64)
        self.logits = logits
        self._positions = np.zeros((rows, width), np.int64)
        self._last = np.zeros(rows, np.int32)
        self._total = np.zeros(1, np.int32)
        self._wanted = np.arange(len(logits))
        self._session = session
        own: dict[str, NDArray[Any]]
        own = {"tokens": self.tokens, "positions": self._positions, "last": self._last, "total": self._total}
        cache = {
            f"{part}.{layer}": array[layer]
            for part, array in (("keys", keys), ("values", values))
            for layer in range(len(array))
        }
        past = {f"past_{name}": array for name, array in cache.items()}
        self._binding = bind(session, {**own, "wanted": self._wanted, **past}, {"logits": logits, **cache})

    def run(self, positions: NDArray[np.int64]) -> None:
        """One call at these positions (rows, width)."""
        self._positions[:] = positions
        self._last[:] = positions[:, -1]
        self._total[0] = positions.max() + 1
        self._session.run_with_iobinding(self._binding)

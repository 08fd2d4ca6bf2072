"""The ONNX Runtime: graphs that `export/` made, on a CPU or an NVIDIA GPU."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contracts.bundle import GRAPHS, WRITERS, Bundle, Family, Precision, Variant
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
    Steps,
    TextBackend,
    Writer,
    Written,
    pad_texts,
)
from models.runtimes.onnx_session import CPU, Call, Session
from models.runtimes.pytorch import GPU_BATCH_TOKENS, WindowedLstmBackend
from models.weights import read_config

WIDE_LAYER = 256
BATCH_TOKENS = 256  # of texts that are classified together; more bring nothing (docs/log.md)
MOST_CALLS = 128  # of different shapes that stay bound: binding a call anew takes as long as a small model's step

_INT8_PRODUCTS = "ONNX Runtime has no CUDA operator for products with a scale per row (MatMulIntegerToFloat)"
# What a CPU runs and a GPU does not; ONNX Runtime would run these parts on the CPU, and copy for it in every call.
NOT_ON_CUDA: dict[tuple[Family, Precision], str] = {
    ("lstm", "int8"): f"{_INT8_PRODUCTS}; use onnx:fp32 there",
    ("gpt2", "fp32"): "ONNX Runtime's CUDA operator for attention over a cache that is written in place "
    "(GroupQueryAttention) knows fp16 and bf16 alone; use onnx:fp16 there",
    ("gpt2", "int8"): f"{_INT8_PRODUCTS}, nor one for attention (GroupQueryAttention) in fp32; use onnx:fp16 there",
    ("dcgan", "int8"): "ONNX Runtime makes int32 of the biases, for which it has no CUDA operator (DequantizeLinear), "
    "and computes in fp32 anyway; use onnx:fp16 there",
    ("bert", "int8"): f"{_INT8_PRODUCTS}; use onnx:fp32 there",
    ("roberta", "int8"): f"{_INT8_PRODUCTS}; use onnx:fp32 there",
}


def load_text(
    bundle: Bundle, variant: Variant, device: torch.device = CPU, kv_bytes: int = DEFAULT_KV_BYTES
) -> TextBackend:
    """A text bundle's backend, its KV cache at most `kv_bytes` large.

    Raises StoreError where ONNX Runtime is missing or refuses the graph, or the device cannot compute it exactly.
    """
    check_device(bundle, variant, device)
    if variant.precision == "int8" and not multiplies_int8_exactly():
        raise StoreError(f"{bundle.path}: variant {variant.name} needs a processor with VNNI; use onnx:fp32")
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    graph = bundle.path / GRAPHS[variant.precision]
    if isinstance(config, Gpt2Config):
        return OnnxGpt2Backend(graph, config, kv_bytes, device)
    if isinstance(config, LstmConfig) and config.window is not None:
        return OnnxWindowedLstmBackend(graph, config, device=device)
    if isinstance(config, LstmConfig):
        return OnnxLstmBackend(graph, config, device=device, writer_graph=_writer_graph(bundle, variant, device))
    raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and writes no text")


def _writer_graph(bundle: Bundle, variant: Variant, device: torch.device) -> Path | None:
    """None for older exports, which have none, and on a GPU: where ONNX Runtime would place its operators was not seen
    there, and one on the CPU would have the whole variant refused."""
    writer = WRITERS[variant.precision]
    return bundle.path / writer if device.type == "cpu" and writer in bundle.manifest.files else None


def load_classifier(bundle: Bundle, variant: Variant, device: torch.device = CPU) -> ClassifyBackend:
    """A classifier bundle's backend. Raises StoreError where ONNX Runtime is missing or refuses the graph."""
    check_device(bundle, variant, device)
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    if not isinstance(config, BertConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and classifies no texts")
    return OnnxBertBackend(bundle.path / GRAPHS[variant.precision], config, device)


def load_images(bundle: Bundle, variant: Variant, device: torch.device = CPU) -> ImageBackend:
    """An image bundle's backend. Raises StoreError where ONNX Runtime is missing or refuses the graph."""
    check_device(bundle, variant, device)
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    if not isinstance(config, DcganConfig):
        raise StoreError(f"{bundle.path} writes text and draws no pictures")
    return OnnxDcganBackend(bundle.path / GRAPHS[variant.precision], config, device)


def check_device(bundle: Bundle, variant: Variant, device: torch.device) -> None:
    """Raises StoreError for a device on which ONNX Runtime does not run this variant, with the reason."""
    if device.type not in {"cpu", "cuda"}:
        raise StoreError(f"{bundle.path}: variant {variant.name} runs on a CPU or an NVIDIA GPU, not on {device}")
    reason = NOT_ON_CUDA.get((bundle.manifest.family, variant.precision))
    if device.type == "cuda" and reason:
        raise StoreError(f"{bundle.path}: variant {variant.name} does not run on {device}: {reason}")


def multiplies_int8_exactly() -> bool:
    """False for x86 processors without VNNI, whose products of unsigned and signed bytes are clipped to 16 bits."""
    cpus = Path("/proc/cpuinfo")
    return platform.machine() not in {"x86_64", "AMD64"} or not cpus.exists() or "vnni" in cpus.read_text()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On a CPU from the system, not yet in memory: a slot costs nothing until it is written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, np.float16 if dtype == torch.float16 else np.float32))


class OnnxGpt2Backend:
    """KV cache in contiguous slots, which attention writes in place; decode runs over the first rows of it."""

    smallest_rows = 1
    writer: Writer | None = None

    def __init__(
        self, graph: Path, config: Gpt2Config, kv_bytes: int = DEFAULT_KV_BYTES, device: torch.device = CPU
    ) -> None:
        self.threads = MACHINE_THREADS
        self._session = Session(graph, self.threads, device)
        dtype = self._session.dtype("past_keys.0")
        slot_bytes = KvCache.bytes_per_slot(config, dtype)
        self.slots = min(MOST_SLOTS, kv_bytes // slot_bytes)
        if not self.slots:
            raise StoreError(
                f"a KV cache of {kv_bytes:,} bytes has no room for one text of {slot_bytes:,}; raise --kv-memory"
            )
        self.vocabulary_size = config.vocabulary_size
        self._config = config
        shape = (config.layers, self.slots, config.heads, config.context_tokens, config.width // config.heads)
        self._keys, self._values = _zeros(shape, dtype, device), _zeros(shape, dtype, device)
        self._call = lru_cache(MOST_CALLS)(self._bind)

    def reset(self, slot: int) -> None:
        """Nothing to do: positions beyond a slot's length are not attended to, and written before they are read."""

    def wipe(self, slot: int) -> None:
        for cache in (self._keys, self._values):
            cache[:, slot] = 0

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        for cache in (self._keys, self._values):
            for target in targets:  # one after the other: an index of several is no plain copy and takes twice as long
                cache[:, target, :, begin:end] = cache[:, source, :, begin:end]

    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """Chunk by chunk, each padded to the full width: one shape per place in a prompt."""
        logits: list[Tensor | None] = []
        for chunk in chunks:
            width = min(PREFILL_CHUNK, self._config.context_tokens - chunk.start)
            # Logits of prompts are large and rarely wanted, so calls that write them are not kept.
            call = (self._bind if chunk.scored else self._call)(chunk.slot, 1, width, width if chunk.scored else 0)
            call.given["tokens"][:] = chunk.tokens + [0] * (width - len(chunk.tokens))
            call.run_at(np.arange(chunk.start, chunk.start + width)[None])
            logits.append(call.logits[: len(chunk.tokens)] if chunk.scored else None)
        return logits

    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """An inactive row writes at its position, which a later prefill or decode of that slot overwrites unread.

        The logits lie in memory that the next call with as many rows overwrites.
        """
        torch.set_num_threads(1)  # the sampler's threads would fight with this runtime's
        step = self._call(0, len(tokens), 1, len(tokens))
        step.given["tokens"][:, 0] = tokens
        step.run_at(np.asarray(positions)[:, None])
        return step.logits

    def _bind(self, slot: int, rows: int, width: int, wanted: int) -> _Gpt2Call:
        """Calls over so many slots from one on, and so many tokens in each."""
        keys, values = (cache[:, slot : slot + rows] for cache in (self._keys, self._values))
        logits = torch.empty(wanted, self._config.vocabulary_size, device=self._session.device)
        return _Gpt2Call(self._session, keys, values, width, logits)


class _Gpt2Call(Call):
    """Keys and values (layers, rows, H, C, D) are read and written where they lie; logits (rows or 0, V)."""

    def __init__(self, session: Session, keys: Tensor, values: Tensor, width: int, logits: Tensor) -> None:
        self.logits = logits
        rows = keys.shape[1]
        given: dict[str, NDArray[Any]] = {
            "tokens": np.zeros((rows, width), np.int64),
            "positions": np.zeros((rows, width), np.int64),
            "last": np.zeros(rows, np.int32),
            "total": np.zeros(1, np.int32),
        }
        cache = {
            f"{part}.{layer}": tensor[layer]
            for part, tensor in (("keys", keys), ("values", values))
            for layer in range(len(tensor))
        }
        kept = {f"past_{name}": tensor for name, tensor in cache.items()}
        kept["wanted"] = torch.arange(len(logits), device=session.device)
        super().__init__(session, given, kept, {"logits": logits, **cache})

    def run_at(self, positions: NDArray[np.int64]) -> None:
        """One call at these positions (rows, width)."""
        self.given["positions"][:] = positions
        self.given["last"][:] = positions[:, -1]
        self.given["total"][0] = positions.max() + 1
        self.run()


def _lstm_threads(config: LstmConfig) -> int:
    """Handing layers as small as these to a second thread costs more than it brings."""
    return 1 if max(config.layers) < WIDE_LAYER else MACHINE_THREADS


class OnnxLstmBackend:
    """State carried in slots, which a call writes in place: h and c per layer."""

    smallest_rows = 1

    def __init__(
        self,
        graph: Path,
        config: LstmConfig,
        slots: int = MOST_SLOTS,
        device: torch.device = CPU,
        writer_graph: Path | None = None,
    ) -> None:
        self.slots = slots
        self.vocabulary_size = config.vocabulary_size
        self.threads = _lstm_threads(config)
        self._session = Session(graph, self.threads, device)
        # h and c of all layers of one size, (parts, slots, size): what is done to a slot is one operation for them.
        self._blocks = {
            size: torch.zeros(2 * config.layers.count(size), slots, size, device=device) for size in config.layers
        }
        unused = {size: iter(block) for size, block in self._blocks.items()}
        state = {f"{part}.{layer}": next(unused[size]) for layer, size in enumerate(config.layers) for part in "hc"}
        self._state = state
        self._call = lru_cache(MOST_CALLS)(self._bind)
        self.writer: Writer | None = None
        if writer_graph:
            self.writer = _OnnxLstmWriter(Session(writer_graph, self.threads, device), state, config.vocabulary_size)

    def reset(self, slot: int) -> None:
        for block in self._blocks.values():
            block[:, slot] = 0

    wipe = reset

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        for block in self._blocks.values():
            block[:, targets] = block[:, source, None]

    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """All chunks together; the other rows keep their state."""
        rows, longest = max(chunk.slot for chunk in chunks) + 1, max(len(chunk.tokens) for chunk in chunks)
        wanted = rows * longest if any(chunk.scored for chunk in chunks) else 0
        call = (self._bind if wanted else self._call)(rows, longest, wanted)
        call.given["active"][:] = False
        for chunk in chunks:
            call.given["tokens"][chunk.slot, : len(chunk.tokens)] = chunk.tokens
            call.given["active"][chunk.slot, : len(chunk.tokens)] = True
        call.run()
        logits = call.logits.view(rows, wanted // rows, self.vocabulary_size)
        return [logits[chunk.slot, : len(chunk.tokens)] if chunk.scored else None for chunk in chunks]

    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """The logits lie in memory that the next call with as many rows overwrites."""
        torch.set_num_threads(1)  # the sampler's threads would fight with this runtime's
        step = self._call(len(tokens), 1, len(tokens))
        step.given["tokens"][:, 0], step.given["active"][:, 0] = tokens, active
        step.run()
        return step.logits

    def _bind(self, rows: int, time: int, wanted: int) -> _LstmCall:
        given = {"tokens": np.zeros((rows, time), np.int64), "active": np.zeros((rows, time), np.bool_)}
        return _LstmCall(self._session, given, self._state, wanted, self.vocabulary_size)


class _OnnxLstmWriter:
    """Works on the state of the backend that it belongs to."""

    def __init__(self, session: Session, state: dict[str, Tensor], vocabulary_size: int) -> None:
        self._session = session
        self._state = state
        self._vocabulary_size = vocabulary_size
        self._call = lru_cache(MOST_CALLS)(self._bind)

    def write(self, tokens: list[int], positions: list[int], active: list[bool], steps: Steps) -> Written:
        torch.set_num_threads(1)  # the caller's would fight with this runtime's
        call = self._call(*steps.uniforms.shape)
        call.given["tokens"][:], call.given["active"][:, 0] = tokens, active
        call.given["uniforms"][:], call.given["temperatures"][:] = steps.uniforms, steps.temperatures
        call.run()
        drawn, totals = (call.outputs[name].cpu().numpy() for name in ("drawn", "totals"))
        return Written(drawn, np.isfinite(totals).all(-1), call.logits)

    def _bind(self, rows: int, steps: int) -> _LstmCall:
        given: dict[str, NDArray[Any]] = {
            "tokens": np.zeros(rows, np.int64),
            "active": np.zeros((rows, 1), np.bool_),
            "uniforms": np.zeros((rows, steps)),
            "temperatures": np.ones(rows, np.float32),
        }
        device = self._session.device
        written = {
            "drawn": torch.empty(rows, steps, dtype=torch.int64, device=device),
            "totals": torch.empty(rows, steps, dtype=torch.float64, device=device),
        }
        wanted = rows if steps == 1 else 0
        return _LstmCall(self._session, given, self._state, wanted, self._vocabulary_size, written)


class _LstmCall(Call):
    """Over the first slots of a state, which is written where it lies; logits (wanted, V)."""

    def __init__(
        self,
        session: Session,
        given: dict[str, NDArray[Any]],
        state: dict[str, Tensor],
        wanted: int,
        vocabulary_size: int,
        written: dict[str, Tensor] | None = None,
    ) -> None:
        rows = len(given["tokens"])
        self.logits = torch.empty(wanted, vocabulary_size, device=session.device)
        parts = {name: part[:rows] for name, part in state.items()}
        kept = {"wanted": torch.arange(wanted, device=session.device)}
        kept |= {f"past_{name}": part for name, part in parts.items()}
        super().__init__(session, given, kept, {"logits": self.logits, **parts, **(written or {})})


class OnnxWindowedLstmBackend(WindowedLstmBackend):
    """Windows run through the graph from the zero state."""

    smallest_rows = 1

    def __init__(self, graph: Path, config: LstmConfig, device: torch.device = CPU) -> None:
        super().__init__(_WindowProgram(graph, config, device), device)
        self.threads = _lstm_threads(config)


class _WindowProgram:
    """A graph with the calls of `LstmLanguageModel` that the backend of windows uses."""

    def __init__(self, graph: Path, config: LstmConfig, device: torch.device) -> None:
        self.config = config
        self._session = Session(graph, _lstm_threads(config), device)

    def parameters(self) -> Iterator[nn.Parameter]:
        """None that PyTorch's threads would work on."""
        return iter(())

    def zero_state(self, rows: int) -> State:
        device = self._session.device
        return [
            (torch.zeros(rows, size, device=device), torch.zeros(rows, size, device=device))
            for size in self.config.layers
        ]

    def advance(self, tokens: Tensor, active: Tensor, wanted: Tensor, state: State) -> tuple[Tensor, State]:
        """As `LstmLanguageModel.advance`; the state is written in place."""
        parts = {
            f"{part}.{layer}": tensor
            for layer, pair in enumerate(state)
            for part, tensor in zip("hc", pair, strict=True)
        }
        logits = torch.empty(len(wanted), self.config.vocabulary_size, device=self._session.device)
        kept = {"tokens": tokens, "active": active.to(tokens.device), "wanted": wanted}
        kept |= {f"past_{name}": part for name, part in parts.items()}
        Call(self._session, {}, kept, {"logits": logits, **parts}).run()
        return logits, state


class OnnxBertBackend:
    """Texts are padded to their length bucket, and their number to a power of two: few shapes, all of them probed."""

    def __init__(self, graph: Path, config: BertConfig, device: torch.device = CPU) -> None:
        self.vocabulary_size = config.vocabulary_size
        self.context_tokens = config.context_tokens
        self.labels = config.labels
        self.batch_tokens = BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
        self.threads = 1 if config.width < WIDE_LAYER else MACHINE_THREADS
        self._config = config
        self._session = Session(graph, self.threads, device)
        self._call = lru_cache(MOST_CALLS)(self._bind)

    def classify(self, texts: list[list[int]]) -> Tensor:
        tokens, lengths = pad_texts(texts)
        call = self._call(*tokens.shape)
        call.given["tokens"][:] = tokens.numpy()
        call.given["positions"][:] = self._config.positions(tokens).numpy()
        behind = torch.arange(tokens.shape[1]) >= lengths[:, None]  # (rows, T)
        call.given["mask"][:, 0, 0] = np.where(behind.numpy(), -np.inf, 0)
        call.run()
        return call.outputs["logits"][: len(texts)].to("cpu", copy=True)

    def _bind(self, rows: int, width: int) -> Call:
        given: dict[str, NDArray[Any]] = {
            "tokens": np.zeros((rows, width), np.int64),
            "positions": np.zeros((rows, width), np.int64),
            "mask": np.zeros((rows, 1, 1, width), np.float32),
        }
        return Call(self._session, given, {}, {"logits": torch.empty(rows, self.labels, device=self._session.device)})


class OnnxDcganBackend:
    def __init__(self, graph: Path, config: DcganConfig, device: torch.device = CPU) -> None:
        self.latent = config.latent
        self.threads = MACHINE_THREADS
        self._shape = (config.channels, config.size, config.size)
        self._session = Session(graph, self.threads, device)
        self._call = lru_cache(MOST_CALLS)(self._bind)

    def paint(self, latents: Tensor) -> Tensor:
        """The pictures lie in memory that the next call with as many overwrites."""
        call = self._call(len(latents))
        call.given["latents"][:, :, 0, 0] = latents.numpy()
        call.run()
        return call.outputs["pictures"]

    def draw(self, latents: Tensor) -> Tensor:
        return to_pixels(self.paint(latents)).cpu()

    def _bind(self, count: int) -> Call:
        device, half = self._session.device, self._session.dtype("latents") == torch.float16
        latents = np.zeros((count, self.latent, 1, 1), np.float16 if half else np.float32)
        pictures = torch.empty(count, *self._shape, device=device)
        return Call(self._session, {"latents": latents}, {}, {"pictures": pictures})

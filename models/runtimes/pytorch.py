"""The PyTorch runtime: the fp32 weights of a bundle, cast to a variant's precision and run eagerly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from contracts.bundle import Bundle
from contracts.errors import StoreError
from contracts.settings import DEFAULT_KV_BYTES
from models.bert import Bert, BertConfig
from models.dcgan import DcganConfig, generator, to_pixels
from models.gpt2 import Gpt2, Gpt2Config, KvCache
from models.lstm import LstmConfig, LstmLanguageModel, State
from models.runtimes import (
    LENGTH_STEP,
    MACHINE_THREADS,
    MOST_SLOTS,
    PREFILL_CHUNK,
    SMALLEST_ROWS,
    Chunk,
    ClassifyBackend,
    ImageBackend,
    TextBackend,
    pad_texts,
)
from models.weights import fitting_weights

SMALL_MODEL_PARAMETERS = 20_000_000  # below this, handing work to a second thread costs more than it brings
MOST_CHUNKS = 8  # of prompts that GPT-2 reads together; more bring nothing
BATCH_TOKENS = 256  # that a CPU reads together; more bring nothing (docs/log.md)
GPU_BATCH_TOKENS = 16_384
MOST_WINDOWS = 128  # windows that are run together: enough for the products, few enough for a core's cache

Module = TypeVar("Module", bound=nn.Module)


def load_text(
    bundle: Bundle, device: torch.device, kv_bytes: int = DEFAULT_KV_BYTES, dtype: torch.dtype = torch.float32
) -> TextBackend:
    """A text bundle's backend with weights, states and keys of `dtype`, its KV cache at most `kv_bytes` large.

    Raises StoreError where weights and config do not fit together or the cache has no room for the smallest batch.
    """
    config, weights = fitting_weights(bundle)
    if isinstance(config, Gpt2Config):
        return Gpt2Backend(_with_weights(Gpt2(config), weights, device, dtype), device, kv_bytes)
    if not isinstance(config, LstmConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and writes no text")
    return lstm_backend(_with_weights(LstmLanguageModel(config), weights, device, dtype), device)


def load_images(bundle: Bundle, device: torch.device, dtype: torch.dtype = torch.float32) -> ImageBackend:
    """An image bundle's backend in `dtype`. Raises StoreError where weights and config do not fit together."""
    config, weights = fitting_weights(bundle)
    if not isinstance(config, DcganConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and draws no pictures")
    return DcganBackend(_with_weights(generator(config), weights, device, dtype), config.latent, device)


def load_classifier(bundle: Bundle, device: torch.device, dtype: torch.dtype = torch.float32) -> ClassifyBackend:
    """A classifier bundle's backend in `dtype`. Raises StoreError where weights and config do not fit together."""
    config, weights = fitting_weights(bundle)
    if not isinstance(config, BertConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and classifies no texts")
    return BertBackend(_with_weights(Bert(config), weights, device, dtype), device)


def _with_weights(module: Module, weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> Module:
    module.load_state_dict(weights)
    return module.to(device, dtype).eval().requires_grad_(False)


class HasParameters(Protocol):
    def parameters(self) -> Iterator[nn.Parameter]: ...


def threads_for(model: HasParameters) -> int:
    """How many CPU threads a model's calls use: fixed by the model and the machine, never by what else is running."""
    small = sum(weight.numel() for weight in model.parameters()) < SMALL_MODEL_PARAMETERS
    return 1 if small else MACHINE_THREADS


def _may_share(device: torch.device, threads: int) -> bool:
    """Whether prompts can be read together, in numbers of rows that depend on what else is waiting.

    On one thread of a CPU, products keep a row's bits for every multiple of 4 rows. Work that is split among threads is
    split elsewhere for other numbers of rows, which changes bits (seen from 5 threads on); a GPU was not measured.
    """
    return device.type == "cpu" and threads == 1


class LstmProgram(HasParameters, Protocol):
    """What runs an LSTM: our module, or an archive of it."""

    @property
    def config(self) -> LstmConfig: ...

    def zero_state(self, rows: int) -> State: ...

    def advance(self, tokens: Tensor, active: Tensor, wanted: Tensor, state: State) -> tuple[Tensor, State]:
        """As `LstmLanguageModel.advance`."""


def lstm_backend(model: LstmProgram, device: torch.device) -> LstmBackend | WindowedLstmBackend:
    """The backend of the kind of LSTM that this is."""
    return LstmBackend(model, device) if model.config.window is None else WindowedLstmBackend(model, device)


class LstmBackend:
    """State carried in slots: h and c per layer."""

    smallest_rows = SMALLEST_ROWS

    def __init__(self, model: LstmProgram, device: torch.device, slots: int = MOST_SLOTS) -> None:
        self.slots = slots
        self.vocabulary_size = model.config.vocabulary_size
        self.threads = threads_for(model)
        self._device = device
        self._model = model
        self._state = model.zero_state(slots)  # row = slot

    def reset(self, slot: int) -> None:
        for h, c in self._state:
            h[slot] = 0
            c[slot] = 0

    wipe = reset

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        for h, c in self._state:
            h[targets], c[targets] = h[source].clone(), c[source].clone()

    @torch.inference_mode()
    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """All chunks together; rows that have ended keep their state."""
        torch.set_num_threads(self.threads)
        rows = max(SMALLEST_ROWS, 1 << (len(chunks) - 1).bit_length())
        lengths = [len(chunk.tokens) for chunk in chunks] + [0] * (rows - len(chunks))
        longest = max(lengths)
        padded = [chunk.tokens + [0] * (longest - len(chunk.tokens)) for chunk in chunks]
        padded += [[0] * longest] * (rows - len(chunks))
        active = torch.arange(longest) < torch.tensor(lengths)[:, None]
        wanted = torch.arange(rows * longest if any(chunk.scored for chunk in chunks) else 0, device=self._device)
        slots = torch.tensor([chunk.slot for chunk in chunks], device=self._device)
        state = self._model.zero_state(rows)
        for (h, c), (slot_h, slot_c) in zip(state, self._state, strict=True):
            h[: len(chunks)], c[: len(chunks)] = slot_h[slots], slot_c[slots]
        logits, state = self._model.advance(torch.tensor(padded, device=self._device), active, wanted, state)
        for (h, c), (slot_h, slot_c) in zip(state, self._state, strict=True):
            slot_h[slots], slot_c[slots] = h[: len(chunks)], c[: len(chunks)]
        by_row = logits.float().view(rows, len(wanted) // rows, self.vocabulary_size)
        return [by_row[row, : len(chunk.tokens)] if chunk.scored else None for row, chunk in enumerate(chunks)]

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        torch.set_num_threads(self.threads)
        rows = len(tokens)
        before: State = [(h[:rows], c[:rows]) for h, c in self._state]
        fed = torch.tensor(tokens, device=self._device)[:, None]
        wanted = torch.arange(rows, device=self._device)
        logits, after = self._model.advance(fed, torch.tensor(active)[:, None], wanted, before)
        for (h, c), (new_h, new_c) in zip(before, after, strict=True):
            h.copy_(new_h)
            c.copy_(new_c)
        return logits.float()


class WindowedLstmBackend:
    """Each token is predicted from the last `window` tokens with zero initial state; a slot holds those tokens."""

    smallest_rows = SMALLEST_ROWS

    def __init__(self, model: LstmProgram, device: torch.device, slots: int = MOST_SLOTS) -> None:
        if model.config.window is None:
            raise ValueError("this model carries its state; use LstmBackend")
        self.slots = slots
        self.vocabulary_size = model.config.vocabulary_size
        self.threads = threads_for(model)
        self._device = device
        self._model = model
        self._window = model.config.window
        self._recent: list[list[int]] = [[] for _ in range(slots)]

    def reset(self, slot: int) -> None:
        self._recent[slot] = []

    wipe = reset

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        for target in targets:
            self._recent[target] = list(self._recent[source])

    @torch.inference_mode()
    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """Reading costs nothing here; scoring runs the window that ends at each token, those of all chunks together."""
        torch.set_num_threads(self.threads)
        parts: list[list[list[int]]] = []  # of each scored chunk its windows
        for chunk in chunks:
            known = self._recent[chunk.slot] + chunk.tokens
            if chunk.scored:
                ends = range(len(known) - len(chunk.tokens) + 1, len(known) + 1)
                parts.append([known[max(0, end - self._window) : end] for end in ends])
            self._recent[chunk.slot] = known[-self._window :]
        groups = [list(chain(*parts))] if _may_share(self._device, self.threads) else parts
        rows = chain.from_iterable(self._score(group) for group in groups)
        return [torch.stack([next(rows) for _ in chunk.tokens]) if chunk.scored else None for chunk in chunks]

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        torch.set_num_threads(self.threads)
        windows = [
            (self._recent[row] + [token])[-self._window :] if active[row] else [] for row, token in enumerate(tokens)
        ]
        for row, window in enumerate(windows):
            if window:
                self._recent[row] = window
        return self._run(windows)

    def _score(self, windows: list[list[int]]) -> list[Tensor]:
        """Logits (vocabulary,) after each window. Rows are padded to shapes that a row's bits do not depend on."""
        logits: list[Tensor] = []
        for begin in range(0, len(windows), MOST_WINDOWS):
            group = windows[begin : begin + MOST_WINDOWS]
            logits += self._run(group + [[]] * (-len(group) % PREFILL_CHUNK))[: len(group)]
        return logits

    def _run(self, windows: list[list[int]]) -> Tensor:
        """Logits (rows, vocabulary) after each window, from zero state; those of an empty one mean nothing.

        Windows are aligned at their ends: a row whose window is shorter keeps the zero state until it begins.
        """
        steps = max(len(window) for window in windows)
        padded = torch.tensor([[0] * (steps - len(window)) + window for window in windows], device=self._device)
        begins = torch.tensor([steps - len(window) if window else 0 for window in windows])
        active = torch.arange(steps) >= begins[:, None]
        wanted = torch.arange(1, len(windows) + 1, device=self._device) * steps - 1  # the last of each
        logits, _ = self._model.advance(padded, active, wanted, self._model.zero_state(len(windows)))
        return logits.float()


class KvSlots:
    """A KV cache in contiguous slots, in the precision of a model's weights."""

    smallest_rows = SMALLEST_ROWS

    def __init__(self, config: Gpt2Config, device: torch.device, dtype: torch.dtype, kv_bytes: int) -> None:
        """Raises StoreError if `kv_bytes` has no room for the smallest batch."""
        slot_bytes = KvCache.bytes_per_slot(config, dtype)
        self.slots = min(MOST_SLOTS, kv_bytes // slot_bytes // SMALLEST_ROWS * SMALLEST_ROWS)
        if not self.slots:
            raise StoreError(
                f"a KV cache of {kv_bytes:,} bytes has no room for {SMALLEST_ROWS} texts of {slot_bytes:,} bytes each; "
                f"give at least {SMALLEST_ROWS * slot_bytes:,} with --kv-memory"
            )
        self.vocabulary_size = config.vocabulary_size
        self._config = config
        self._device = device
        self._cache = KvCache(config, self.slots, device, dtype)

    def reset(self, slot: int) -> None:
        """Nothing to do: positions beyond a slot's length are masked, and written before they are read."""

    def wipe(self, slot: int) -> None:
        self._cache.keys[:, slot] = 0
        self._cache.values[:, slot] = 0

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        self._cache.copy(source, targets, begin, end)


class Gpt2Backend(KvSlots):
    """Decode runs over the first rows of the cache without copying."""

    def __init__(self, model: Gpt2, device: torch.device, kv_bytes: int = DEFAULT_KV_BYTES) -> None:
        super().__init__(model.config, device, model.tokens.weight.dtype, kv_bytes)
        self.threads = threads_for(model)
        self._model = model

    @torch.inference_mode()
    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """Each chunk is padded to the full width: one shape per place in a prompt."""
        torch.set_num_threads(self.threads)
        hidden: dict[int, Tensor] = {}  # by slot
        for group in self._groups(chunks):
            width = min(PREFILL_CHUNK, self._config.context_tokens - group[0].start)
            padded = [chunk.tokens + [0] * (width - len(chunk.tokens)) for chunk in group]
            slots, starts = [chunk.slot for chunk in group], [chunk.start for chunk in group]
            states = self._model.prefill(self._cache, slots, torch.tensor(padded, device=self._device), starts)
            hidden |= zip(slots, states, strict=True)
        return [
            self._model.logits(hidden[chunk.slot])[: len(chunk.tokens)].float() if chunk.scored else None
            for chunk in chunks
        ]

    def _groups(self, chunks: list[Chunk]) -> list[list[Chunk]]:
        """Chunks that are read together without changing each other's bits.

        The narrow chunk at the end of a context that is no multiple of 32 stays alone: its width may be odd.
        """
        full = self._config.context_tokens // PREFILL_CHUNK * PREFILL_CHUNK
        sharing = _may_share(self._device, self.threads)
        together = [chunk for chunk in chunks if sharing and chunk.start < full]
        alone = [[chunk] for chunk in chunks if not sharing or chunk.start >= full]
        return alone + [together[begin : begin + MOST_CHUNKS] for begin in range(0, len(together), MOST_CHUNKS)]

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """An inactive row writes at its position, which a later prefill or decode of that slot overwrites unread."""
        torch.set_num_threads(self.threads)
        logits = self._model.decode(
            self._cache,
            torch.tensor(tokens, device=self._device),
            torch.tensor(positions, device=self._device),
            max(positions),
        )
        return logits.float()


class DcganBackend:
    """A generator, as our module or as an archive of it: latents (B, latent, 1, 1) -> pictures (B, channels, H, W)."""

    def __init__(self, model: nn.Module, latent: int, device: torch.device) -> None:
        self.latent = latent
        self.threads = threads_for(model)
        self._device = device
        self._model = model
        self._dtype = next(model.parameters()).dtype

    @torch.inference_mode()
    def paint(self, latents: Tensor) -> Tensor:
        torch.set_num_threads(self.threads)
        painted: Tensor = self._model(latents[:, :, None, None].to(self._device, self._dtype))
        return painted.float()

    def draw(self, latents: Tensor) -> Tensor:
        return to_pixels(self.paint(latents)).cpu()


class ClassifierRows:
    """Texts are padded to their length bucket, and their number to a power of two: few shapes, all of them probed.

    On several threads of a CPU every text is read alone: work is split among threads by the number of rows.
    """

    def __init__(self, config: BertConfig, threads: int, device: torch.device) -> None:
        self.vocabulary_size = config.vocabulary_size
        self.context_tokens = config.context_tokens
        self.labels = config.labels
        self.threads = threads
        alone = device.type == "cpu" and threads > 1
        self.batch_tokens = 0 if alone else BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
        self._device = device


class BertBackend(ClassifierRows):
    def __init__(self, model: Bert, device: torch.device) -> None:
        super().__init__(model.config, threads_for(model), device)
        self._model = model

    @torch.inference_mode()
    def classify(self, texts: list[list[int]]) -> Tensor:
        torch.set_num_threads(self.threads)
        tokens, lengths = pad_texts(texts)
        first = self._model.read(tokens.to(self._device), lengths.to(self._device))  # (rows, width of the model)
        # The last layers see one row per text: too few for products that keep a row's bits, and for elementwise work
        # whose odd end is computed in another way.
        more = first.new_zeros(max(0, LENGTH_STEP - len(first)), first.shape[1])
        return self._model.logits(torch.cat([first, more]))[: len(texts)].float().cpu()

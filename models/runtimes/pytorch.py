"""The PyTorch runtime: fp32 weights from safetensors, run eagerly."""

from __future__ import annotations

from itertools import chain
from typing import TypeVar

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


def load_text(bundle: Bundle, device: torch.device, kv_bytes: int = DEFAULT_KV_BYTES) -> TextBackend:
    """A text bundle's backend, its KV cache at most `kv_bytes` large.

    Raises StoreError where weights and config do not fit together or the cache has no room for the smallest batch.
    """
    config, weights = fitting_weights(bundle)
    if isinstance(config, Gpt2Config):
        return Gpt2Backend(_with_weights(Gpt2(config), weights, device), device, kv_bytes)
    if not isinstance(config, LstmConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and writes no text")
    lstm = _with_weights(LstmLanguageModel(config), weights, device)
    return WindowedLstmBackend(lstm, device) if config.window else LstmBackend(lstm, device)


def load_images(bundle: Bundle, device: torch.device) -> ImageBackend:
    """An image bundle's backend. Raises StoreError where weights and config do not fit together."""
    config, weights = fitting_weights(bundle)
    if not isinstance(config, DcganConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and draws no pictures")
    return DcganBackend(_with_weights(generator(config), weights, device), config.latent, device)


def load_classifier(bundle: Bundle, device: torch.device) -> ClassifyBackend:
    """A classifier bundle's backend. Raises StoreError where weights and config do not fit together."""
    config, weights = fitting_weights(bundle)
    if not isinstance(config, BertConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and classifies no texts")
    return BertBackend(_with_weights(Bert(config), weights, device), device)


def _with_weights(module: Module, weights: dict[str, Tensor], device: torch.device) -> Module:
    module.load_state_dict(weights)
    return module.to(device).eval().requires_grad_(False)


def _threads_for(model: nn.Module) -> int:
    """How many CPU threads a model's calls use: fixed by the model and the machine, never by what else is running."""
    small = sum(weight.numel() for weight in model.parameters()) < SMALL_MODEL_PARAMETERS
    return 1 if small else MACHINE_THREADS


def _may_share(device: torch.device, threads: int) -> bool:
    """Whether prompts can be read together, in numbers of rows that depend on what else is waiting.

    On one thread of a CPU, products keep a row's bits for every multiple of 4 rows. Work that is split among threads is
    split elsewhere for other numbers of rows, which changes bits (seen from 5 threads on); a GPU was not measured.
    """
    return device.type == "cpu" and threads == 1


class LstmBackend:
    """State carried in slots: h and c per layer."""

    smallest_rows = SMALLEST_ROWS

    def __init__(self, model: LstmLanguageModel, device: torch.device, slots: int = MOST_SLOTS) -> None:
        self.slots = slots
        self.vocabulary_size = model.config.vocabulary_size
        self._device = device
        self._model = model
        self.threads = _threads_for(model)
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
        """All chunks together, one position a time; rows that have ended keep their state."""
        torch.set_num_threads(self.threads)
        rows = max(SMALLEST_ROWS, 1 << (len(chunks) - 1).bit_length())
        lengths = [len(chunk.tokens) for chunk in chunks] + [0] * (rows - len(chunks))
        padded = [chunk.tokens + [0] * (PREFILL_CHUNK - len(chunk.tokens)) for chunk in chunks]
        padded += [[0] * PREFILL_CHUNK] * (rows - len(chunks))
        tokens, ends = torch.tensor(padded, device=self._device), torch.tensor(lengths, device=self._device)
        slots = torch.tensor([chunk.slot for chunk in chunks], device=self._device)
        scored = any(chunk.scored for chunk in chunks)
        state = self._model.zero_state(rows)
        for (h, c), (slot_h, slot_c) in zip(state, self._state, strict=True):
            h[: len(chunks)], c[: len(chunks)] = slot_h[slots], slot_c[slots]
        logits = []
        for position in range(max(lengths)):
            state = _advance(state, self._model.step(tokens[:, position], state), position < ends)
            if scored:
                logits.append(self._model.logits(state))  # (rows, vocabulary)
        for (h, c), (slot_h, slot_c) in zip(state, self._state, strict=True):
            slot_h[slots], slot_c[slots] = h[: len(chunks)], c[: len(chunks)]
        return [
            torch.stack([step[row] for step in logits[: len(chunk.tokens)]]) if chunk.scored else None
            for row, chunk in enumerate(chunks)
        ]

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        torch.set_num_threads(self.threads)
        rows = len(tokens)
        before: State = [(h[:rows], c[:rows]) for h, c in self._state]
        stepped = self._model.step(torch.tensor(tokens, device=self._device), before)
        for (h, c), (new_h, new_c) in zip(
            before, _advance(before, stepped, torch.tensor(active, device=self._device)), strict=True
        ):
            h.copy_(new_h)
            c.copy_(new_c)
        return self._model.logits(stepped)


class WindowedLstmBackend:
    """Each token is predicted from the last `window` tokens with zero initial state; a slot holds those tokens."""

    smallest_rows = SMALLEST_ROWS

    def __init__(self, model: LstmLanguageModel, device: torch.device, slots: int = MOST_SLOTS) -> None:
        if model.config.window is None:
            raise ValueError("this model carries its state; use LstmBackend")
        self.slots = slots
        self.vocabulary_size = model.config.vocabulary_size
        self._device = device
        self._model = model
        self.threads = _threads_for(model)
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
        begins = [steps - len(window) if window else 0 for window in windows]
        waiting, last_begin = torch.tensor(begins, device=self._device), max(begins)
        state = self._model.zero_state(len(windows))
        for position in range(steps):
            stepped = self._model.step(padded[:, position], state)
            state = stepped if position >= last_begin else _advance(state, stepped, position >= waiting)
        return self._model.logits(state)


def _advance(before: State, after: State, active: Tensor) -> State:
    """The new state where `active` (rows,), else the old one."""
    chosen = active[:, None]
    return [
        (torch.where(chosen, new_h, h), torch.where(chosen, new_c, c))
        for (h, c), (new_h, new_c) in zip(before, after, strict=True)
    ]


class Gpt2Backend:
    """KV cache in contiguous slots; decode runs over the first rows of it without copying."""

    smallest_rows = SMALLEST_ROWS

    def __init__(self, model: Gpt2, device: torch.device, kv_bytes: int = DEFAULT_KV_BYTES) -> None:
        """Raises StoreError if `kv_bytes` has no room for the smallest batch."""
        slot_bytes = KvCache.bytes_per_slot(model.config, torch.float32)
        self.slots = min(MOST_SLOTS, kv_bytes // slot_bytes // SMALLEST_ROWS * SMALLEST_ROWS)
        if not self.slots:
            raise StoreError(
                f"a KV cache of {kv_bytes:,} bytes has no room for {SMALLEST_ROWS} texts of {slot_bytes:,} bytes each; "
                f"give at least {SMALLEST_ROWS * slot_bytes:,} with --kv-memory"
            )
        self.vocabulary_size = model.config.vocabulary_size
        self._device = device
        self._model = model
        self.threads = _threads_for(model)
        self._cache = KvCache(model.config, self.slots, device, torch.float32)

    def reset(self, slot: int) -> None:
        """Nothing to do: positions beyond a slot's length are masked, and written before they are read."""

    def wipe(self, slot: int) -> None:
        self._cache.keys[:, slot] = 0
        self._cache.values[:, slot] = 0

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        self._cache.copy(source, targets, begin, end)

    @torch.inference_mode()
    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """Each chunk is padded to the full width: one shape per place in a prompt."""
        torch.set_num_threads(self.threads)
        hidden: dict[int, Tensor] = {}  # by slot
        for group in self._groups(chunks):
            width = min(PREFILL_CHUNK, self._model.config.context_tokens - group[0].start)
            padded = [chunk.tokens + [0] * (width - len(chunk.tokens)) for chunk in group]
            slots, starts = [chunk.slot for chunk in group], [chunk.start for chunk in group]
            states = self._model.prefill(self._cache, slots, torch.tensor(padded, device=self._device), starts)
            hidden |= zip(slots, states, strict=True)
        return [
            self._model.logits(hidden[chunk.slot])[: len(chunk.tokens)] if chunk.scored else None for chunk in chunks
        ]

    def _groups(self, chunks: list[Chunk]) -> list[list[Chunk]]:
        """Chunks that are read together without changing each other's bits.

        The narrow chunk at the end of a context that is no multiple of 32 stays alone: its width may be odd.
        """
        full = self._model.config.context_tokens // PREFILL_CHUNK * PREFILL_CHUNK
        sharing = _may_share(self._device, self.threads)
        together = [chunk for chunk in chunks if sharing and chunk.start < full]
        alone = [[chunk] for chunk in chunks if not sharing or chunk.start >= full]
        return alone + [together[begin : begin + MOST_CHUNKS] for begin in range(0, len(together), MOST_CHUNKS)]

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """An inactive row writes at its position, which a later prefill or decode of that slot overwrites unread."""
        torch.set_num_threads(self.threads)
        return self._model.decode(
            self._cache,
            torch.tensor(tokens, device=self._device),
            torch.tensor(positions, device=self._device),
            max(positions),
        )


class DcganBackend:
    def __init__(self, model: nn.Sequential, latent: int, device: torch.device) -> None:
        self.latent = latent
        self._device = device
        self._model = model
        self.threads = _threads_for(model)

    @torch.inference_mode()
    def draw(self, latents: Tensor) -> Tensor:
        torch.set_num_threads(self.threads)
        return to_pixels(self._model(latents[:, :, None, None].to(self._device))).cpu()


class BertBackend:
    """Texts are padded to their length bucket, and their number to a power of two: few shapes, all of them probed.

    On several threads of a CPU every text is read alone: work is split among threads by the number of rows.
    """

    def __init__(self, model: Bert, device: torch.device) -> None:
        self.vocabulary_size = model.config.vocabulary_size
        self.context_tokens = model.config.context_tokens
        self.labels = model.config.labels
        self.threads = _threads_for(model)
        alone = device.type == "cpu" and self.threads > 1
        self.batch_tokens = 0 if alone else BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
        self._device = device
        self._model = model

    @torch.inference_mode()
    def classify(self, texts: list[list[int]]) -> Tensor:
        torch.set_num_threads(self.threads)
        tokens, lengths = pad_texts(texts)
        first = self._model.read(tokens.to(self._device), lengths.to(self._device))  # (rows, width of the model)
        # The last layers see one row per text: too few for products that keep a row's bits, and for elementwise work
        # whose odd end is computed in another way.
        more = first.new_zeros(max(0, LENGTH_STEP - len(first)), first.shape[1])
        return self._model.logits(torch.cat([first, more]))[: len(texts)].cpu()

"""The PyTorch runtime: fp32 weights from safetensors, run eagerly."""

from __future__ import annotations

from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from contracts.bundle import WEIGHTS, Bundle
from contracts.errors import StoreError
from models.dcgan import DcganConfig, generator, to_pixels
from models.gpt2 import Gpt2, Gpt2Config, KvCache
from models.lstm import LstmConfig, LstmLanguageModel, State
from models.runtimes import PREFILL_CHUNK, SMALLEST_ROWS, ImageBackend, TextBackend

MOST_SLOTS = 64
KV_BYTES = 2 << 30
SMALL_MODEL_PARAMETERS = 20_000_000  # below this, handing work to a second thread costs more than it brings

Module = TypeVar("Module", bound=nn.Module)


def load_text(bundle: Bundle, device: torch.device) -> TextBackend:
    """A text bundle's backend. Raises StoreError where weights and config do not fit together."""
    config = bundle.manifest.config
    if bundle.manifest.family == "gpt2":
        gpt2 = Gpt2(Gpt2Config.from_manifest(config))
        return Gpt2Backend(_with_weights(gpt2, bundle, device), device)
    lstm_config = LstmConfig.from_manifest(config)
    lstm = _with_weights(LstmLanguageModel(lstm_config), bundle, device)
    return WindowedLstmBackend(lstm, device) if lstm_config.window else LstmBackend(lstm, device)


def load_images(bundle: Bundle, device: torch.device) -> ImageBackend:
    """An image bundle's backend. Raises StoreError where weights and config do not fit together."""
    config = DcganConfig.from_manifest(bundle.manifest.config)
    return DcganBackend(_with_weights(generator(config), bundle, device), config.latent, device)


def _with_weights(module: Module, bundle: Bundle, device: torch.device) -> Module:
    weights = load_file(bundle.path / WEIGHTS)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise StoreError(f"{bundle.path / WEIGHTS} does not fit the manifest's config: {error}") from None
    return module.to(device).eval().requires_grad_(False)


class _Threads:
    """How many CPU threads a model's calls use: fixed by the model and the machine, never by what else is running."""

    def __init__(self, model: nn.Module) -> None:
        small = sum(weight.numel() for weight in model.parameters()) < SMALL_MODEL_PARAMETERS
        self._count = 1 if small else torch.get_num_threads()

    def use(self) -> None:
        torch.set_num_threads(self._count)


class LstmBackend:
    """State carried in slots: h and c per layer."""

    smallest_rows = SMALLEST_ROWS

    def __init__(self, model: LstmLanguageModel, device: torch.device, slots: int = MOST_SLOTS) -> None:
        self.slots = slots
        self.device_name = str(device)
        self._device = device
        self._model = model
        self._threads = _Threads(model)
        self._state = model.zero_state(slots)  # row = slot

    def reset(self, slot: int) -> None:
        for h, c in self._state:
            h[slot] = 0
            c[slot] = 0

    @torch.inference_mode()
    def prefill(self, chunks: list[tuple[int, int, list[int]]]) -> None:
        """All chunks together, one position a time; rows that have ended keep their state."""
        self._threads.use()
        rows = max(SMALLEST_ROWS, 1 << (len(chunks) - 1).bit_length())
        lengths = torch.zeros(rows, dtype=torch.long)
        tokens = torch.zeros(rows, PREFILL_CHUNK, dtype=torch.long)
        for row, (_, _, chunk) in enumerate(chunks):
            lengths[row] = len(chunk)
            tokens[row, : len(chunk)] = torch.tensor(chunk)
        slots = torch.tensor([slot for slot, _, _ in chunks], device=self._device)
        tokens, steps, lengths = tokens.to(self._device), int(lengths.max()), lengths.to(self._device)
        state = self._model.zero_state(rows)
        for (h, c), (slot_h, slot_c) in zip(state, self._state, strict=True):
            h[: len(chunks)], c[: len(chunks)] = slot_h[slots], slot_c[slots]
        for position in range(steps):
            state = _advance(state, self._model.step(tokens[:, position], state), position < lengths)
        for (h, c), (slot_h, slot_c) in zip(state, self._state, strict=True):
            slot_h[slots], slot_c[slots] = h[: len(chunks)], c[: len(chunks)]

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        self._threads.use()
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
        self.device_name = str(device)
        self._device = device
        self._model = model
        self._threads = _Threads(model)
        self._window = model.config.window
        self._recent: list[list[int]] = [[] for _ in range(slots)]

    def reset(self, slot: int) -> None:
        self._recent[slot] = []

    def prefill(self, chunks: list[tuple[int, int, list[int]]]) -> None:
        for slot, _, tokens in chunks:
            self._recent[slot] = (self._recent[slot] + tokens)[-self._window :]

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """Windows are aligned at their ends: a row whose window is shorter keeps the zero state until it begins."""
        self._threads.use()
        windows = [
            (self._recent[row] + [token])[-self._window :] if active[row] else [token]
            for row, token in enumerate(tokens)
        ]
        steps = max(len(window) for window in windows)
        padded = torch.tensor([[0] * (steps - len(window)) + window for window in windows], device=self._device)
        begins = torch.tensor([steps - len(window) for window in windows], device=self._device)
        state = self._model.zero_state(len(tokens))
        for position in range(steps):
            state = _advance(state, self._model.step(padded[:, position], state), position >= begins)
        for row, window in enumerate(windows):
            if active[row]:
                self._recent[row] = window
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

    def __init__(self, model: Gpt2, device: torch.device, kv_bytes: int = KV_BYTES) -> None:
        affordable = kv_bytes // KvCache.bytes_per_slot(model.config, torch.float32)
        self.slots = max(SMALLEST_ROWS, min(MOST_SLOTS, affordable // SMALLEST_ROWS * SMALLEST_ROWS))
        self.device_name = str(device)
        self._device = device
        self._model = model
        self._threads = _Threads(model)
        self._cache = KvCache(model.config, self.slots, device, torch.float32)

    def reset(self, slot: int) -> None:
        """Nothing to do: positions beyond a slot's length are masked, and written before they are read."""

    @torch.inference_mode()
    def prefill(self, chunks: list[tuple[int, int, list[int]]]) -> None:
        """Chunk by chunk, each padded to the full width: one shape per place in a prompt."""
        self._threads.use()
        for slot, start, tokens in chunks:
            width = min(PREFILL_CHUNK, self._model.config.context_tokens - start)
            padded = tokens + [0] * (width - len(tokens))
            self._model.prefill(self._cache, slot, torch.tensor(padded, device=self._device), start)

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """An inactive row writes at its position, which a later prefill or decode of that slot overwrites unread."""
        self._threads.use()
        return self._model.decode(
            self._cache,
            torch.tensor(tokens, device=self._device),
            torch.tensor(positions, device=self._device),
            max(positions),
        )


class DcganBackend:
    def __init__(self, model: nn.Sequential, latent: int, device: torch.device) -> None:
        self.latent = latent
        self.device_name = str(device)
        self._device = device
        self._model = model
        self._threads = _Threads(model)

    @torch.inference_mode()
    def draw(self, latents: Tensor) -> Tensor:
        self._threads.use()
        return to_pixels(self._model(latents[:, :, None, None].to(self._device))).cpu()

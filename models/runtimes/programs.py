"""Whole programs that `export/` wrote: the model's mathematics and its weights in one file.

A program is a module with these calls, in the precision of its weights; letters: R rows, T time, V vocabulary,
W wanted logits, L layers, H heads, C positions of the cache, D head size.

LSTM      tokens (R, T), active bool (R, T), wanted (W,), state -> logits (W, V), state
          A state is a tuple h, c, h, c, ... of (R, layer size). Where `active` is False a row keeps its state.
GPT-2     tokens (R, T), positions (R, T), wanted (W,), keys, values (L, R, H, C, D) -> logits (W, V), keys, values
          Keys and values are written in place. Each token sees the positions up to its own.
BERT      tokens (R, T), lengths (R,) -> logits (R, L)
          The first `lengths` tokens of each row count; L labels.
DCGAN     latents (B, latent, 1, 1) -> pictures (B, channels, height, width) in [-1, 1]

`wanted` counts tokens row by row; all whole numbers are int64. TorchScript archives hold code, so they are read only
from a bundle whose hashes `Bundle.open` has checked.
"""

from __future__ import annotations

import warnings
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from contracts.bundle import Bundle, Variant, archive
from contracts.errors import StoreError
from contracts.settings import DEFAULT_KV_BYTES
from models.bert import BertConfig
from models.dcgan import DcganConfig
from models.gpt2 import Gpt2Config, padded_length
from models.lstm import LstmConfig, State
from models.runtimes import PREFILL_CHUNK, Chunk, ClassifyBackend, ImageBackend, TextBackend, pad_texts
from models.runtimes.pytorch import ClassifierRows, DcganBackend, KvSlots, lstm_backend, threads_for
from models.weights import Config, read_config


def load_text(bundle: Bundle, variant: Variant, device: torch.device, kv_bytes: int = DEFAULT_KV_BYTES) -> TextBackend:
    """The backend of a TorchScript variant of a text bundle. Raises StoreError for what cannot be run."""
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    return text_backend(config, read_torchscript(bundle, variant, device), device, kv_bytes)


def load_images(bundle: Bundle, variant: Variant, device: torch.device) -> ImageBackend:
    """The backend of a TorchScript variant of an image bundle. Raises StoreError for what cannot be run."""
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    return image_backend(config, read_torchscript(bundle, variant, device), device)


def load_classifier(bundle: Bundle, variant: Variant, device: torch.device) -> ClassifyBackend:
    """The backend of a TorchScript variant of a classifier. Raises StoreError for what cannot be run."""
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    return classify_backend(config, read_torchscript(bundle, variant, device), device)


def text_backend(config: Config, program: nn.Module, device: torch.device, kv_bytes: int) -> TextBackend:
    """Raises StoreError for a program that draws pictures, or a cache too small."""
    if isinstance(config, Gpt2Config):
        return Gpt2ProgramBackend(config, program, device, kv_bytes)
    if isinstance(config, LstmConfig):
        return lstm_backend(LstmArchive(config, program), device)
    raise StoreError("a program that draws pictures writes no text")


def image_backend(config: Config, program: nn.Module, device: torch.device) -> ImageBackend:
    """Raises StoreError for a program that writes text."""
    if not isinstance(config, DcganConfig):
        raise StoreError("a program that writes text draws no pictures")
    return DcganBackend(program, config.latent, device)


def classify_backend(config: Config, program: nn.Module, device: torch.device) -> ClassifyBackend:
    """Raises StoreError for a program of another task."""
    if not isinstance(config, BertConfig):
        raise StoreError("this program classifies no texts")
    return BertProgramBackend(config, program, device)


def read_torchscript(bundle: Bundle, variant: Variant, device: torch.device) -> nn.Module:
    """The program of a TorchScript variant. Raises StoreError for a file that is none."""
    path: Path = bundle.path / archive(variant.format, variant.precision)
    with warnings.catch_warnings():
        # Upstream's successor, torch.export, cannot express an LSTM over any number of tokens.
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is (deprecated|not supported)", DeprecationWarning)
        try:
            # Our export wrote it, and the bundle's hashes, which were checked, say that nobody has changed it.
            program: nn.Module = torch.jit.load(path, device)  # type: ignore[no-untyped-call]  # noqa: TID251
        except (RuntimeError, ValueError) as error:
            raise StoreError(f"{path} is not a TorchScript archive: {error}") from None
    return program.eval()


class LstmArchive(nn.Module):
    """An LSTM's program with the calls of `LstmLanguageModel` that a backend uses."""

    def __init__(self, config: LstmConfig, program: nn.Module) -> None:
        super().__init__()
        self.config = config
        self._program = program

    def zero_state(self, rows: int) -> State:
        weight = next(self.parameters())
        return [(weight.new_zeros(rows, size), weight.new_zeros(rows, size)) for size in self.config.layers]

    def advance(self, tokens: Tensor, active: Tensor, wanted: Tensor, state: State) -> tuple[Tensor, State]:
        """As `LstmLanguageModel.advance`."""
        logits, flat = self._program(tokens, active.to(tokens.device), wanted, tuple(chain(*state)))
        return logits, list(zip(flat[::2], flat[1::2], strict=True))


class BertProgramBackend(ClassifierRows):
    """Texts run through one program."""

    def __init__(self, config: BertConfig, program: nn.Module, device: torch.device) -> None:
        super().__init__(config, threads_for(program), device)
        self._program = program

    @torch.inference_mode()
    def classify(self, texts: list[list[int]]) -> Tensor:
        torch.set_num_threads(self.threads)
        tokens, lengths = pad_texts(texts)
        logits: Tensor = self._program(tokens.to(self._device), lengths.to(self._device))
        return logits[: len(texts)].float().cpu()


class Gpt2ProgramBackend(KvSlots):
    """Prefill and decode are calls of one program, over the first rows of the cache and its first positions."""

    def __init__(self, config: Gpt2Config, program: nn.Module, device: torch.device, kv_bytes: int) -> None:
        super().__init__(config, device, next(program.parameters()).dtype, kv_bytes)
        self.threads = threads_for(program)
        self._program = program

    @torch.inference_mode()
    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """Chunk by chunk, each padded to the full width: one shape per place in a prompt."""
        torch.set_num_threads(self.threads)
        logits: list[Tensor | None] = []
        for chunk in chunks:
            width = min(PREFILL_CHUNK, self._config.context_tokens - chunk.start)
            tokens = torch.tensor([chunk.tokens + [0] * (width - len(chunk.tokens))])
            positions = torch.arange(chunk.start, chunk.start + width)[None]
            wanted = torch.arange(width if chunk.scored else 0)
            scores = self._call(tokens, positions, wanted, slice(chunk.slot, chunk.slot + 1), chunk.start + width)
            logits.append(scores[: len(chunk.tokens)] if chunk.scored else None)
        return logits

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """An inactive row writes at its position, which a later prefill or decode of that slot overwrites unread."""
        torch.set_num_threads(self.threads)
        fed, places = torch.tensor(tokens)[:, None], torch.tensor(positions)[:, None]
        length = padded_length(max(positions) + 1, self._config.context_tokens)
        return self._call(fed, places, torch.arange(len(tokens)), slice(0, len(tokens)), length)

    def _call(self, tokens: Tensor, positions: Tensor, wanted: Tensor, slots: slice, length: int) -> Tensor:
        keys, values = (cache[:, slots, :, :length] for cache in (self._cache.keys, self._cache.values))
        given = (part.to(self._device) for part in (tokens, positions, wanted))
        logits, _, _ = self._program(*given, keys, values)
        scores: Tensor = logits.float()
        return scores

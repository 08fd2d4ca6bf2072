"""GPT-2 (Radford et al., 2019): training pass, prefill by chunks, decode over cache slots.

Letters in shapes: B batch, R rows, T time, C context, H heads, D head size, E width = H * D, V vocabulary.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from contracts.sizes import check_sizes

DECODE_STRIDE = 64  # decode attends over this many positions, or twice as many, ...; the rest is masked


@dataclass(frozen=True)
class Gpt2Config:
    vocabulary_size: int
    context_tokens: int
    width: int
    layers: int
    heads: int
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Raises ValueError for what is no size: this comes from files."""
        check_sizes(
            vocabulary_size=self.vocabulary_size,
            context_tokens=self.context_tokens,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
        )
        if self.context_tokens < 2 or self.width % self.heads:
            raise ValueError("a GPT-2 has a context of two tokens or more, and a width that its heads divide")
        if not isinstance(self.epsilon, float) or not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon is {self.epsilon!r}; it must be a small number above 0")

    @classmethod
    def from_manifest(cls, config: dict[str, Any]) -> Gpt2Config:
        return cls(**config)


class KvCache:
    """Contiguous slots: keys and values (layers, slots, H, C, D); beyond a slot's length nothing is attended to."""

    def __init__(self, config: Gpt2Config, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.layers, slots, config.heads, config.context_tokens, config.width // config.heads)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def part(self, first: int, slots: int) -> KvCache:
        """Some of the slots, in the same memory."""
        part = copy(self)
        part.keys, part.values = self.keys[:, first : first + slots], self.values[:, first : first + slots]
        return part

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        """Give other slots what one slot holds at positions begin to end."""
        for cache in (self.keys, self.values):
            cache[:, targets, :, begin:end] = cache[:, source, None, :, begin:end]

    def extend(self, layer: int, slot: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values (H, T, D) from position `start` on. Returns the slot's up to their end, (H, S, D)."""
        end = start + keys.shape[1]
        self.keys[layer, slot, :, start:end] = keys
        self.values[layer, slot, :, start:end] = values
        return self.keys[layer, slot, :, :end], self.values[layer, slot, :, :end]

    @staticmethod
    def bytes_per_slot(config: Gpt2Config, dtype: torch.dtype) -> int:
        return 2 * config.layers * config.context_tokens * config.width * dtype.itemsize


class Attention(nn.Module):
    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.root = math.sqrt(config.width // config.heads)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, T, E) -> queries, keys and values, each (R, H, T, D)."""
        rows, time, _ = x.shape
        parts = self.qkv(x).view(rows, time, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind()
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Queries (R, H, T, D) over keys and values (R, H, S, D); mask True where attention is allowed."""
        scores = torch.matmul(q, k.transpose(-1, -2)) / self.root
        return torch.matmul(scores.masked_fill(~mask, -torch.inf).softmax(-1), v)

    def merge(self, x: Tensor) -> Tensor:
        """(R, H, T, D) -> (R, T, E)."""
        merged: Tensor = self.out(x.transpose(1, 2).flatten(2))
        return merged


def attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """As `Attention.attend`, with what is added to the scores for a mask; on a GPU in one kernel.

    That kernel goes through the positions in one order, and masked ones add exact zeros: a longer padding should leave
    a row's bits as they are. The probe looks.
    """
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(q, k, v, bias)


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0 where attention is allowed, else minus infinity."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)


class Block(nn.Module):
    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.epsilon)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, config.epsilon)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def feed_forward(self, x: Tensor) -> Tensor:
        up: Tensor = self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return up


class Gpt2(nn.Module):
    """Token and position embeddings -> blocks -> norm -> logits by the token embedding's transpose."""

    def __init__(self, config: Gpt2Config, dropout: float = 0.0) -> None:
        """`dropout` is for training: of embeddings, attention weights and what each half of a block adds."""
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.tokens = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Embedding(config.context_tokens, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        self.apply(self._initialise)
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):  # residual paths, scaled as in the paper
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.layers))

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Training pass: tokens (B, T) -> logits (B, T, V) and states behind the last block (B, T, E)."""
        x = self.hidden(tokens)
        return self.logits(x), x

    def hidden(self, tokens: Tensor) -> Tensor:
        """Training pass: tokens (B, T) -> states behind the last block (B, T, E)."""
        x = self._drop(self.embed(tokens, torch.arange(tokens.shape[1], device=tokens.device)))
        share = self.dropout if self.training else 0.0
        for block in self.each_block():
            q, k, v = block.attention.split(block.norm1(x))
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=share, is_causal=True)
            x = x + self._drop(block.attention.merge(mixed))
            x = x + self._drop(block.feed_forward(x))
        return x

    def prefill(self, cache: KvCache, slots: list[int], tokens: Tensor, starts: list[int]) -> Tensor:
        """Write keys and values of chunks of N prompts: tokens (N, T), row i at positions starts[i] .. starts[i] + T of
        slot slots[i]. Returns x (N, T, E).

        A chunk's length and place are fixed by the prompt alone (the caller pads the tail). Linear layers run over all
        chunks' rows; attention runs chunk by chunk, over exactly the positions up to the chunk's end: one shape per
        place, hence the same bits in any company.
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        positions = torch.tensor(starts, device=tokens.device)[:, None] + places  # N T
        ends = [start + tokens.shape[1] for start in starts]
        masks = [at[:, None] >= torch.arange(end, device=at.device) for at, end in zip(positions, ends, strict=True)]
        x = self.embed(tokens, positions)
        for layer, block in enumerate(self.each_block()):
            q, k, v = block.attention.split(block.norm1(x))
            mixed = []
            for row, (slot, start, mask) in enumerate(zip(slots, starts, masks, strict=True)):
                keys, values = cache.extend(layer, slot, start, k[row], v[row])
                mixed.append(block.attention.attend(q[row, None], keys[None], values[None], mask))
            x = x + block.attention.merge(torch.cat(mixed))
            x = x + block.feed_forward(x)
        return x

    def decode(self, cache: KvCache, tokens: Tensor, positions: Tensor, longest: int) -> Tensor:
        """One step over the slots 0 .. R-1: tokens (R,) at positions (R,) -> logits (R, V).

        R is at least 4, and attention is a plain masked product over a padded length: on the CPUs measured a row's bits
        then do not depend on R, on the padding or on its neighbours. (Fused SDPA with one query does not keep that.)
        `longest` is the largest position, known to the caller without asking the device. On a GPU attention is fused.
        """
        return self.step(cache, tokens, positions, padded_length(longest + 1, self.config.context_tokens))

    def step(self, cache: KvCache, tokens: Tensor, positions: Tensor, length: int) -> Tensor:
        """As `decode`, of shapes that `length` alone fixes, which no position is beyond: what a CUDA graph can hold."""
        rows = torch.arange(tokens.shape[0], device=tokens.device)
        mask = (torch.arange(length, device=tokens.device)[None, :] <= positions[:, None])[:, None, None, :]  # R 1 1 T
        x = self.embed(tokens[:, None], positions[:, None])
        bias = _bias(mask, x.dtype) if x.is_cuda else None
        for layer, block in enumerate(self.each_block()):
            q, k, v = block.attention.split(block.norm1(x))
            cache.keys[layer, rows, :, positions] = k[:, :, 0]
            cache.values[layer, rows, :, positions] = v[:, :, 0]
            keys = cache.keys[layer, : len(rows), :, :length]
            values = cache.values[layer, : len(rows), :, :length]
            if bias is None:
                mixed = block.attention.attend(q, keys, values, mask)
            else:
                mixed = attend_fused(q, keys, values, bias)
            x = x + block.attention.merge(mixed)
            x = x + block.feed_forward(x)
        return self.logits(x[:, 0])

    def read(self, cache: KvCache, slots: Tensor, tokens: Tensor, starts: Tensor, length: int) -> Tensor:
        """As `prefill`, of shapes that `length` and the number of chunks fix: slots (N,), tokens (N, T), starts (N,).

        Each token attends over `length` positions, those behind it masked. No chunk ends beyond `length`. Chunks of one
        slot must be equal.
        """
        positions = starts[:, None] + torch.arange(tokens.shape[1], device=tokens.device)  # N T
        mask = (torch.arange(length, device=tokens.device) <= positions[:, :, None])[:, None]  # N 1 T S
        bias = _bias(mask, cache.keys.dtype)
        x = self.embed(tokens, positions)
        for layer, block in enumerate(self.each_block()):
            q, k, v = block.attention.split(block.norm1(x))
            cache.keys[layer, slots[:, None], :, positions] = k.transpose(1, 2)
            cache.values[layer, slots[:, None], :, positions] = v.transpose(1, 2)
            keys, values = (part[layer, :, :, :length].index_select(0, slots) for part in (cache.keys, cache.values))
            x = x + block.attention.merge(attend_fused(q, keys, values, bias))
            x = x + block.feed_forward(x)
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def each_block(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        embedded: Tensor = self.tokens(tokens) + self.positions(positions)
        return embedded

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states (..., E) -> logits (..., V)."""
        return F.linear(self.norm(x), self.tokens.weight)


def padded_length(length: int, context: int) -> int:
    return min(-(-length // DECODE_STRIDE) * DECODE_STRIDE, context)

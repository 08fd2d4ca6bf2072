"""How well a text model predicts a text: through the backend that serves it, prompts' chunks and all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp

import torch
from tqdm import tqdm

from models.reading import read_prompts
from models.runtimes import TextBackend

BLOCK_TOKENS = 1024  # that are read at once where the model has no limit of its own
MOST_BLOCKS = 8  # that are read together


@dataclass(frozen=True)
class Surprise:
    """Nats of all tokens that were predicted."""

    nats: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return exp(self.nats / self.tokens)


def surprise(
    backend: TextBackend, tokens: list[int], context_tokens: int | None, *, show_progress: bool = False
) -> Surprise:
    """Every token but the first is predicted once, from at least half a block of what stands before it, or all of it.

    A block is as long as the model's context. ValueError for fewer than two tokens: there is nothing to predict.
    """
    if len(tokens) < 2:
        raise ValueError("a text of fewer than two tokens has none to predict")
    blocks = list(_blocks(tokens, context_tokens or BLOCK_TOKENS))
    together = min(MOST_BLOCKS, backend.slots)
    nats = 0.0
    with tqdm(total=len(blocks), desc="perplexity", unit="block", disable=None if show_progress else True) as bar:
        for begin in range(0, len(blocks), together):
            group = blocks[begin : begin + together]
            nats += _nats(backend, group)
            bar.update(len(group))
    return Surprise(nats, len(tokens) - 1)


def _blocks(tokens: list[int], length: int) -> Iterator[tuple[list[int], int]]:
    """Blocks that overlap by half, each with the place in it of the first token that no block before it has."""
    stride = max(1, length // 2)
    yield tokens[:length], 1
    for begin in range(stride, len(tokens) - length + stride, stride):
        yield tokens[begin : begin + length], length - stride


def _nats(backend: TextBackend, blocks: list[tuple[list[int], int]]) -> float:
    nats = 0.0
    for slot, start, logits in read_prompts(backend, [block for block, _ in blocks]):
        block, first = blocks[slot]
        begin = max(start, first - 1)  # logits at a place predict the token behind it
        following = torch.tensor(block[begin + 1 : start + 1 + len(logits)], device=logits.device)
        if len(following):
            chances = logits[begin - start :].double().log_softmax(-1)
            nats -= chances.gather(-1, following[:, None]).sum().item()
    return nats

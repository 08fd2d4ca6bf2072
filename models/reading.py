"""Reading prompts through a text backend, for the logits along the way."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from models.runtimes import PREFILL_CHUNK, Chunk, TextBackend


def read_prompts(backend: TextBackend, prompts: list[list[int]]) -> Iterator[tuple[int, int, Tensor]]:
    """Reads all of the prompts but their last tokens, one slot each: slot, place in the prompt, and the logits
    (tokens, vocabulary) after each token from there on, chunk by chunk."""
    for slot in range(len(prompts)):
        backend.reset(slot)
    for start in range(0, max(len(prompt) for prompt in prompts) - 1, PREFILL_CHUNK):
        parts = [(slot, prompt[:-1][start : start + PREFILL_CHUNK]) for slot, prompt in enumerate(prompts)]
        chunks = [Chunk(slot, start, part, scored=True) for slot, part in parts if part]
        for chunk, logits in zip(chunks, backend.prefill(chunks), strict=True):
            if logits is not None:
                yield chunk.slot, start, logits

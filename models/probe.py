"""The start-up probe: does a row keep its bits whatever bucket, slot and company it is in?

One text is read, decoded and written in every row bucket at several slots, among neighbours with other tokens and
lengths; one picture is drawn, and texts are classified, at several places of every batch size. Everything is compared
bit for bit with the smallest batch. In one of the first slots the text is also read together with those before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.noise import latents
from models.runtimes import (
    LENGTH_STEP,
    PREFILL_CHUNK,
    Chunk,
    ClassifyBackend,
    ImageBackend,
    Steps,
    TextBackend,
    length_bucket,
    most_texts,
    row_buckets,
)

_STEPS = 2
_WRITTEN = 3  # steps after those, for a backend that writes
_PROMPT_TOKENS = PREFILL_CHUNK + 8  # two chunks
_MOST_PICTURES = 64
_MOST_COMPANY = 4  # prompts that are read together here: every one costs a start some time


@dataclass(frozen=True)
class Probe:
    """Whether the bits were equal, by batch size and place in it."""

    equal: dict[tuple[int, int], bool]

    @property
    def batch_invariant(self) -> bool:
        return all(self.equal.values())


@torch.inference_mode()
def probe_text(backend: TextBackend, context_tokens: int | None) -> Probe:
    """Probe every row bucket of a text backend whose slots are all free."""
    steps = _STEPS + (_WRITTEN if backend.writer else 0)
    length = min(_PROMPT_TOKENS, (context_tokens or _PROMPT_TOKENS + steps) - steps)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(backend.vocabulary_size, (length + _STEPS,), generator=generator).tolist()
    farthest = (context_tokens or 1) - 1
    alone = _decode(backend, tokens, backend.smallest_rows, 0, 0)
    equal = {}
    for rows in row_buckets(backend.slots, backend.smallest_rows):
        for slot in sorted({0, rows // 2, rows - 1}):
            # A distant neighbour changes the length that attention is padded to.
            equal[rows, slot] = torch.equal(_decode(backend, tokens, rows, slot, farthest), alone)
    for slot in range(backend.slots):
        backend.reset(slot)
    return Probe(equal)


@torch.inference_mode()
def probe_images(backend: ImageBackend) -> Probe:
    """Probe every batch size that the image engine uses."""
    noise = latents(0, list(range(_MOST_PICTURES)), backend.latent)
    alone = backend.draw(noise[:1])[0]
    equal = {}
    for count in (1 << power for power in range(_MOST_PICTURES.bit_length())):
        for place in sorted({0, count // 2, count - 1}):
            batch = noise[:count].clone()
            batch[place] = noise[0]
            equal[count, place] = torch.equal(backend.draw(batch)[place], alone)
    return Probe(equal)


@torch.inference_mode()
def probe_classify(backend: ClassifyBackend) -> Probe:
    """Probe every batch size that the classifying engine uses, with texts of every length bucket that is read in
    company and, of those that are read alone, of the first."""
    equal: dict[tuple[int, int], bool] = {}
    for bucket in range(LENGTH_STEP, length_bucket(backend.context_tokens) + 1, LENGTH_STEP):
        most = most_texts(bucket, backend.batch_tokens)
        for (count, place), same in _probe_bucket(backend, bucket, most).items():
            equal[count, place] = equal.get((count, place), True) and same
        if most == 1:
            break
    return Probe(equal)


def _probe_bucket(backend: ClassifyBackend, bucket: int, most: int) -> dict[tuple[int, int], bool]:
    """One text at several places among strangers of its length bucket, shorter and longer ones."""
    longest = min(bucket, backend.context_tokens)
    shortest = bucket - LENGTH_STEP + 1
    text = [(5 * place) % backend.vocabulary_size for place in range((shortest + longest) // 2)]
    strangers = [
        [(7 * row + 3 * place) % backend.vocabulary_size for place in range(shortest if row % 2 else longest)]
        for row in range(most)
    ]
    alone = backend.classify([text])[0]
    equal = {}
    for count in (1 << power for power in range(most.bit_length())):
        for place in sorted({0, count // 2, count - 1}):
            batch = [*strangers[:place], text, *strangers[place + 1 : count]]
            equal[count, place] = torch.equal(backend.classify(batch)[place], alone)
    return equal


def _decode(backend: TextBackend, tokens: list[int], rows: int, slot: int, farthest: int) -> Tensor:
    """Read, decode and write the probe's text in one slot: logits (steps, vocabulary)."""
    prompt, fed = tokens[:-_STEPS], tokens[-_STEPS:]
    backend.reset(slot)
    for start in range(0, len(prompt), PREFILL_CHUNK):
        part = prompt[start : start + PREFILL_CHUNK]
        strangers = [Chunk(other, start, part[::-1]) for other in (range(slot) if slot < _MOST_COMPANY else ())]
        backend.prefill([*strangers, Chunk(slot, start, part)])
    others = [[(7 * row + step) % backend.vocabulary_size for row in range(rows)] for step in range(_STEPS + 2)]
    places = [(farthest * row) // rows for row in range(rows)]
    active = [row == slot or row % 3 > 0 for row in range(rows)]
    seen = []
    for step, token in enumerate(fed):
        others[step][slot], places[slot] = token, len(prompt) + step
        seen.append(backend.decode(others[step], places, active)[slot].clone())
    if backend.writer:
        # Several steps leave their bits in the slot; the logits of a single one show them.
        for step, position, count in ((_STEPS, len(tokens), _WRITTEN - 1), (_STEPS + 1, len(tokens) + _WRITTEN - 1, 1)):
            drawn = Steps(np.full((rows, count), 0.5), np.ones(rows, np.float32))
            others[step][slot], places[slot] = fed[0], position
            logits = backend.writer.write(others[step], places, active, drawn).logits
        seen.append(logits[slot].clone())
    return torch.stack(seen)

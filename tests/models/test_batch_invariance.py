"""The first invariant: a row's numbers do not depend on its neighbours, bit for bit."""

import random

import pytest
import torch

from models.dcgan import DcganConfig, fold_batch_norm, generator
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.noise import latents
from models.runtimes import PREFILL_CHUNK, SMALLEST_ROWS, Chunk, pytorch
from models.runtimes.pytorch import (
    GENERATOR_THREADS,
    DcganBackend,
    Gpt2Backend,
    LstmBackend,
    WindowedLstmBackend,
    generator_threads,
)

CPU = torch.device("cpu")
VOCABULARY = 211
STEPS = 4

GPT2 = Gpt2Config(VOCABULARY, context_tokens=192, width=96, layers=2, heads=4)
ODD_GPT2 = Gpt2Config(VOCABULARY, context_tokens=150, width=40, layers=2, heads=4)  # ends with a chunk of 22
STATEFUL = LstmConfig(VOCABULARY, (128, 96))
EMBEDDED = LstmConfig(VOCABULARY, (128,), embedding=50)
WINDOWED = LstmConfig(VOCABULARY, (128, 96), recurrent_activation="hard_sigmoid", window=20)
ODD_WINDOWED = LstmConfig(VOCABULARY, (21, 13), window=70)


def _backend(config):
    with torch.random.fork_rng():
        torch.manual_seed(8)
        if isinstance(config, Gpt2Config):
            return Gpt2Backend(Gpt2(config).eval().requires_grad_(False), CPU)
        model = LstmLanguageModel(config).eval().requires_grad_(False)
    return WindowedLstmBackend(model, CPU) if config.window else LstmBackend(model, CPU)


@pytest.fixture
def logits_of(read_prompts, generator):
    """Reads and decodes one row's given tokens among neighbours with tokens of their own; its logits (STEPS, V)."""

    def run(backend, text, rows, slot):
        lengths = torch.randint(STEPS, 60, (rows,), generator=generator)
        lengths[-1] = 150  # more than twice the stride that attention is padded to
        texts = [torch.randint(VOCABULARY, (int(length),), generator=generator).tolist() for length in lengths]
        texts[slot] = text
        read_prompts(backend, {row: tokens[: len(tokens) - STEPS + 1] for row, tokens in enumerate(texts)})
        seen = []
        for step in range(STEPS, 0, -1):
            active = [row == slot or (row + step) % 3 > 0 for row in range(rows)]
            logits = backend.decode([tokens[-step] for tokens in texts], [len(t) - step for t in texts], active)
            seen.append(logits[slot].clone())
        return torch.stack(seen)

    return run


@pytest.mark.parametrize("config", [GPT2, STATEFUL, EMBEDDED, WINDOWED], ids=["gpt2", "lstm", "embedded", "windowed"])
@pytest.mark.parametrize("tokens", [7, 75])
def test_logits_do_not_depend_on_bucket_slot_and_neighbours(logits_of, generator, threads, config, tokens):
    backend = _backend(config)
    text = torch.randint(VOCABULARY, (tokens,), generator=generator).tolist()
    alone = logits_of(backend, text, SMALLEST_ROWS, 0)
    for rows in (4, 8, 16, 32, 64):
        for slot in (rows // 2, rows - 1):
            assert torch.equal(logits_of(backend, text, rows, slot), alone), f"{rows} rows, slot {slot}"


def _read(backend, texts, rng, most):
    """Reads texts, given by slot, at most `most` of them in one call. The logits of all their tokens, by slot."""
    unread = [(slot, start) for slot, text in texts.items() for start in range(0, len(text), PREFILL_CHUNK)]
    logits: dict[int, list[torch.Tensor]] = {slot: [] for slot in texts}
    for slot in texts:
        backend.reset(slot)
    while unread:
        firsts = dict(reversed(unread))  # of each slot its next start
        slots = rng.sample(list(firsts), rng.randint(1, min(most, len(firsts))))
        parts = [texts[slot][firsts[slot] : firsts[slot] + PREFILL_CHUNK] for slot in slots]
        chunks = [Chunk(slot, firsts[slot], part, scored=True) for slot, part in zip(slots, parts, strict=True)]
        for slot, scores in zip(slots, backend.prefill(chunks), strict=True):
            logits[slot].append(scores)
            unread.remove((slot, firsts[slot]))
    return {slot: torch.cat(parts) for slot, parts in logits.items()}


@pytest.mark.parametrize(
    "config",
    [GPT2, ODD_GPT2, STATEFUL, EMBEDDED, WINDOWED, ODD_WINDOWED],
    ids=["gpt2", "odd gpt2", "lstm", "embedded", "windowed", "odd windowed"],
)
@pytest.mark.parametrize("sharing", [True, False], ids=["together", "alone"])
def test_a_scored_prompt_does_not_depend_on_those_that_are_read_with_it(monkeypatch, config, sharing):
    monkeypatch.setattr(pytorch, "_may_share", lambda device, threads: sharing)
    backend, rng = _backend(config), random.Random(3)
    lengths = [1, 31, 32, 33, 149, 150] + [rng.randint(1, 150) for _ in range(14)]
    texts = [rng.choices(range(VOCABULARY), k=length) for length in lengths]
    alone = [_read(backend, {0: text}, rng, 1)[0] for text in texts]
    for _ in range(3):
        slots = rng.sample(range(backend.slots), len(texts))
        together = _read(backend, dict(zip(slots, texts, strict=True)), rng, 20)
        for slot, expected in zip(slots, alone, strict=True):
            assert torch.equal(together[slot], expected)


@pytest.mark.parametrize("threads", GENERATOR_THREADS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "width"), [(16, 8), (32, 24), (64, 16), (64, 32)])
def test_pictures_do_not_depend_on_the_batch(monkeypatch, threads, dtype, size, width):
    """With every number of threads that a generator may be given, also where there are fewer processors."""
    config = DcganConfig(size=size, latent=64, width=width)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        model = fold_batch_norm(generator(config).eval()).to(dtype)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs leave this one out
    backend = DcganBackend(model, 64, CPU)
    monkeypatch.setattr(backend, "threads", threads)
    noise = latents(3, list(range(32)), 64)
    together = backend.paint(noise)
    for batch in (1, 2, 4, 8, 16):
        for begin in range(0, 32, max(batch, 8)):
            part = backend.paint(noise[begin : begin + batch])
            assert torch.equal(part, together[begin : begin + batch]), f"batch {batch}"


def test_a_generator_gets_a_number_of_threads_that_keeps_its_bits(monkeypatch):
    large, small = (generator(DcganConfig(size=32, latent=64, width=width)) for width in (64, 4))
    for machine, expected in {1: 1, 2: 2, 3: 2, 5: 4, 16: 4}.items():
        monkeypatch.setattr(pytorch, "MACHINE_THREADS", machine)
        assert (generator_threads(large), generator_threads(small)) == (expected, 1)

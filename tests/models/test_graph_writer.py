"""What CUDA graphs are made of, run as it is on a CPU: its numbers and tokens are those of the plain path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.candidates import keep_few
from models.cdf import invert_cdf
from models.dcgan import DcganConfig, generator
from models.gpt2 import Gpt2, Gpt2Config, attend_fused
from models.lstm import LstmConfig, LstmLanguageModel
from models.probe import probe_text
from models.runtimes import GREEDY_TEMPERATURE, MOST_STEPS, Chunk, ShortLists, Steps
from models.runtimes.cuda_graphs import NoGraphs
from models.runtimes.pytorch import Gpt2Backend, GraphDcganBackend, LstmBackend, graph_lengths

CPU = torch.device("cpu")
CONTEXT = 150  # not a multiple of a chunk: the last one is narrow
GPT2 = Gpt2Config(700, CONTEXT, width=32, layers=2, heads=2)  # drawn in two levels, the last block of which is not full
CHARACTERS = LstmConfig(65, (48, 32))
ROWS = 8
PROMPTS = [
    [(5 * row + 3 * place) % 65 for place in range(length)] for row, length in enumerate((1, 40, 120, 7, 33, 64))
]


def model_of(config):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = Gpt2(config) if isinstance(config, Gpt2Config) else LstmLanguageModel(config)
    for weight in model.parameters():
        weight.data *= 5  # peaked enough that a wrong number shows
    return model.eval().requires_grad_(False)


def backend_of(config, graphs, dtype=torch.float32, tile=None):
    model = model_of(config).to(dtype)
    is_gpt2 = isinstance(config, Gpt2Config)
    backend: Any = Gpt2Backend(model, CPU) if is_gpt2 else LstmBackend(model, CPU, slots=16)
    if graphs:
        backend.use_graphs(*([] if is_gpt2 else [model]), NoGraphs(), tile=tile)
    return backend


@pytest.fixture(params=[GPT2, CHARACTERS], ids=["gpt2", "characters"])
def config(request):
    return request.param


@pytest.fixture
def steps():
    """One greedy row, others at several temperatures; a uniform as high as may be."""
    uniforms = np.random.default_rng(5).random((ROWS, MOST_STEPS))
    uniforms[0] = 0
    uniforms[1, :3] = 1 - 2.0**-53
    return Steps(uniforms, np.asarray([GREEDY_TEMPERATURE, *[1, 0.3, 1.7, 1, 1, 1, 1]], np.float32))


def read(backend):
    """The prompts in the first slots. Returns what is fed next, at which positions, and which rows there are."""
    for start in range(0, 128, 32):
        chunks = {slot: prompt[:-1][start : start + 32] for slot, prompt in enumerate(PROMPTS)}
        backend.prefill([Chunk(slot, start, chunk) for slot, chunk in chunks.items() if chunk])
    more = [0] * (ROWS - len(PROMPTS))
    return (
        [prompt[-1] for prompt in PROMPTS] + more,
        [len(prompt) - 1 for prompt in PROMPTS] + more,
        [row < len(PROMPTS) for row in range(ROWS)],
    )


def written(backend, steps, sizes):
    """Tokens (rows, steps) of calls of these sizes, one after the other."""
    tokens, positions, active = read(backend)
    found, done = [], 0
    for size in sizes:
        part = Steps(steps.uniforms[:, done : done + size], steps.temperatures)
        places = [place + done if on else place for place, on in zip(positions, active, strict=True)]
        found.append(backend.writer.write(tokens, places, active, part).tokens.copy())
        tokens, done = found[-1][:, -1].tolist(), done + size
    return np.concatenate(found, 1)[: len(PROMPTS)]


@pytest.mark.parametrize("tile", [None, 4], ids=["buckets", "tiles"])
def test_tokens_are_those_that_the_plain_paths_logits_give(config, steps, tile):
    found = written(backend_of(config, graphs=True, tile=tile), steps, [MOST_STEPS])
    plain = backend_of(config, graphs=False)
    tokens, positions, active = read(plain)
    for step in range(MOST_STEPS):
        places = [place + step if on else place for place, on in zip(positions, active, strict=True)]
        logits = plain.decode(tokens, places, active)
        weights = (logits / torch.from_numpy(steps.temperatures)[:, None]).softmax(-1)
        tokens = invert_cdf(weights, torch.from_numpy(steps.uniforms[:, step])).tolist()
        assert tokens[0] == int(logits[0].argmax())
        assert found[:, step].tolist() == tokens[: len(PROMPTS)], f"step {step}"
    assert len(np.unique(found[1:])) > MOST_STEPS


def test_a_call_may_have_as_many_steps_as_it_says():
    backend, other = backend_of(CHARACTERS, graphs=True), backend_of(CHARACTERS, graphs=True)
    count = backend.writer.most_steps
    many = Steps(np.random.default_rng(6).random((ROWS, count)), np.ones(ROWS, np.float32))
    assert np.array_equal(written(backend, many, [count]), written(other, many, [1, count - 1]))


def test_short_lists_are_drawn_from_and_change_no_other_row(config, steps):
    top_k, top_p = np.asarray([0, 5, 0, 3, 40, 256, 0, 0]), np.asarray([1, 1, 1, 1, 0.7, 0.9, 1, 1])
    min_p = np.asarray([0, 0, 0, 0, 0, 0.02, 0, 0], np.float32)
    listed = ShortLists(top_k, top_p, min_p)
    backend, other = backend_of(config, graphs=True), backend_of(config, graphs=True)
    one = Steps(steps.uniforms[:, :1], steps.temperatures, listed)
    fed, _ = read(backend), read(other)
    drawn = backend.writer.write(*fed, one).tokens[:, 0].tolist()
    plain = other.writer.write(*fed, Steps(one.uniforms, one.temperatures))
    settings = (torch.from_numpy(each)[:, None] for each in (top_k, top_p, min_p))
    weights = keep_few(plain.logits / torch.from_numpy(steps.temperatures)[:, None], *settings)
    assert drawn == invert_cdf(weights, torch.from_numpy(one.uniforms[:, 0])).tolist()
    kept = (weights > 0).sum(-1).tolist()
    assert kept[1] == 5
    assert kept[3] == 3
    assert 1 <= kept[4] < 40
    assert [drawn[row] for row in (0, 2)] == plain.tokens[[0, 2], 0].tolist()


def test_tokens_do_not_depend_on_how_many_steps_a_call_has(config, steps):
    expected = written(backend_of(config, graphs=True), steps, [MOST_STEPS])
    for sizes in ([1] * MOST_STEPS, [4, 4, 8], [3, 13]):
        assert np.array_equal(written(backend_of(config, graphs=True), steps, sizes), expected)


def test_single_steps_give_the_logits_of_the_plain_path(config):
    found, expected = backend_of(config, graphs=True), backend_of(config, graphs=False)
    fed = read(found)
    assert fed == read(expected)
    torch.testing.assert_close(found.decode(*fed)[:6], expected.decode(*fed)[:6], rtol=1e-4, atol=1e-4)


def test_the_logits_of_a_written_step_are_those_of_a_decode(config, steps):
    backend, other = backend_of(config, graphs=True), backend_of(config, graphs=True)
    fed, _ = read(backend), read(other)
    one = Steps(steps.uniforms[:, :1], steps.temperatures)
    logits = backend.writer.write(*fed, one).logits
    assert torch.equal(logits, other.decode(*fed))
    assert not len(backend.writer.write(*fed, steps).logits)


def test_rows_that_are_not_active_keep_their_state(config, steps):
    backend, other = backend_of(config, graphs=True), backend_of(config, graphs=True)
    fed = read(backend)
    read(other)
    active = [True, False, True, False, True, False, False, False]
    backend.writer.write(fed[0], fed[1], active, steps)
    if isinstance(config, Gpt2Config):
        assert not backend._cache.keys[:, 5, :, fed[1][5] + 1 :].any()
        assert backend._cache.keys[:, 0, :, 1 : 1 + MOST_STEPS - 1].all()
    found, expected = backend.decode(*fed), other.decode(*fed)
    kept = [torch.equal(*pair) for pair in zip(found, expected, strict=True)]
    # Keys and values of positions behind a text are rewritten before they are read; a recurrent state has none.
    assert kept == [isinstance(config, Gpt2Config) or not on for on in active]


def test_a_tile_without_a_text_is_not_run(config, steps):
    backend = backend_of(config, graphs=True, tile=4)
    tokens, positions, _ = read(backend)
    made = backend.writer.write(tokens, positions, [False] * 4 + [True] * 4, steps)
    assert made.sound.all()
    assert not made.tokens[:4].any()
    assert made.tokens[4:].any(-1).all()


def test_a_text_that_ends_in_mid_call_may_go_beyond_the_context(steps):
    backend, other = backend_of(GPT2, graphs=True), backend_of(GPT2, graphs=True)
    fed = read(backend)
    read(other)
    positions = list(fed[1])
    positions[5] = CONTEXT - 2
    tokens = backend.writer.write(fed[0], positions, fed[2], steps).tokens.copy()
    expected = other.writer.write(*fed, steps).tokens
    assert np.array_equal(np.delete(tokens, 5, 0)[:5], np.delete(expected, 5, 0)[:5])


def test_logits_that_are_no_numbers_are_named_and_harm_nobody(config, steps):
    backend, other = backend_of(config, graphs=True), backend_of(config, graphs=True)
    fed = read(backend)
    read(other)
    if isinstance(config, Gpt2Config):
        backend._cache.values[:, 2] = torch.nan
    else:
        for _, c in backend._state:
            c[2] = torch.nan
    made = backend.writer.write(*fed, steps)
    assert made.sound.tolist() == [row != 2 for row in range(ROWS)]
    assert ((made.tokens >= 0) & (made.tokens < backend.vocabulary_size)).all()
    assert np.array_equal(np.delete(made.tokens, 2, 0)[:5], np.delete(other.writer.write(*fed, steps).tokens, 2, 0)[:5])
    for slot in range(ROWS):
        backend.wipe(slot)
    assert backend.decode(*read(backend)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_less_precision_goes_the_same_way_and_is_drawn_in_fp32(config, dtype, steps):
    found = written(backend_of(config, graphs=True, dtype=dtype), steps, [MOST_STEPS])
    other, plain = backend_of(config, graphs=True, dtype=dtype), backend_of(config, graphs=False, dtype=dtype)
    logits = other.decode(*read(other))
    expected = plain.decode(*read(plain))[: len(PROMPTS)]
    torch.testing.assert_close(logits[: len(PROMPTS)].softmax(-1), expected.softmax(-1), rtol=0, atol=0.2)
    assert logits.dtype == torch.float32
    weights = (logits / torch.from_numpy(steps.temperatures)[:, None]).softmax(-1)
    drawn = invert_cdf(weights, torch.from_numpy(steps.uniforms[:, 0])).tolist()
    assert found[:, 0].tolist() == drawn[: len(PROMPTS)]


def test_prompts_that_are_scored_together_get_the_logits_that_they_get_alone():
    found, expected = backend_of(GPT2, graphs=True), backend_of(GPT2, graphs=False)
    for start in range(0, CONTEXT, 32):
        chunks = [
            Chunk(slot, start, [(slot + place) % 65 for place in range(start, min(start + 32, CONTEXT))], slot != 1)
            for slot in range(11)
        ]
        pairs = zip(found.prefill(chunks), expected.prefill(chunks), strict=True)
        for slot, (together, alone) in enumerate(pairs):
            if slot == 1:
                assert together is None
            else:
                torch.testing.assert_close(together, alone, rtol=1e-4, atol=2e-4)


def test_attention_for_a_gpu_is_the_plain_one():
    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 4, 12, 8), torch.randn(2, 4, 12, 8)
    mask = torch.arange(12) <= torch.tensor([4, 5, 6])[:, None]
    bias = torch.zeros(3, 12).masked_fill(~mask, -torch.inf)
    expected = model_of(Gpt2Config(5, 12, 32, 1, 4)).blocks[0].attention.attend(q, k, v, mask)
    torch.testing.assert_close(attend_fused(q, k, v, bias.expand(2, 1, 3, 12)), expected)


def test_there_are_few_graphs_and_the_longest_is_for_the_context():
    assert graph_lengths(64) == [64]
    assert graph_lengths(1024) == list(range(128, 1025, 128))
    assert graph_lengths(1000)[-2:] == [896, 1000]
    assert len(graph_lengths(8192)) == 8


def test_the_probe_covers_what_graphs_compute(config):
    backend = backend_of(config, graphs=True)
    context = CONTEXT if isinstance(config, Gpt2Config) else None
    assert probe_text(backend, context).batch_invariant
    launch = backend.writer.launch

    def leaking(tokens, positions, active, steps):
        wait = launch(tokens, positions, active, steps)
        backend.writer._logits[:] += len(tokens) * 1e-4
        return wait

    backend.writer.launch = leaking
    assert not probe_text(backend, context).batch_invariant


class AllOnMeta(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        assert all(part.is_meta for part in tree_leaves(made) if isinstance(part, torch.Tensor)), func
        return made


class Rehearsal(NoGraphs):
    """Runs work when it is recorded."""

    def __init__(self):
        self.works = 0

    def record(self, work):
        self.works += 1
        with AllOnMeta():
            work()
        return work


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_step_asks_a_device_for_a_number_or_brings_one_there(config, dtype):
    """A CUDA graph can hold neither. Tensors on `meta` have no numbers, and do not mix with others."""
    device, recorder = torch.device("meta"), Rehearsal()
    model = model_of(config).to(device, dtype)
    if isinstance(config, Gpt2Config):
        Gpt2Backend(model, device).use_graphs(recorder, tile=64)
        assert recorder.works == 7  # what begins a call; for 128 and for 150 positions two steps and a chunk
    else:
        LstmBackend(model, device).use_graphs(model, recorder, tile=64)
        assert recorder.works == 3


def test_pictures_are_drawn_without_asking_the_device():
    config, recorder = DcganConfig(size=16, latent=8, width=4), Rehearsal()
    device = torch.device("meta")
    backend = GraphDcganBackend(generator(config).eval().requires_grad_(False).to(device), config, device, recorder)
    backend._painter._record(4)
    assert recorder.works == 1

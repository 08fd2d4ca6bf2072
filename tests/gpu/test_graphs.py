"""What only a GPU can show of CUDA graphs: they compute what their steps do without recording, and what a CPU does; a
text is the same in any company, also while another model works."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from contracts.requests import ImageRequest, Target, TextRequest
from models.dcgan import DcganConfig, generator
from models.gpt2 import Attention, Gpt2, Gpt2Config, attend_fused
from models.lstm import LstmConfig, LstmLanguageModel
from models.noise import latents
from models.probe import probe_images, probe_text
from models.runtimes import GREEDY_TEMPERATURE, MOST_STEPS, Chunk, Steps
from models.runtimes.cuda_graphs import NoGraphs, recorder_for
from models.runtimes.pytorch import DcganBackend, Gpt2Backend, GraphDcganBackend, LstmBackend
from workers.engines import Delta
from workers.engines.image import ImageEngine
from workers.engines.streams import OnStream
from workers.engines.text import TextEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

GPU, CPU = torch.device("cuda"), torch.device("cpu")
VOCABULARY, CONTEXT = 1_000, 300
GPT2 = Gpt2Config(VOCABULARY, CONTEXT, width=128, layers=2, heads=2)
CHARACTERS = LstmConfig(VOCABULARY, (128, 96))
TARGET = Target(model="m", version=1, variant="v")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
PROMPTS = [
    [(5 * row + 3 * place) % VOCABULARY for place in range(length)] for row, length in enumerate((1, 40, 250, 33))
]


@pytest.fixture(params=[GPT2, CHARACTERS], ids=["gpt2", "characters"])
def config(request):
    return request.param


def backend_of(config, recorder=None, dtype=torch.float32, device=GPU, tile=64) -> Any:
    is_gpt2 = isinstance(config, Gpt2Config)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model: Any = Gpt2(config) if is_gpt2 else LstmLanguageModel(config)
    for weight in model.parameters():
        weight.data *= 4  # peaked enough that a wrong number shows
    model = model.eval().requires_grad_(False).to(device, dtype)
    backend: Any = Gpt2Backend(model, device) if is_gpt2 else LstmBackend(model, device)
    if recorder:
        backend.use_graphs(*([] if is_gpt2 else [model]), recorder, tile=tile)
    return backend


def read(backend):
    """The prompts in the first slots: what is fed next, at which positions, and which rows there are."""
    for start in range(0, 256, 32):
        chunks = {slot: prompt[:-1][start : start + 32] for slot, prompt in enumerate(PROMPTS)}
        if parts := [Chunk(slot, start, chunk) for slot, chunk in chunks.items() if chunk]:
            backend.prefill(parts)
    more = [0] * (backend.slots - len(PROMPTS))
    tokens, positions = [prompt[-1] for prompt in PROMPTS], [len(prompt) - 1 for prompt in PROMPTS]
    return tokens + more, positions + more, [row < len(PROMPTS) for row in range(backend.slots)]


def written(backend, sizes):
    """Tokens (rows, steps) of calls of these sizes, and the logits of one more step."""
    rng = np.random.default_rng(5)
    uniforms, temperatures = rng.random((backend.slots, MOST_STEPS)), np.ones(backend.slots, np.float32)
    uniforms[0], temperatures[0] = 0, GREEDY_TEMPERATURE
    tokens, positions, active = read(backend)
    found, done = [], 0
    for size in sizes:
        places = [place + done if on else place for place, on in zip(positions, active, strict=True)]
        steps = Steps(uniforms[:, done : done + size], temperatures)
        made = backend.writer.write(tokens, places, active, steps)
        assert made.sound.all()
        found.append(made.tokens.copy())
        tokens, done = found[-1][:, -1].tolist(), done + size
    places = [place + done if on else place for place, on in zip(positions, active, strict=True)]
    logits = backend.decode(tokens, places, active)[: len(PROMPTS)].clone()
    return np.concatenate(found, 1)[: len(PROMPTS)], logits


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_recorded_steps_are_those_that_are_not_recorded(config, dtype):
    expected, logits = written(backend_of(config, NoGraphs(), dtype), [MOST_STEPS])
    for sizes in ([MOST_STEPS], [1] * MOST_STEPS, [3, 13]):
        found, recorded_logits = written(backend_of(config, recorder_for(GPU), dtype), sizes)
        assert np.array_equal(found, expected)
        assert torch.equal(recorded_logits, logits)


def test_recorded_steps_compute_what_a_cpu_does(config):
    graphs, cpu = backend_of(config, recorder_for(GPU)), backend_of(config, device=CPU)
    found, expected = (backend.decode(*read(backend))[: len(PROMPTS)].cpu() for backend in (graphs, cpu))
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), rtol=0, atol=1e-3)


def test_scored_prompts_get_what_a_cpu_gives():
    graphs, cpu = backend_of(GPT2, recorder_for(GPU)), backend_of(GPT2, device=CPU)
    for start in range(0, CONTEXT, 32):
        places = range(start, min(start + 32, CONTEXT))
        chunks = [Chunk(slot, start, [(slot + place) % VOCABULARY for place in places], True) for slot in range(11)]
        for found, expected in zip(graphs.prefill(chunks), cpu.prefill(chunks), strict=True):
            torch.testing.assert_close(found.cpu().softmax(-1), expected.softmax(-1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_tile_keeps_a_rows_bits(config, dtype):
    """Where it does not, texts are drawn by Gumbel-max, step by step: right, but slower, and worth knowing."""
    probe = probe_text(backend_of(config, recorder_for(GPU), dtype), CONTEXT if config is GPT2 else None)
    assert probe.batch_invariant, probe.equal


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fused_attention_keeps_its_bits_with_any_padding(dtype):
    q, k, v = (torch.randn(64, 2, length, 64, device=GPU, dtype=dtype) for length in (1, 1024, 1024))
    positions = torch.arange(64, device=GPU)
    mixed = {}
    for length in (128, 512, 1024):
        mask = (torch.arange(length, device=GPU) <= positions[:, None])[:, None, None]
        bias = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)
        mixed[length] = attend_fused(q, k[:, :, :length], v[:, :, :length], bias)
        plain = Attention(GPT2).attend(q, k[:, :, :length], v[:, :, :length], mask)
        torch.testing.assert_close(mixed[length].float(), plain.float(), rtol=0.02, atol=0.05)
    assert torch.equal(mixed[128], mixed[512])
    assert torch.equal(mixed[128], mixed[1024])


def requests(count):
    return {
        str(seed): TextRequest(
            target=TARGET,
            seed=seed,
            prompt_tokens=tuple((seed + 7 * place) % VOCABULARY for place in range(1 + 9 * seed)),
            max_tokens=60,
            temperature=seed % 3 / 2,
            top_k=(0, 0, 0, 40)[seed % 4],
        )
        for seed in range(count)
    }


def texts_of(engines):
    """Tokens by engine and job; all engines are launched before any is collected."""
    found: dict[tuple[int, str], list[int]] = {}
    while busy := [(number, engine) for number, engine in enumerate(engines) if engine.busy]:
        handles = [(number, engine, engine.launch()) for number, engine in busy]
        for number, engine, handle in handles:
            for event in engine.collect(handle).events:
                if isinstance(event, Delta):
                    found.setdefault((number, event.job_id), []).extend(event.tokens)
    return found


def test_models_that_work_at_the_same_time_write_what_they_write_alone():
    engines = []
    for config in (GPT2, CHARACTERS):
        stream = torch.cuda.Stream(GPU)
        with torch.cuda.stream(stream):
            backend = backend_of(config, recorder_for(GPU))
        engines.append(OnStream(TextEngine(backend, None, CONTEXT), stream))
    alone: dict[tuple[int, str], list[int]] = {}
    for number, engine in enumerate(engines):
        for job_id, request in requests(12).items():
            engine.add(job_id, request)
            alone |= {(number, job): tokens for (_, job), tokens in texts_of([engine]).items()}
    for _ in range(3):
        for engine in engines:
            for job_id, request in requests(12).items():
                engine.add(job_id, request)
        assert texts_of(engines) == alone


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pictures_of_graphs_are_those_of_the_plain_path(dtype):
    config = DcganConfig(size=32, latent=16, width=8)
    torch.backends.cudnn.deterministic = True  # as `load_images` sets it
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = generator(config).eval().requires_grad_(False).to(GPU, dtype)
    plain, graphs = DcganBackend(model, 16, GPU), GraphDcganBackend(model, config, GPU, recorder_for(GPU))
    for count in (1, 4, 64, 4):
        noise = latents(count, list(range(count)), 16)
        assert torch.equal(graphs.draw(noise), plain.draw(noise))
    engine = ImageEngine(graphs)
    engine.add("a", ImageRequest(target=TARGET, seed=4, count=4))
    (delta, _) = engine.collect(engine.launch()).events
    expected = plain.draw(latents(4, list(range(4)), 16))
    assert isinstance(delta, Delta)
    assert delta.pictures == [picture.numpy().tobytes() for picture in expected]
    probe_images(graphs)

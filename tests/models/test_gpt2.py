"""Our GPT-2 computes what transformers' does, through the importer and the served backend."""

import copy
import json
import random
from dataclasses import dataclass

import pytest
import torch
import transformers

from contracts.requests import Target, TextRequest
from models.gpt2 import Gpt2, Gpt2Config
from models.runtimes.pytorch import Gpt2Backend
from workers.engines import Delta
from workers.engines.text import TextEngine
from workers.scheduler import Scheduler

NEW_TOKENS = 24
SMALL = {"vocab_size": 300, "n_positions": 224, "n_embd": 96, "n_layer": 3, "n_head": 4}
FULL = {"vocab_size": 50_257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}  # 124 million weights


def _prompts(vocabulary_size, lengths):
    generator = torch.Generator().manual_seed(5)
    return {
        slot: torch.randint(vocabulary_size, (length,), generator=generator).tolist()
        for slot, length in enumerate(lengths)
    }


def _generate(theirs, prompt):
    with torch.inference_mode():
        tokens = theirs.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW_TOKENS)
    return tokens[0, len(prompt) :].tolist()


def test_greedy_text_equals_transformers_alone_and_in_a_mixed_batch(with_small_tokenizer, greedy):
    theirs, backend = with_small_tokenizer(SMALL, 0.2)
    prompts = _prompts(theirs.config.vocab_size, [1, 7, 32, 33, 64, 65, 100, 130])
    expected = {slot: _generate(theirs, prompt) for slot, prompt in prompts.items()}
    assert len({tuple(text) for text in expected.values()}) == len(prompts)
    assert greedy(backend, prompts, NEW_TOKENS) == expected
    for slot, prompt in prompts.items():
        assert greedy(backend, {0: prompt}, NEW_TOKENS) == {0: expected[slot]}


def test_logits_equal_transformers(with_small_tokenizer, read_prompts):
    theirs, backend = with_small_tokenizer(SMALL, 0.02)
    prompts = _prompts(theirs.config.vocab_size, [5, 90, 160, 32])
    read_prompts(backend, prompts)
    positions = [len(prompt) - 1 for prompt in prompts.values()]
    logits = backend.decode([prompt[-1] for prompt in prompts.values()], positions, [True] * 4)
    for slot, prompt in prompts.items():
        with torch.inference_mode():
            expected = theirs(torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(logits[slot], expected, atol=1e-4, rtol=0)


@dataclass(frozen=True)
class Step:
    """One step of transformers' greedy text."""

    token: int
    best_two: list[int]
    gap: float  # between the logits of these two
    error: float  # the largest of the step's logits, against fp64


def _steps_of_transformers(theirs, exact, prompts):
    """The greedy continuations of prompts of one length; `exact` is the same model in fp64."""
    with torch.inference_mode():
        made = theirs.generate(
            torch.tensor(prompts),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            output_logits=True,
            return_dict_in_generate=True,
        )
        exact_logits = exact(made.sequences[:, :-1], logits_to_keep=NEW_TOKENS).logits
    logits = torch.stack(made.logits, dim=1)  # (prompts, steps, vocabulary)
    errors = (logits - exact_logits).abs().amax(-1)
    values, tokens = logits.topk(2)  # each (prompts, steps, 2)
    fields = (made.sequences[:, len(prompts[0]) :], tokens, values[..., 0] - values[..., 1], errors)
    return [
        [Step(*of_step) for of_step in zip(*of_text, strict=True)]
        for of_text in zip(*(field.tolist() for field in fields), strict=True)
    ]


def _through_the_engine(engine, prompts):
    """Greedy texts of all prompts, by the prompt, and the batch size of every call."""
    scheduler = Scheduler({"gpt2": engine})
    target = Target(model="gpt2", version=1, variant="pytorch:fp32")
    by_id = {str(number): prompt for number, prompt in enumerate(prompts)}
    for job_id, prompt in by_id.items():
        request = TextRequest(target=target, seed=0, prompt_tokens=prompt, max_tokens=NEW_TOKENS, temperature=0.0)
        scheduler.submit("gpt2", job_id, request)
    texts: dict[tuple[int, ...], list[int]] = {prompt: [] for prompt in prompts}
    batch_sizes = []
    while scheduler.busy:
        scheduler.admit(lambda job_id, error: pytest.fail(f"{job_id}: {error}"))
        call = engine.collect(engine.launch())
        batch_sizes.append(call.batch_size)
        for event in call.events:
            if isinstance(event, Delta):
                texts[by_id[event.job_id]] += event.tokens
    return texts, batch_sizes


@pytest.mark.parametrize(
    ("shape", "spread"),
    [
        (SMALL, 0.2),
        pytest.param(FULL, 0.02, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
    ids=["small", "124M"],
)
def test_200_prompts_of_mixed_lengths_in_shared_batches_get_the_tokens_of_transformers(
    with_small_tokenizer, shape, spread
):
    theirs, backend = with_small_tokenizer(shape, spread)
    exact = copy.deepcopy(theirs).double()
    rng = random.Random(6)
    vocabulary = range(theirs.config.vocab_size)
    lengths = [1, 2, 31, 32, 33, 34, 63, 64, 65, 66, 128, 129, 199, 200]
    lengths += rng.sample([length for length in range(1, 201) if length not in lengths], 50 - len(lengths))
    expected: dict[tuple[int, ...], list[Step]] = {}
    for length in lengths:
        # Oracle batches are of one length: padding would be another computation.
        group = [(first, *rng.choices(vocabulary, k=length - 1)) for first in rng.sample(vocabulary, 4)]
        expected |= zip(group, _steps_of_transformers(theirs, exact, group), strict=True)
    prompts = list(expected)
    assert len(prompts) == 200
    rng.shuffle(prompts)  # so that neighbours differ in length
    # Calls of one step and the fewest chunks, so that the batches are the same on a fast machine as on a busy one.
    engine = TextEngine(backend, None, theirs.config.n_positions, call_seconds=0.0)
    texts, batch_sizes = _through_the_engine(engine, prompts)
    assert max(batch_sizes) > 16, "batches were shared"
    ties = 0
    for prompt, steps in expected.items():
        assert len(texts[prompt]) == NEW_TOKENS
        for place, (token, step) in enumerate(zip(texts[prompt], steps, strict=True)):
            if step.gap < step.error:  # either may be the larger one, and what follows depends on it
                assert token in step.best_two
                ties += 1
                break
            assert token == step.token, f"token {place} after a prompt of {len(prompt)}"
    assert ties < 0.05 * len(prompts)
    assert len({tuple(text) for text in texts.values()}) > 150, "the texts are not all the same"


@pytest.mark.data
def test_text_equals_transformers_with_the_real_tokenizer(oracle, data_folder, greedy):
    def copy_tokenizer(folder):
        for name in ("vocab.json", "merges.txt"):
            (folder / name).write_bytes((data_folder / "gpt2_tokenizer" / name).read_bytes())

    size = len(json.loads((data_folder / "gpt2_tokenizer" / "vocab.json").read_bytes()))
    theirs, backend = oracle(copy_tokenizer, {**SMALL, "vocab_size": size}, 0.2)
    tokenizer = transformers.GPT2Tokenizer.from_pretrained(data_folder / "gpt2_tokenizer")
    prompts = {0: tokenizer.encode("In the year"), 2: tokenizer.encode("During the war, a shinigami")}
    expected = {slot: _generate(theirs, prompt) for slot, prompt in prompts.items()}
    assert greedy(backend, prompts, NEW_TOKENS) == expected


def test_the_training_pass_equals_prefill_and_decode(greedy, generator):
    model = Gpt2(Gpt2Config(vocabulary_size=50, context_tokens=64, width=32, layers=2, heads=2)).eval()
    backend = Gpt2Backend(model.requires_grad_(False), torch.device("cpu"))
    prompt = torch.randint(50, (40,), generator=generator).tolist()
    continued = prompt + greedy(backend, {1: prompt}, 20)[1]
    likeliest = model(torch.tensor([continued]))[0].argmax(-1)[0].tolist()
    assert likeliest[len(prompt) - 1 : -1] == continued[len(prompt) :]

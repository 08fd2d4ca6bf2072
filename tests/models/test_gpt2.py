"""Our GPT-2 computes what transformers' does, through the importer and the served backend."""

import json

import pytest
import torch
import transformers

from contracts.store import Store
from export.huggingface import import_gpt2
from models.gpt2 import Gpt2, Gpt2Config
from models.runtimes.pytorch import Gpt2Backend, load_text
from training.gpt2 import train_tokenizer

CPU = torch.device("cpu")
CONTEXT = 160
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """Makes transformers' model with random weights, and our backend of its checkpoint."""
    transformers.utils.logging.set_verbosity_error()

    def make(spread, write_tokenizer, vocabulary_size):
        folder = tmp_path_factory.mktemp("checkpoint")
        with torch.random.fork_rng():
            torch.manual_seed(4)
            config = transformers.GPT2Config(
                vocab_size=vocabulary_size,
                n_positions=CONTEXT,
                n_embd=96,
                n_layer=3,
                n_head=4,
                initializer_range=spread,
                bos_token_id=None,
                eos_token_id=None,
            )
            theirs = transformers.GPT2LMHeadModel(config).eval()
        theirs.save_pretrained(folder)
        write_tokenizer(folder)
        bundle = import_gpt2(folder, Store(folder / "store"), "gpt2")
        return theirs, load_text(bundle, CPU)

    return make


@pytest.fixture(scope="module")
def with_small_tokenizer(oracle):
    tokenizer = train_tokenizer(["the old castle town by the sea", "a quiet pilot named Akari"] * 4, 300)
    return lambda spread: oracle(
        spread, lambda folder: tokenizer.write(folder / "tokenizer.json"), tokenizer.vocabulary_size
    )


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
    theirs, backend = with_small_tokenizer(0.2)
    prompts = _prompts(theirs.config.vocab_size, [1, 7, 32, 33, 64, 65, 100, 130])
    expected = {slot: _generate(theirs, prompt) for slot, prompt in prompts.items()}
    assert len({tuple(text) for text in expected.values()}) == len(prompts)
    assert greedy(backend, prompts, NEW_TOKENS) == expected
    for slot, prompt in prompts.items():
        assert greedy(backend, {0: prompt}, NEW_TOKENS) == {0: expected[slot]}


def test_logits_equal_transformers(with_small_tokenizer, read_prompts):
    theirs, backend = with_small_tokenizer(0.02)
    prompts = _prompts(theirs.config.vocab_size, [5, 90, 160, 32])
    read_prompts(backend, prompts)
    positions = [len(prompt) - 1 for prompt in prompts.values()]
    logits = backend.decode([prompt[-1] for prompt in prompts.values()], positions, [True] * 4)
    for slot, prompt in prompts.items():
        with torch.inference_mode():
            expected = theirs(torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(logits[slot], expected, atol=1e-4, rtol=0)


@pytest.mark.data
def test_text_equals_transformers_with_the_real_tokenizer(oracle, data_folder, greedy):
    def copy_tokenizer(folder):
        for name in ("vocab.json", "merges.txt"):
            (folder / name).write_bytes((data_folder / "gpt2_tokenizer" / name).read_bytes())

    size = len(json.loads((data_folder / "gpt2_tokenizer" / "vocab.json").read_bytes()))
    theirs, backend = oracle(0.2, copy_tokenizer, size)
    tokenizer = transformers.GPT2Tokenizer.from_pretrained(data_folder / "gpt2_tokenizer")
    prompts = {0: tokenizer.encode("In the year"), 2: tokenizer.encode("During the war, a shinigami")}
    expected = {slot: _generate(theirs, prompt) for slot, prompt in prompts.items()}
    assert greedy(backend, prompts, NEW_TOKENS) == expected


def test_the_training_pass_equals_prefill_and_decode(greedy, generator):
    model = Gpt2(Gpt2Config(vocabulary_size=50, context_tokens=64, width=32, layers=2, heads=2)).eval()
    backend = Gpt2Backend(model.requires_grad_(False), CPU)
    prompt = torch.randint(50, (40,), generator=generator).tolist()
    continued = prompt + greedy(backend, {1: prompt}, 20)[1]
    likeliest = model(torch.tensor([continued])).argmax(-1)[0].tolist()
    assert likeliest[len(prompt) - 1 : -1] == continued[len(prompt) :]

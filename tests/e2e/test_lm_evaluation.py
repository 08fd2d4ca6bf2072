"""lm-evaluation-harness' `local-completions` client: what it asks for, how it reads the answers, and what comes of it,
held against transformers.

For a continuation's log-likelihood it sends context and continuation as lists of token ids with `echo`, `logprobs` 1,
`max_tokens` 1 and `temperature` 0, and reads the entries from the continuation on, less the last: that one is the token
that was written.
"""

from __future__ import annotations

import random

import pytest
import torch
import transformers

from contracts.store import Store
from export.checkpoint import import_checkpoint
from training.gpt2 import END, train_tokenizer

TOKENIZER = train_tokenizer(["the old castle town by the sea", "Once upon a time"] * 4, 290)
CONTEXT = 64
BATCH = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a random GPT-2, as `save_pretrained` writes it."""
    transformers.utils.logging.set_verbosity_error()
    end = TOKENIZER.end_token
    config = transformers.GPT2Config(
        vocab_size=TOKENIZER.vocabulary_size,
        n_positions=CONTEXT,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,  # peaked enough that a wrong position shows
        bos_token_id=end,
        eos_token_id=end,
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    with torch.random.fork_rng():
        torch.manual_seed(21)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    TOKENIZER.write(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return transformers.GPT2LMHeadModel.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="module")
def root(checkpoint, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    import_checkpoint(checkpoint, store, "scored")
    return store.root


@pytest.fixture(scope="module")
def requests(theirs):
    """(context, continuation), every third continuation one that greedy decoding writes; the last fill the context."""
    rng = random.Random(8)
    made = []
    for number in range(40):
        context = [rng.randrange(TOKENIZER.vocabulary_size) for _ in range(rng.randint(1, 30))]
        count = CONTEXT - 1 - len(context) if number >= 36 else rng.randint(1, 12)
        continuation = [rng.randrange(TOKENIZER.vocabulary_size) for _ in range(count)]
        if number % 3 == 0:
            for place in range(len(continuation)):
                continuation[place] = int(_logits(theirs, context + continuation[:place])[-1].argmax())
        made.append((context, continuation))
    return made


def _logits(theirs, tokens):
    with torch.inference_mode():
        return theirs(torch.tensor([tokens])).logits[0]


def expected(theirs, context, continuation):
    """Log-likelihood of the continuation, and whether greedy decoding would write it."""
    logits = _logits(theirs, context + continuation)[len(context) - 1 : -1]
    own = torch.log_softmax(logits.double(), -1)[range(len(continuation)), continuation]
    return float(own.sum()), logits.argmax(-1).tolist() == continuation


def ask(product, prompts):
    body = {"model": "scored", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234}
    status, answer = product.post("/v1/completions", body | {"echo": True})
    assert status == 200, answer
    return sorted(answer["choices"], key=lambda choice: choice["index"])


def read(choice, context_length):
    """As the client reads a choice."""
    own = choice["logprobs"]["token_logprobs"][context_length:-1]
    likeliest = choice["logprobs"]["top_logprobs"][context_length:-1]
    return sum(own), all(logprob == max(top.values()) for logprob, top in zip(own, likeliest, strict=True))


def test_log_likelihoods_and_greedy_flags_are_those_of_transformers(shared_product, theirs, requests):
    answers = []
    for begin in range(0, len(requests), BATCH):
        batch = requests[begin : begin + BATCH]
        choices = ask(shared_product, [context + continuation for context, continuation in batch])
        assert len(choices) == len(batch)
        answers += [read(choice, len(context)) for choice, (context, _) in zip(choices, batch, strict=True)]
    wanted = [expected(theirs, *each) for each in requests]
    assert [is_greedy for _, is_greedy in answers] == [is_greedy for _, is_greedy in wanted]
    assert {is_greedy for _, is_greedy in wanted} == {True, False}
    for (got, _), (right, _) in zip(answers, wanted, strict=True):
        assert got == pytest.approx(right, abs=1e-4)


def test_the_written_token_is_listed_even_if_it_ends_the_text(shared_product, theirs):
    contexts = [[first, second] for first in range(TOKENIZER.vocabulary_size) for second in range(0, 290, 7)]
    with torch.inference_mode():
        following = theirs(torch.tensor(contexts)).logits[:, -1].argmax(-1).tolist()
    ending = [context for context, token in zip(contexts, following, strict=True) if token == TOKENIZER.end_token][:4]
    going_on = [context for context, token in zip(contexts, following, strict=True) if token != TOKENIZER.end_token][:4]
    assert len(ending) == len(going_on) == 4
    for choice in ask(shared_product, ending + going_on):
        ends = choice["index"] < 4
        assert choice["finish_reason"] == ("stop" if ends else "length")
        logprobs = choice["logprobs"]
        assert {len(logprobs[name]) for name in logprobs} == {3}
        assert (logprobs["tokens"][-1] == END) is ends
        assert logprobs["token_logprobs"][-1] == max(logprobs["top_logprobs"][-1].values())


def test_texts_that_it_generates_are_those_of_transformers(shared_product, theirs, requests):
    contexts = [context for context, _ in requests[:6]]
    body = {"model": "scored", "prompt": contexts, "max_tokens": 16, "temperature": 0, "stop": [END], "seed": 1234}
    status, answer = shared_product.post("/v1/completions", body)
    assert status == 200
    for context, choice in zip(contexts, answer["choices"], strict=True):
        with torch.inference_mode():
            tokens = theirs.generate(torch.tensor([context]), do_sample=False, max_new_tokens=16)[0, len(context) :]
        assert choice["text"] == _text(tokens.tolist())


def _text(tokens):
    written = [token for token in tokens if token != TOKENIZER.end_token]
    return b"".join(map(TOKENIZER.token_bytes, written)).decode(errors="replace")

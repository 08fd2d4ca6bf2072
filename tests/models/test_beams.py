"""Beams find the texts and scores that transformers' generate finds, with the same noise where they are drawn."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import pytest
import torch

from contracts.requests import Target, TextRequest
from models.beams import BeamSearch, BeamSettings, Continuation
from models.noise import candidate_keys, gumbel
from workers.engines import Delta, Done
from workers.engines.text import TextEngine
from workers.scheduler import Scheduler

CONTEXT = 224
SHAPE = {"vocab_size": 300, "n_positions": CONTEXT, "n_embd": 96, "n_layer": 3, "n_head": 4}
TARGET = Target(model="gpt2", version=1, variant="pytorch:fp32")


def _run(engine, requests):
    """Texts of all requests, run together: [(tokens, score), ...] by request, best first."""
    scheduler = Scheduler({"gpt2": engine})
    for number, request in enumerate(requests):
        scheduler.submit("gpt2", str(number), request)
    texts: dict[tuple[int, int], list[int]] = {}
    scores: dict[tuple[int, int], float | None] = {}
    ended = set()
    while scheduler.busy:
        scheduler.admit(lambda job_id, error: pytest.fail(f"{job_id}: {error}"))
        for event in engine.collect(engine.launch()).events:
            place = int(event.job_id), event.choice
            if isinstance(event, Delta):
                texts.setdefault(place, []).extend(event.tokens)
                scores[place] = event.beam_score
            elif isinstance(event, Done):
                assert place not in ended
                ended.add(place)
    assert len(ended) == sum(request.n for request in requests)
    return [
        [(texts[number, choice], scores[number, choice]) for choice in range(request.n)]
        for number, request in enumerate(requests)
    ]


def _by_transformers(theirs, request):
    """The same request by `generate`."""
    sampling = {"temperature": request.temperature, "top_k": request.top_k, "top_p": request.top_p}
    ending = list(request.stop_token_ids)
    with torch.inference_mode():
        made = theirs.generate(
            torch.tensor([request.prompt_tokens]),
            attention_mask=torch.ones(1, len(request.prompt_tokens), dtype=torch.long),
            num_beams=request.num_beams,
            num_return_sequences=request.n,
            max_new_tokens=request.max_tokens,
            length_penalty=request.length_penalty,
            early_stopping=request.early_stopping,
            no_repeat_ngram_size=request.no_repeat_ngram_size,
            repetition_penalty=request.repetition_penalty,
            min_new_tokens=request.min_tokens,
            eos_token_id=ending or None,
            pad_token_id=0,
            do_sample=request.temperature > 0,
            return_dict_in_generate=True,
            output_scores=True,
            **(sampling if request.temperature else {}),
        )
    texts = []
    for text, score in zip(made.sequences[:, len(request.prompt_tokens) :], made.sequences_scores, strict=True):
        tokens = text.tolist()
        end = next((place + 1 for place, token in enumerate(tokens) if token in ending), request.max_tokens)
        texts.append((tokens[:end], pytest.approx(score.item(), rel=1e-6, abs=2e-5)))
    return texts


def _ordinary(number):
    """Neighbours in the batch."""
    return TextRequest(
        target=TARGET,
        seed=number,
        prompt_tokens=(number + 1,) * (number % 40 + 1),
        max_tokens=40,
        temperature=number % 3,
    )


def _searches(vocabulary_size):
    """Every combination of what rules a search; two thirds with tokens that end a text, one in twelve of them all."""
    generator = torch.Generator().manual_seed(1)
    early_stops: list[Literal[False, True, "never"]] = [False, True, "never"]
    combinations = itertools.product([2, 5], [0.0, 1.0, -1.0, 2.0], early_stops, [1, 33])
    for number, (num_beams, length_penalty, early_stopping, length) in enumerate(combinations):
        yield TextRequest(
            target=TARGET,
            seed=0,
            temperature=0.0,
            prompt_tokens=tuple(torch.randint(vocabulary_size, (length,), generator=generator).tolist()),
            max_tokens=24,
            num_beams=num_beams,
            n=min(3, num_beams),
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            stop_token_ids=tuple(range(number % 12, vocabulary_size, 12)) if number % 3 else (),
            no_repeat_ngram_size=2 * (number % 2),
            min_tokens=3 * (number % 2),
        )


def test_likeliest_texts_and_scores_equal_transformers_in_a_shared_batch(with_small_tokenizer):
    theirs, backend = with_small_tokenizer(SHAPE, 0.2)
    requests = list(_searches(backend.vocabulary_size))
    found = _run(TextEngine(backend, None, CONTEXT), [*requests, *map(_ordinary, range(10))])
    for request, texts in zip(requests, found, strict=False):
        assert texts == _by_transformers(theirs, request), request
    lengths = {len(tokens) for texts in found[: len(requests)] for tokens, _ in texts}
    assert len(lengths) > 10, "texts end at all lengths"


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_k": 1000, "top_p": 0.95, "no_repeat_ngram_size": 2},
        {"temperature": 1.5, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.1},
        {"temperature": 0.8, "top_p": 0.9, "length_penalty": 2.0, "early_stopping": True, "repetition_penalty": 1.2},
    ],
    ids=str,
)
def test_drawn_beams_equal_those_of_transformers_with_our_noise(with_small_tokenizer, monkeypatch, settings):
    theirs, backend = with_small_tokenizer(SHAPE, 0.2)
    size = backend.vocabulary_size
    requests = [
        TextRequest(
            target=TARGET,
            seed=seed,
            prompt_tokens=(seed, seed + 1),
            max_tokens=20,
            num_beams=5,
            n=5,
            stop_token_ids=(3,),
            **settings,
        )
        for seed in range(20, 26)
    ]
    found = _run(TextEngine(backend, None, CONTEXT), [*requests, *map(_ordinary, range(8))])
    assert len({tuple(texts[0][0]) for texts in found[: len(requests)]}) == len(requests)
    for request, texts in zip(requests, found, strict=False):
        steps = itertools.count()

        def with_our_noise(probabilities, num_samples, seed=request.seed, steps=steps):
            ranks = np.arange(5, dtype=np.uint64)
            seeds, indices = (np.full(5, value, np.uint64) for value in (seed, next(steps)))
            keys = torch.from_numpy(candidate_keys(seeds, ranks, indices))
            candidates = torch.arange(5 * size)
            noise = gumbel(keys[candidates // size], candidates % size)
            return (probabilities.double().log() + noise).topk(num_samples).indices

        monkeypatch.setattr(torch, "multinomial", with_our_noise)
        assert texts == _by_transformers(theirs, request)


def test_scores_of_tokens_are_those_of_the_text_that_was_found(with_small_tokenizer):
    theirs, backend = with_small_tokenizer(SHAPE, 0.2)
    request = TextRequest(
        target=TARGET, seed=1, prompt_tokens=(1, 2, 3), max_tokens=12, num_beams=4, n=2, temperature=0.0, logprobs=2
    )
    engine = TextEngine(backend, None, CONTEXT)
    engine.add("x", request)
    deltas = []
    while engine.busy:
        deltas += [event for event in engine.collect(engine.launch()).events if isinstance(event, Delta)]
    assert [delta.choice for delta in deltas] == [0, 1]
    for delta in deltas:
        text = torch.tensor([[*request.prompt_tokens, *delta.tokens]])
        with torch.inference_mode():
            logs = theirs(text).logits[0].log_softmax(-1)[2:-1]
        expected = logs.gather(-1, text[0, 3:, None])[:, 0]
        torch.testing.assert_close(torch.tensor([score.logprob for score in delta.scores]), expected, atol=1e-4, rtol=0)
        assert [[token for token, _ in score.likeliest] for score in delta.scores] == logs.topk(2).indices.tolist()
        assert delta.beam_score == pytest.approx(expected.sum().item() / 12, abs=1e-4)


def test_noise_of_candidates_is_gumbel_distributed_and_has_no_neighbours():
    seeds = np.arange(200_000, dtype=np.uint64)
    keys = torch.from_numpy(candidate_keys(seeds, seeds % np.uint64(3), seeds % np.uint64(7)))
    tokens = torch.arange(200_000) % 1000
    noise = gumbel(keys, tokens)
    uniform = (-(-noise).exp()).exp().sort().values
    distance = (uniform - (torch.arange(200_000) + 0.5) / 200_000).abs().max()
    assert distance < 0.005  # Kolmogorov-Smirnov: exceeded by chance once in 10,000
    for part in (slice(0, 1), slice(3, 20), slice(1001, 1068)):
        assert torch.equal(gumbel(keys[part], tokens[part]), noise[part])
    of_one_key = gumbel(keys[:1].expand(1000, 2), torch.arange(1000))
    assert len(of_one_key.unique()) == 1000
    assert torch.corrcoef(torch.stack([of_one_key[:-1], of_one_key[1:]]))[0, 1].abs() < 0.1


def test_the_largest_of_noisy_log_probabilities_is_a_draw():
    count, probabilities = 50_000, torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    seeds = np.arange(count, dtype=np.uint64)
    keys = torch.from_numpy(candidate_keys(seeds, np.zeros_like(seeds), np.zeros_like(seeds)))
    rows, tokens = torch.ones(count, 4).nonzero(as_tuple=True)
    drawn = (gumbel(keys[rows], tokens).view(count, 4) + probabilities.log()).argmax(-1)
    expected = probabilities * count
    chi_square = ((drawn.bincount(minlength=4) - expected) ** 2 / expected).sum()
    assert chi_square < 25  # 3 degrees of freedom: larger in one of 65,000 honest cases


def test_a_search_that_runs_out_of_tokens_ends_with_what_it_has():
    search = BeamSearch(BeamSettings(num_beams=3, most_tokens=5))
    search.advance([Continuation(0, 4, -1.0), Continuation(0, 5, -2.0)])
    assert [beam.tokens for beam in search.running] == [(4,), (5,)]
    search.advance([])
    assert search.ended
    assert [beam.tokens for beam, _ in search.best(3)] == [(4,), (5,), (5,)]


def test_a_small_vocabulary_whose_tokens_are_all_used_up_ends_the_text(with_small_tokenizer):
    _, backend = with_small_tokenizer(SHAPE, 0.2)
    allowed = tuple((token, -100.0) for token in range(10, backend.vocabulary_size))
    request = TextRequest(
        target=TARGET, seed=0, prompt_tokens=(1,), max_tokens=100, num_beams=3, n=3, no_repeat_ngram_size=1
    )
    few = request.model_copy(update={"top_k": 2, "max_tokens": 1})
    biased = request.model_copy(update={"logit_bias": allowed, "top_p": 0.5})
    for texts in _run(TextEngine(backend, None, CONTEXT), [few, biased]):
        assert all(tokens for tokens, _ in texts)


def test_what_beams_held_is_free_when_they_end_or_are_removed(with_small_tokenizer):
    _, backend = with_small_tokenizer(SHAPE, 0.2)
    engine = TextEngine(backend, None, CONTEXT)
    request = TextRequest(target=TARGET, seed=0, prompt_tokens=(1, 2), max_tokens=5, num_beams=5)
    engine.add("removed", request)
    assert engine.free == engine.capacity - 5
    engine.collect(engine.launch())
    engine.remove("removed")
    assert engine.free == engine.capacity
    engine.add("x", request)
    while engine.busy:
        engine.collect(engine.launch())
    assert engine.free == engine.capacity

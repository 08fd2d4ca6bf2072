"""Draws have the distribution of transformers' processors, and depend on nothing but the row itself."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as oracle

from models.candidates import keep_few
from models.cdf import invert_cdf
from models.sampling import BatchSampling, RowSampling, RowState, draw, log_probabilities, warp

CPU = torch.device("cpu")
VOCABULARY = 300
ENDING = (1, 2)

CHOICES: dict[str, list[Any]] = {
    "temperature": [0.5, 1.0, 1.7],
    "top_k": [0, 3, 50],
    "top_p": [1.0, 0.9, 0.4],
    "min_p": [0.0, 0.05, 0.3],
    "repetition_penalty": [1.0, 1.3, 0.7],
    "presence_penalty": [0.0, 1.2],
    "frequency_penalty": [0.0, -0.5],
    "no_repeat_ngram_size": [0, 1, 2, 3],
    "logit_bias": [(), ((3, 5.0), (7, -100.0))],
    "min_tokens": [0, 5, 30],
}


def _states(count, seed=0):
    """Rows whose settings cover every pair of choices many times over; texts repeat themselves."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        settings = {name: rng.choice(values) for name, values in CHOICES.items()}
        prompt = [rng.randrange(20) for _ in range(rng.randint(1, 12))]
        output = [rng.randrange(20) for _ in range(rng.randint(0, 20))]
        rows.append(RowState(RowSampling(**settings, ending_tokens=ENDING, seed=number), prompt, output))
    return rows


def _logits(count, generator):
    return torch.randn(count, VOCABULARY, generator=generator) * 3


def _batch(states):
    return BatchSampling(states, VOCABULARY, CPU)


def _by_transformers(logits, state):
    """The distribution of one row (vocabulary,) by transformers' processors in its order; OpenAI's two by numpy."""
    row = state.sampling
    ids = torch.tensor([[*state.prompt, *state.output]])
    counts = np.bincount(np.asarray(state.output, dtype=int), minlength=len(logits))
    openai = torch.from_numpy(counts * row.frequency_penalty + (counts > 0) * row.presence_penalty).float()
    shortest = len(state.prompt) + row.min_tokens
    steps: list[tuple[object, Callable[[], Callable[[Any, Any], Any]]]] = [
        (row.logit_bias, lambda: oracle.SequenceBiasLogitsProcessor([[[t], value] for t, value in row.logit_bias])),
        (row.repetition_penalty != 1, lambda: oracle.RepetitionPenaltyLogitsProcessor(row.repetition_penalty)),
        (True, lambda: lambda _, scores: scores - openai),
        (row.no_repeat_ngram_size, lambda: oracle.NoRepeatNGramLogitsProcessor(row.no_repeat_ngram_size)),
        (row.min_tokens, lambda: oracle.MinLengthLogitsProcessor(shortest, list(ENDING))),
        (True, lambda: oracle.TemperatureLogitsWarper(row.temperature)),
        (row.top_k, lambda: oracle.TopKLogitsWarper(row.top_k)),
        (row.top_p < 1, lambda: oracle.TopPLogitsWarper(row.top_p)),
        (row.min_p, lambda: oracle.MinPLogitsWarper(row.min_p)),
    ]
    scores = logits[None].clone()
    for wanted, processor in steps:
        if wanted:
            scores = processor()(ids, scores)
    return scores.softmax(-1)[0]


def test_mixed_rows_have_the_probabilities_of_transformers(generator):
    states = _states(400)
    logits = _logits(len(states), generator)
    for begin in range(0, len(states), 16):
        part = states[begin : begin + 16]
        batch = _batch(part)
        probabilities = warp(batch.constrain(logits[begin : begin + 16]), batch)
        for index, state in enumerate(part):
            expected = _by_transformers(logits[begin + index], state)
            torch.testing.assert_close(probabilities[index], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pair", list(itertools.combinations(CHOICES, 2)), ids="-".join)
def test_every_pair_of_settings_alone_has_the_probabilities_of_transformers(generator, pair):
    first, second = pair
    combinations = itertools.product(CHOICES[first], CHOICES[second])
    settings = [{"temperature": 1.0, first: one, second: other} for one, other in combinations]
    states = [RowState(RowSampling(**each, ending_tokens=ENDING), [5, 6, 5], [6, 5, 9, 5]) for each in settings]
    logits = _logits(len(states), generator)
    batch = _batch(states)
    probabilities = warp(batch.constrain(logits), batch)
    for index, state in enumerate(states):
        expected = _by_transformers(logits[index], state)
        torch.testing.assert_close(probabilities[index], expected, atol=1e-5, rtol=0)


def test_what_is_told_step_by_step_equals_what_is_made_anew(generator):
    states = _states(32, seed=1)
    batch = _batch(states)
    for _ in range(80):
        tokens = draw(_logits(32, generator) / 2, batch).tolist()
        states = [
            RowState(state.sampling, state.prompt, [*state.output, token])
            for state, token in zip(states, tokens, strict=True)
        ]
        logits = _logits(32, generator)
        assert torch.equal(batch.constrain(logits), _batch(states).constrain(logits))
        assert np.array_equal(batch.uniforms(), _batch(states).uniforms())


@pytest.mark.parametrize("invariant", [True, False], ids=["by CDF", "by Gumbel-max"])
@pytest.mark.parametrize(
    "row", [RowSampling(temperature=0.8, seed=11), RowSampling(temperature=1.2, top_k=12, top_p=0.9, seed=11)]
)
def test_draws_have_the_distribution_they_are_drawn_from(generator, row, invariant):
    count = 50_000
    logits = torch.randn(20, generator=generator)
    expected = _by_transformers(logits, RowState(row)).double().numpy() * count
    rows = [RowState(RowSampling(**{**vars(row), "row": index})) for index in range(count)]
    drawn = draw(logits.expand(count, -1), BatchSampling(rows, 20, CPU, invariant=invariant))
    counts = np.bincount(drawn.numpy(), minlength=20)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 60  # 19 degrees of freedom: larger in one of 200,000 honest cases


def test_draws_of_one_row_step_by_step_are_distributed_as_well(generator):
    logits = torch.randn(1, 20, generator=generator).expand(4, -1)
    batch = BatchSampling([RowState(RowSampling(temperature=1.0, seed=5)), None, None, None], 20, CPU)
    counts = np.bincount([int(draw(logits, batch)[0]) for _ in range(5000)], minlength=20)
    expected = logits[0].softmax(-1).double().numpy() * 5000
    assert ((counts - expected) ** 2 / expected).sum() < 60


def test_two_seeds_and_two_choices_differ(generator):
    logits = torch.randn(1, 1000, generator=generator).expand(3, -1)
    rows = [RowState(RowSampling(temperature=1.0, seed=seed, row=row)) for seed, row in ((1, 0), (2, 0), (1, 1))]
    batch = BatchSampling(rows, 1000, CPU)
    texts = torch.stack([draw(logits, batch) for _ in range(10)]).T.tolist()
    assert texts[0] != texts[1] != texts[2] != texts[0]


def test_temperature_zero_takes_the_likeliest_token_beside_rows_that_are_drawn(generator):
    logits = torch.randn(4, 100, generator=generator)
    rows = [RowState(RowSampling()), RowState(RowSampling(temperature=5.0)), None, None]
    assert draw(logits, BatchSampling(rows, 100, CPU))[0] == logits[0].argmax()


@pytest.mark.parametrize("rows", [4, 8, 64])
def test_neighbours_settings_do_not_change_a_row(generator, rows):
    states = _states(200, seed=2)
    greedy = [RowState(RowSampling(repetition_penalty=1.2), [3, 4], [5]), RowState(RowSampling())]
    for number, state in enumerate([*states[:24], *greedy]):
        slot = number % rows
        logits = _logits(rows, generator)
        alone = logits[[slot] * 4]
        crowd = list(states[100 : 100 + rows])
        crowd[slot] = state
        only_row, mixed = _batch([state, None, None, None]), _batch(crowd)
        one, other = mixed.constrain(logits), only_row.constrain(alone)
        assert torch.equal(one[slot], other[0])
        assert torch.equal(warp(one, mixed)[slot], warp(other, only_row)[0])
        assert draw(logits, mixed)[slot] == draw(alone, only_row)[0]


def test_candidates_that_tie_at_the_border_are_all_kept():
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]]).expand(2, -1)
    rows = [RowState(RowSampling(temperature=1.0, top_k=2)), RowState(RowSampling(temperature=1.0, top_p=0.6))]
    assert (warp(logits, BatchSampling(rows, 4, CPU)) > 0).tolist() == [[True, True, True, False]] * 2


def test_log_probabilities_are_raw(generator):
    logits = torch.randn(3, 50, generator=generator)
    own, likeliest, values = log_probabilities(logits, torch.tensor([4, 5, 6]), 3)
    expected = logits.double().log_softmax(-1)
    torch.testing.assert_close(own.double(), expected[[0, 1, 2], [4, 5, 6]], atol=1e-6, rtol=0)
    assert likeliest.tolist() == expected.topk(3).indices.tolist()
    torch.testing.assert_close(values.double(), expected.topk(3).values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("values", [1, 65, 128, 1000])
def test_inverting_a_cdf_finds_what_one_running_sum_finds(generator, values):
    weights = torch.rand(500, values, generator=generator).square()
    weights[weights < 0.2] = 0
    weights[:, values // 2] = 0.5
    uniform = torch.rand(500, generator=generator, dtype=torch.float64)
    uniform[:3] = torch.tensor([0.0, 1 - 2**-53, 0.5], dtype=torch.float64)
    found = invert_cdf(weights, uniform)
    sums = weights.double().cumsum(-1)
    expected = torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)[:, 0]
    assert torch.equal(found[2:], expected[2:])
    assert (weights.gather(-1, found[:, None]) > 0).all()


def _flips(logits, noisy, invariant):
    """How many rows draw another token under the noisy logits."""
    states = [RowState(RowSampling(temperature=1.0, seed=row)) for row in range(len(logits))]

    def drawn(scores):
        return draw(scores, BatchSampling(states, scores.shape[-1], CPU, invariant=invariant))

    return int((drawn(logits) != drawn(noisy)).sum())


def test_where_logits_are_not_exact_gumbel_max_hardly_ever_draws_another_token(generator):
    logits = torch.randn(2000, 5000, generator=generator)
    noisy = logits.clone()
    noisy[:, :2500] += 4e-5  # kernels differ by whole blocks, whose errors do not cancel in a sum
    by_gumbel, by_cdf = _flips(logits, noisy, invariant=False), _flips(logits, noisy, invariant=True)
    assert by_gumbel <= 2
    assert by_cdf > 20 * max(by_gumbel, 1)


def test_greedy_rows_are_not_drawn_by_gumbel_max_either(generator):
    logits = torch.randn(2, 50, generator=generator)
    rows = [RowState(RowSampling()), RowState(RowSampling(temperature=1.0))]
    assert draw(logits, BatchSampling(rows, 50, CPU, invariant=False))[0] == logits[0].argmax()


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 2000])
@pytest.mark.parametrize("invariant", [True, False])
@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_holds_no_numbers_draws_some_token_and_leaves_the_others_alone(vocabulary, invariant, spoilt):
    logits = torch.randn(6, vocabulary, generator=torch.Generator().manual_seed(1)) * 3
    holed = logits.clone()
    holed[2] = spoilt
    for temperature, top_k, top_p, min_p in itertools.product((0.0, 1.0), (0, 5, 290), (1.0, 0.9), (0.0, 0.1)):
        states = [RowState(RowSampling(temperature, top_k, top_p, min_p, seed=row)) for row in range(6)]

        def drawn(of, states=states):
            return draw(of, BatchSampling(states, vocabulary, CPU, invariant=invariant)).tolist()

        expected, got = drawn(logits), drawn(holed)
        assert got[:2] + got[3:] == expected[:2] + expected[3:]
        assert 0 <= got[2] < vocabulary


@pytest.mark.parametrize("vocabulary", [40, 3_000])
def test_short_lists_of_fixed_shape_leave_what_the_settings_leave(vocabulary):
    """Beside the way that is not of fixed shape: the same candidates, in the same proportions."""
    settings = [
        RowSampling(1.0),
        RowSampling(0.7, top_k=5),
        RowSampling(1.3, top_k=256, top_p=0.6),
        RowSampling(1.0, top_k=30, min_p=0.1),
        RowSampling(1.0, top_k=1, top_p=0.2, min_p=0.9),
        RowSampling(2.0, top_k=200, top_p=0.95, min_p=0.01),
    ]
    assert all(row.listed or row.plain for row in settings)
    scores = 3 * torch.randn(len(settings), vocabulary, generator=torch.Generator().manual_seed(2))
    scores[1, :7] = 20.0  # more of them tie than are asked for
    batch = BatchSampling([RowState(row) for row in settings], vocabulary, torch.device("cpu"))
    columns = (torch.tensor([[getattr(row, name)] for row in settings]) for name in ("top_k", "top_p", "min_p"))
    found = keep_few(scores / batch.temperature, *columns)
    expected = warp(scores, batch)
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found / found.sum(-1, keepdim=True), expected)
    assert torch.equal(found[0], expected[0])


def test_short_lists_are_short_and_need_nothing_else():
    for settings in ({"top_k": 257}, {"top_p": 0.5}, {"min_p": 0.1}, {"top_k": 5, "presence_penalty": 1.0}, {}):
        assert not RowSampling(1.0, **settings).listed

"""Drawing the next token: vectorised over the batch, every row with its own settings and its own noise.

A row's draw depends on its logits, its settings, its tokens so far and (seed, row, token index) alone. Thresholds keep
all candidates that tie, so that no ordering inside a library call can matter, and a setting that is off leaves a row's
bits as they are. Order as in `transformers`: bias, repetition penalty (then OpenAI's presence and frequency penalties),
no-repeat n-grams, minimum length; temperature, top-k, top-p, min-p.

Where logits are equal bit for bit in every batch, tokens are drawn by inverting the CDF in index order with one
uniform. Where they are not, by Gumbel-max: a last bit then changes a token a thousand times less often, since it moves
only the candidate that it belongs to, not the places of all that come after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.candidates import MOST_CANDIDATES, draw_few
from models.cdf import invert_cdf
from models.noise import candidate_keys, gumbel, uniforms
from models.runtimes import GREEDY_TEMPERATURE, ShortLists, Steps

COLDEST = 1e-6  # below this temperature only the likeliest token is drawn; logits divided by it would leave fp32
_STEPS_AHEAD = 32  # making noise costs per call, hardly per number
_FIRST_CANDIDATES = 256  # how many of the likeliest tokens top-p looks at before it looks at more


@dataclass(frozen=True)
class RowSampling:
    """One row's settings. The defaults are off; `temperature` 0 takes the likeliest token.

    Token ids in `logit_bias` and `ending_tokens` must be smaller than the vocabulary.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    ending_tokens: tuple[int, ...] = ()  # not drawn among the first `min_tokens` tokens
    seed: int = 0
    row: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST

    @property
    def plain(self) -> bool:
        """Whether nothing but the temperature shapes what is drawn from."""
        return self == RowSampling(self.temperature, ending_tokens=self.ending_tokens, seed=self.seed, row=self.row)

    @property
    def listed(self) -> bool:
        """Whether it is plain, but for a short list of candidates that a writer on a device can draw from."""
        return 0 < self.top_k <= MOST_CANDIDATES and replace(self, top_k=0, top_p=1.0, min_p=0.0).plain

    @property
    def few(self) -> int:
        """How many candidates there are, 0 if they are too many, or not enough is known, to draw from a short list."""
        if self.greedy:
            return 1
        return self.top_k if self.top_k <= MOST_CANDIDATES and not self.min_p else 0


@dataclass(frozen=True)
class RowState:
    """A row's settings and its tokens so far."""

    sampling: RowSampling
    prompt: Sequence[int] = ()
    output: Sequence[int] = ()


class BatchSampling:
    """The settings of all rows of a batch as tensors: made when the batch changes, told of each step's tokens."""

    def __init__(
        self, rows: Sequence[RowState | None], vocabulary_size: int, device: torch.device, *, invariant: bool = True
    ) -> None:
        """`rows[i]` is None where row i holds no request; such a row draws something that nobody reads. `invariant`
        says that logits do not depend on the batch: it decides how tokens are drawn."""
        states = [row or RowState(RowSampling()) for row in rows]
        settings = [state.sampling for state in states]
        self.rows = len(states)
        self.invariant = invariant
        self.greedy_only = all(row.greedy for row in settings)
        self.greedy = torch.tensor([row.greedy for row in settings], device=device)
        self.temperature = _column([1.0 if row.greedy else row.temperature for row in settings], device)
        self.few = torch.tensor([[row.few] for row in settings], device=device)
        self.any_few = any(row is not None and row.sampling.few for row in rows)
        self.top_k = torch.tensor([[row.top_k] for row in settings], device=device)
        self.top_p = _column([row.top_p for row in settings], device).double()
        self.min_p = _column([row.min_p for row in settings], device)
        self.largest_k = max(row.top_k for row in settings)
        self.any_top_p = any(row.top_p < 1 for row in settings)
        self.any_min_p = any(row.min_p > 0 for row in settings)
        self._indices = np.asarray([len(state.output) for state in states], dtype=np.uint64)
        self._seeds = np.asarray([row.seed for row in settings], dtype=np.uint64)
        self._rows = np.asarray([row.row for row in settings], dtype=np.uint64)
        # Uniforms of the coming steps (rows, _STEPS_AHEAD), of which `_used` are past.
        self._ahead: NDArray[np.float64] = np.empty((0, 0))
        self._used = 0
        constraints: list[_Constraint] = [
            _Bias(states, device),
            _Repetition(states, vocabulary_size, device),
            _Occurrences(states, vocabulary_size, device),
            _NoRepeat(states, device),
            _MinLength(states, device),
        ]
        self._constraints = [constraint for constraint in constraints if constraint.needed]

    def constrain(self, logits: Tensor) -> Tensor:
        """Bias, penalties, banned n-grams and minimum length: logits (rows, vocabulary) -> scores of that shape."""
        for constraint in self._constraints:
            logits = constraint.apply(logits)
        return logits

    def uniforms(self) -> NDArray[np.float64]:
        """One uniform per row, for its next token."""
        if self._used >= self._ahead.shape[1]:
            coming = np.add(self._indices[:, None], np.arange(_STEPS_AHEAD), dtype=np.uint64, casting="unsafe")
            self._ahead, self._used = uniforms(self._seeds[:, None], self._rows[:, None], coming), 0
        return self._ahead[:, self._used]

    def keys(self) -> Tensor:
        """Keys of the noise of each row's next candidates: (rows, 2), as models.noise.gumbel takes them."""
        return torch.from_numpy(candidate_keys(self._seeds, self._rows, self._indices)).to(self.greedy.device)

    def observe(self, tokens: Tensor) -> None:
        """The rows' next tokens (rows,) have been drawn."""
        self._indices += np.uint64(1)
        self._used += 1
        for constraint in self._constraints:
            constraint.observe(tokens)


class PlainSampling:
    """What a writer needs to know of its rows, which are plain, or else have short lists: made when the batch changes,
    told of the steps that were made."""

    def __init__(self, rows: Sequence[RowState | None]) -> None:
        """`rows[i]` is None where row i is not written; it gets a likeliest token that nobody reads."""
        states = [row or RowState(RowSampling()) for row in rows]
        settings = [state.sampling for state in states]
        self._greedy = np.asarray([[row.greedy] for row in settings])
        self._temperatures = np.asarray(
            [GREEDY_TEMPERATURE if row.greedy else row.temperature for row in settings], np.float32
        )
        self._short_lists = None
        if any(row.top_k for row in settings):
            self._short_lists = ShortLists(
                np.asarray([row.top_k for row in settings]),
                np.asarray([row.top_p for row in settings]),
                np.asarray([row.min_p for row in settings], np.float32),
            )
        self._seeds = np.asarray([[row.seed] for row in settings], dtype=np.uint64)
        self._rows = np.asarray([[row.row] for row in settings], dtype=np.uint64)
        self._indices = np.asarray([[len(state.output)] for state in states], dtype=np.uint64)

    def next(self, count: int) -> Steps:
        """The coming steps, which it takes for made."""
        coming = np.add(self._indices, np.arange(count, dtype=np.uint64), dtype=np.uint64)
        self._indices += np.uint64(count)
        noise = np.where(self._greedy, 0.0, uniforms(self._seeds, self._rows, coming))
        return Steps(noise, self._temperatures, self._short_lists)


def draw(logits: Tensor, batch: BatchSampling) -> Tensor:
    """The next token of every row: logits (rows, vocabulary) fp32 in, token ids (rows,) int64 out."""
    scores = batch.constrain(logits)
    tokens = scores.argmax(-1) if batch.greedy_only else _draw(scores, batch)
    batch.observe(tokens)
    return tokens


def _draw(scores: Tensor, batch: BatchSampling) -> Tensor:
    if not batch.invariant:
        return _draw_by_gumbel(scores, batch)
    uniform = torch.from_numpy(batch.uniforms()).to(scores.device)
    if not batch.any_few:
        return _draw_from_all(scores, batch, uniform)
    # Which way a row is drawn is its own matter: a neighbour that needs the whole vocabulary does not change it.
    few, valid = draw_few(scores, batch.temperature, batch.few, batch.top_p, uniform)
    if bool(valid.all()):
        return few
    return torch.where(valid, few, _draw_from_all(scores, batch, uniform))


def _draw_by_gumbel(scores: Tensor, batch: BatchSampling) -> Tensor:
    candidates = torch.arange(scores.shape[-1], device=scores.device)
    noisy = warp(scores, batch).double().log() + gumbel(batch.keys()[:, None], candidates[None])
    return torch.where(batch.greedy, scores.argmax(-1), noisy.argmax(-1))


def _draw_from_all(scores: Tensor, batch: BatchSampling, uniform: Tensor) -> Tensor:
    # A model whose logits are not numbers must spoil its own text only, not the step of the whole batch.
    drawn = invert_cdf(warp(scores, batch), uniform).clamp(max=scores.shape[-1] - 1)
    return torch.where(batch.greedy, scores.argmax(-1), drawn)


def warp(scores: Tensor, batch: BatchSampling) -> Tensor:
    """The distribution that rows are drawn from: (rows, vocabulary) fp32, each row sums to 1.

    Rows at temperature 0 are given at temperature 1, since greedy rows are not drawn.
    """
    return _filter(scores / batch.temperature, batch)


def surviving(scores: Tensor, batch: BatchSampling, fewest: Tensor) -> Tensor:
    """Which tokens top-k, top-p and min-p leave, and at least `fewest` (rows, 1): bool (rows, vocabulary).

    `scores` (rows, vocabulary) have been divided by the temperature.
    """
    likeliest = scores.topk(min(int(fewest.max()), scores.shape[-1])).values
    threshold = likeliest.gather(-1, fewest.clamp(max=likeliest.shape[-1]) - 1)
    return ((_filter(scores, batch) > 0) | (scores >= threshold)) & (scores > -torch.inf)


def _filter(scores: Tensor, batch: BatchSampling) -> Tensor:
    if batch.largest_k:
        scores = _keep_top_k(scores, batch)
    probabilities = scores.softmax(-1)
    if batch.any_top_p:
        probabilities = _keep_top_p(probabilities, batch)
    if batch.any_min_p:
        border = probabilities.amax(-1, keepdim=True) * batch.min_p
        probabilities = _keep(probabilities, border, batch.min_p > 0)
    return probabilities


def log_probabilities(logits: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Raw log-probabilities, before any setting: logits (rows, vocabulary), tokens (rows,).

    Returns the tokens' own (rows,), and the `count` likeliest tokens (rows, count) with theirs, likeliest first.
    """
    logs = logits.log_softmax(-1)
    likeliest = logs.topk(min(count, logs.shape[-1]), sorted=True)
    return logs.gather(-1, tokens[:, None])[:, 0], likeliest.indices, likeliest.values


def _keep_top_k(scores: Tensor, batch: BatchSampling) -> Tensor:
    largest = scores.topk(min(batch.largest_k, scores.shape[-1])).values
    position = (batch.top_k.clamp(max=largest.shape[-1]) - 1).clamp(min=0)
    threshold = largest.gather(-1, position).masked_fill(batch.top_k == 0, -torch.inf)
    return scores.masked_fill(scores < threshold, -torch.inf)


def _keep_top_p(probabilities: Tensor, batch: BatchSampling) -> Tensor:
    """Keep the likeliest candidates until their mass reaches top_p, the one that reaches it included."""
    chosen = batch.top_p < 1
    count = min(_FIRST_CANDIDATES, probabilities.shape[-1])
    while True:
        largest = probabilities.topk(count).values
        mass_before = largest.cumsum(-1, dtype=torch.float64) - largest
        kept = mass_before < batch.top_p
        # All kept: the border may lie further on, so look at more candidates.
        if count == probabilities.shape[-1] or not bool((kept[:, -1:] & chosen).any()):
            break
        count = min(count * 8, probabilities.shape[-1])
    border = largest.gather(-1, (kept.sum(-1, keepdim=True) - 1).clamp(min=0))  # of NaN none are kept
    return _keep(probabilities, border, chosen)


def _keep(probabilities: Tensor, border: Tensor, chosen: Tensor) -> Tensor:
    """Candidates of at least the border (rows, 1), made to sum to 1 again, in the chosen rows (rows, 1).

    Other rows are divided by exactly 1: a neighbour's setting must not change their bits.
    """
    kept = probabilities.masked_fill(probabilities < border.masked_fill(~chosen, 0.0), 0.0)
    return kept / kept.sum(-1, keepdim=True).masked_fill(~chosen, 1.0)


class _Constraint:
    """Changes logits by what a row asks for or has written. Rows that do not ask keep their bits."""

    needed: bool

    def apply(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def observe(self, tokens: Tensor) -> None:
        """The next tokens (rows,) have been drawn."""


class _Bias(_Constraint):
    """OpenAI's logit_bias: added to the logits of the named tokens."""

    def __init__(self, states: list[RowState], device: torch.device) -> None:
        entries = [(row, *entry) for row, state in enumerate(states) for entry in state.sampling.logit_bias]
        self.needed = bool(entries)
        self._rows = torch.tensor([row for row, _, _ in entries], dtype=torch.long, device=device)
        self._tokens = torch.tensor([token for _, token, _ in entries], dtype=torch.long, device=device)
        self._values = torch.tensor([value for _, _, value in entries], dtype=torch.float32, device=device)

    def apply(self, logits: Tensor) -> Tensor:
        return logits.index_put((self._rows, self._tokens), self._values, accumulate=True)


class _Repetition(_Constraint):
    """Keskar et al., 2019 (CTRL), as `transformers` does it: over the tokens of prompt and output."""

    def __init__(self, states: list[RowState], vocabulary_size: int, device: torch.device) -> None:
        penalties = [state.sampling.repetition_penalty for state in states]
        self.needed = any(penalty != 1 for penalty in penalties)
        if self.needed:
            self._penalty = _column(penalties, device)
            self._seen = torch.zeros(len(states), vocabulary_size, dtype=torch.bool, device=device)
            for row, state in enumerate(states):
                if penalties[row] != 1:
                    self._seen[row, [*state.prompt, *state.output]] = True

    def apply(self, logits: Tensor) -> Tensor:
        penalised = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
        return torch.where(self._seen, penalised, logits)

    def observe(self, tokens: Tensor) -> None:
        self._seen.scatter_(1, tokens[:, None], self._penalty != 1)


class _Occurrences(_Constraint):
    """OpenAI's presence and frequency penalties, over the tokens of the output."""

    def __init__(self, states: list[RowState], vocabulary_size: int, device: torch.device) -> None:
        presence = [state.sampling.presence_penalty for state in states]
        frequency = [state.sampling.frequency_penalty for state in states]
        self.needed = any(presence) or any(frequency)
        if self.needed:
            self._presence, self._frequency = _column(presence, device), _column(frequency, device)
            self._counts = torch.zeros(len(states), vocabulary_size, device=device)
            for row, state in enumerate(states):
                if state.output:
                    tokens = torch.tensor(list(state.output), device=device)
                    self._counts[row].index_add_(0, tokens, torch.ones(len(tokens), device=device))

    def apply(self, logits: Tensor) -> Tensor:
        return logits - self._counts * self._frequency - (self._counts > 0) * self._presence

    def observe(self, tokens: Tensor) -> None:
        self._counts.scatter_add_(1, tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.float32))


class _NoRepeat(_Constraint):
    """No n-gram of prompt and output is written twice, as in `transformers`."""

    def __init__(self, states: list[RowState], device: torch.device) -> None:
        sizes = [state.sampling.no_repeat_ngram_size for state in states]
        self.needed = any(sizes)
        if self.needed:
            self._sizes = sorted(set(sizes) - {0})
            self._size = torch.tensor([[size] for size in sizes], device=device)
            texts = [[*state.prompt, *state.output] if size else [] for size, state in zip(sizes, states, strict=True)]
            self._lengths = torch.tensor([[len(text)] for text in texts], device=device)
            width = max(map(len, texts))
            padded = [text + [-1] * (width - len(text)) for text in texts]
            self._texts = torch.tensor(padded, dtype=torch.long, device=device)  # (rows, longest text)

    def apply(self, logits: Tensor) -> Tensor:
        rows, vocabulary_size = logits.shape
        banned = torch.zeros(rows, vocabulary_size + 1, dtype=torch.bool, device=logits.device)  # last: no token
        for size in self._sizes:
            if self._texts.shape[1] >= size:
                banned.scatter_(1, self._continuations(size, vocabulary_size), True)
        return logits.masked_fill(banned[:, :-1], -torch.inf)

    def observe(self, tokens: Tensor) -> None:
        if int(self._lengths.max()) == self._texts.shape[1]:  # grow in steps, not with every token
            self._texts = torch.nn.functional.pad(self._texts, (0, 64), value=-1)
        self._texts.scatter_(1, self._lengths, tokens[:, None])
        self._lengths += 1

    def _continuations(self, size: int, none: int) -> Tensor:
        """Tokens that followed, anywhere in a row's text, the size - 1 tokens at its end; `none` elsewhere."""
        texts, lengths = self._texts, self._lengths
        places = texts.shape[1] - size + 1
        start = torch.arange(places, device=texts.device)
        matches = (start + size <= lengths) & (self._size == size)  # (rows, places)
        for offset in range(size - 1):
            last = texts.gather(1, (lengths - (size - 1) + offset).clamp(min=0))
            matches &= texts[:, offset : offset + places] == last
        return torch.where(matches, texts[:, size - 1 : size - 1 + places], none)


class _MinLength(_Constraint):
    """Tokens that would end a text are not drawn before it is long enough."""

    def __init__(self, states: list[RowState], device: torch.device) -> None:
        missing = [max(0, state.sampling.min_tokens - len(state.output)) for state in states]
        entries = [(row, token) for row, state in enumerate(states) for token in state.sampling.ending_tokens]
        self.needed = any(missing) and bool(entries)
        self._missing = torch.tensor(missing, device=device)
        self._rows = torch.tensor([row for row, _ in entries], dtype=torch.long, device=device)
        self._tokens = torch.tensor([token for _, token in entries], dtype=torch.long, device=device)

    def apply(self, logits: Tensor) -> Tensor:
        early = self._missing[self._rows] > 0
        values = torch.where(early, -torch.inf, logits[self._rows, self._tokens])
        return logits.index_put((self._rows, self._tokens), values)

    def observe(self, tokens: Tensor) -> None:
        self._missing -= 1


def _column(values: list[float], device: torch.device) -> Tensor:
    """(rows, 1), fp32."""
    return torch.tensor([[value] for value in values], dtype=torch.float32, device=device)

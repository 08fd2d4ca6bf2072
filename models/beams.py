"""Beam search of one request, with and without sampling, as `generate` of `transformers` 5 does it.

A step looks at a few times `num_beams` continuations of all beams together: the likeliest, or, where sampling, ones
drawn without replacement. Those among the first `num_beams` that end are finished texts; of the others the likeliest
become the next beams. Finished texts are ranked by their log-probability over length ** length_penalty.

Drawing without replacement is taking the largest log-probabilities plus Gumbel noise (Vieira, 2014; Kool et al.,
"Stochastic beams and where to find them", 2019), the noise keyed by (seed, rank of the beam, token index, token).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from models.noise import gumbel
from models.sampling import BatchSampling, RowSampling, surviving

SHORT_LIST = 1024


@dataclass(frozen=True)
class BeamSettings:
    num_beams: int
    most_tokens: int
    ending_tokens: frozenset[int] = frozenset()
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    @property
    def fanout(self) -> int:
        """Continuations looked at per beam: enough that one of each beam's goes on, however many tokens end a text."""
        return max(2, 1 + len(self.ending_tokens))

    @property
    def width(self) -> int:
        """Continuations looked at in a step."""
        return self.fanout * self.num_beams


class Continuation(NamedTuple):
    """A beam, by its rank, with one more token, and the log-probability of them all."""

    rank: int
    token: int
    log_probability: float


@dataclass(frozen=True)
class Beam:
    """A text. `path[i]` is the place that its token i had among the continuations of its step."""

    tokens: tuple[int, ...] = ()
    log_probability: float = 0.0
    path: tuple[int, ...] = ()

    def grown(self, step: Continuation, place: int) -> Beam:
        return Beam((*self.tokens, step.token), step.log_probability, (*self.path, place))


class Hypothesis(NamedTuple):
    """A finished text and its score, the penalised log-probability."""

    beam: Beam
    score: float


class BeamSearch:
    """`running` are the beams, likeliest first: one at the beginning, at most `num_beams` later."""

    def __init__(self, settings: BeamSettings) -> None:
        self.settings = settings
        self.running = [Beam()]
        self._finished: list[Hypothesis] = []  # best first, at most num_beams
        self.ended = settings.most_tokens == 0

    def advance(self, continuations: Sequence[Continuation]) -> list[int]:
        """Take a step's continuations, best (or drawn) first. Returns the ranks that the new beams grew out of.

        Without any, be it that every token is banned or that logits are no numbers, the texts end where they are.
        """
        if not continuations:
            self._finish(self.running)
            self.ended = True
            return []
        grown = [self.running[step.rank].grown(step, place) for place, step in enumerate(continuations)]
        at_end = [self._ends(beam) for beam in grown]
        first = self.settings.num_beams
        self._finish([beam for beam, ends in zip(grown[:first], at_end, strict=False) if ends])
        going = [place for place, ends in enumerate(at_end) if not ends]
        going.sort(key=lambda place: -grown[place].log_probability)
        going = going[:first]
        self.running = [grown[place] for place in going]
        self.ended = not going or not self._can_improve()
        return [continuations[place].rank for place in going]

    def best(self, count: int) -> list[Hypothesis]:
        """The best texts of an ended search. If it found fewer, the last stands for those that are missing."""
        found = self._finished or [Hypothesis(self.running[0], 0.0)]
        return [found[min(place, len(found) - 1)] for place in range(count)]

    def _ends(self, beam: Beam) -> bool:
        settings = self.settings
        return beam.tokens[-1] in settings.ending_tokens or len(beam.tokens) >= settings.most_tokens

    def _finish(self, beams: Sequence[Beam]) -> None:
        found = [Hypothesis(beam, self._score(beam.log_probability, len(beam.tokens))) for beam in beams]
        ranked = sorted([*self._finished, *found], key=lambda hypothesis: -hypothesis.score)
        self._finished = ranked[: self.settings.num_beams]

    def _can_improve(self) -> bool:
        """Whether a running beam may still come before the last of the finished texts, if there are enough of these.

        By default that is guessed from the length so far; "never" takes the length that favours the beam most.
        """
        settings = self.settings
        if len(self._finished) < settings.num_beams:
            return True
        if settings.early_stopping is True:
            return False
        favours_long = settings.early_stopping == "never" and settings.length_penalty > 0
        length = settings.most_tokens if favours_long else len(self.running[0].tokens)
        return self._score(self.running[0].log_probability, length) > self._finished[-1].score

    def _score(self, log_probability: float, length: int) -> float:
        return float(log_probability / max(length, 1) ** self.settings.length_penalty)


def from_short_list(settings: BeamSettings, sampling: RowSampling) -> bool:
    """Whether a search's continuations are all among the SHORT_LIST likeliest tokens of its beams."""
    few = sampling.greedy or 0 < sampling.top_k <= SHORT_LIST
    return few and settings.width <= SHORT_LIST


def continuations(
    logits: Tensor, batch: BatchSampling, searches: Sequence[BeamSearch], *, short_list: bool = False
) -> list[list[Continuation]]:
    """What each search looks at in this step, best (or drawn) first.

    `logits` (beams, vocabulary) fp32 and `batch` are of the running beams of all searches, one search after the other.
    Settings apply to log-probabilities, and what they cut is not made up for in the sum, as in `transformers`. Rows at
    temperature 0 are not drawn. With `short_list`, which `from_short_list` must allow for all of them, only the
    likeliest tokens of each beam are looked at: the whole vocabulary takes several times as long.
    """
    scores = batch.constrain(logits.log_softmax(-1)) / batch.temperature
    if short_list:
        scores, tokens = scores.topk(min(SHORT_LIST, scores.shape[-1]))
    else:
        tokens = torch.arange(scores.shape[-1], device=scores.device).expand_as(scores)
    beams = [(search.settings, beam.log_probability) for search in searches for beam in search.running]
    before = torch.tensor([total for _, total in beams], dtype=torch.float64, device=logits.device)
    totals = scores.double() + before[:, None]
    order = totals
    if not batch.greedy_only:
        order = _perturbed(totals, scores, tokens, batch, [settings.fanout for settings, _ in beams])
    counts = [len(search.running) for search in searches]
    parts = zip(searches, *(torch.split(each, counts) for each in (order, totals, tokens)), strict=True)
    return [_best(search.settings.width, *tensors) for search, *tensors in parts]


def _perturbed(totals: Tensor, scores: Tensor, tokens: Tensor, batch: BatchSampling, fanouts: list[int]) -> Tensor:
    """Rows that are drawn get noise on what their settings leave; what they cut is -inf."""
    drawn = ~batch.greedy[:, None]
    fewest = torch.tensor(fanouts, device=scores.device)[:, None]
    rows, places = (surviving(scores, batch, fewest) & drawn).nonzero(as_tuple=True)
    order = totals.masked_fill(drawn, -inf)
    order[rows, places] = totals[rows, places] + gumbel(batch.keys()[rows], tokens[rows, places])
    return order


def _best(count: int, order: Tensor, totals: Tensor, tokens: Tensor) -> list[Continuation]:
    """Of one search, (beams, candidates) each. A search is looked at alone: how ties fall must be its own matter."""
    values, places = order.flatten().topk(min(count, order.numel()))
    columns = (values, places // order.shape[-1], tokens.flatten()[places], totals.flatten()[places])
    found = zip(*(column.tolist() for column in columns), strict=True)
    return [Continuation(rank, token, total) for value, rank, token, total in found if value > -inf]

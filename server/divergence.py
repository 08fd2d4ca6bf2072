"""How far two models are apart on one sequence of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator

from contracts.results import Logprobs

NOISE = 1e-6  # probability that may be missing because of rounding alone


def divergences(live: Logprobs, candidate: Logprobs, begin: int) -> Iterator[float]:
    """For each token from `begin` on, what `divergence` says of the two distributions that it was scored by.

    Both have scored the same tokens, so both distributions are given the same text.
    """
    for ours, theirs in zip(live.top_logprobs[begin:], candidate.top_logprobs[begin:], strict=True):
        if ours is not None and theirs is not None:
            yield divergence(ours, theirs)


def divergence(live: dict[str, float], candidate: dict[str, float]) -> float:
    """KL(live || candidate) in nats, of next-token distributions of which only the likeliest tokens are known.

    The tokens that both name stand for themselves, and all others together are one more outcome. Putting outcomes
    together never makes a divergence larger, so the true one is at least this, and it is this where the vocabulary is
    as small as the lists, or where the rest differs by a common factor. The distributions are the models' own, before
    temperature, filters and penalties.
    """
    both = live.keys() & candidate.keys()
    known = {token: math.exp(live[token]) for token in both}
    sum_known = sum(probability * (live[token] - candidate[token]) for token, probability in known.items())
    rest = 1 - sum(known.values())
    rest_of_candidate = 1 - sum(math.exp(candidate[token]) for token in both)
    if rest <= NOISE:
        return max(0.0, sum_known)
    return max(0.0, sum_known + rest * math.log(rest / max(rest_of_candidate, NOISE)))

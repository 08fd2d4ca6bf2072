"""Drawing the next token: vectorised over the batch, every row with its own settings and its own noise.

A row's draw depends on its logits, its settings and (seed, row, token index) alone. Thresholds keep all candidates that
tie, so that no ordering inside a library call can matter. Order of the warpers as in `transformers`: temperature,
top-k, top-p. Tokens are drawn by inverting the CDF in index order with one uniform, which fits engines whose logits are
equal bit for bit in every batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.candidates import MOST_CANDIDATES, draw_few
from models.cdf import invert_cdf
from models.noise import uniforms


@dataclass(frozen=True)
class RowSampling:
    """One row's settings. `temperature` 0 takes the likeliest token, `top_k` 0 and `top_p` 1 are off."""

    temperature: float
    top_k: int
    top_p: float
    seed: int
    row: int

    @property
    def few(self) -> int:
        """How many candidates there are, 0 if too many for drawing from a short list."""
        return 1 if self.temperature == 0 else self.top_k * (self.top_k <= MOST_CANDIDATES)


class BatchSampling:
    """The settings of all rows of a batch as tensors, made when the batch changes and used for many steps."""

    def __init__(self, rows: list[RowSampling | None], device: torch.device) -> None:
        """`rows[i]` is None where row i holds no request; such a row draws something that nobody reads."""
        settings = [row or RowSampling(0.0, 0, 1.0, 0, 0) for row in rows]
        self.greedy_only = all(row.temperature == 0 for row in settings)
        self.greedy = torch.tensor([row.temperature == 0 for row in settings], device=device)
        self.temperature = torch.tensor([[row.temperature or 1.0] for row in settings], device=device)
        self.top_k = torch.tensor([[row.top_k] for row in settings], device=device)
        self.top_p = torch.tensor([[row.top_p] for row in settings], dtype=torch.float64, device=device)
        self.few = torch.tensor([[row.few] for row in settings], device=device)
        self.any_few = any(row is not None and row.few for row in rows)
        self.largest_k = max(row.top_k for row in settings)
        self.any_p = any(row.top_p < 1 for row in settings)
        self._seeds = np.asarray([row.seed for row in settings], dtype=np.uint64)
        self._rows = np.asarray([row.row for row in settings], dtype=np.uint64)
        self._ahead = np.empty((0, 0))  # uniforms of the coming steps: (rows, _STEPS_AHEAD) from the indices _first on
        self._first = np.empty(0, dtype=np.int64)

    def uniforms(self, indices: list[int]) -> NDArray[np.float64]:
        """One uniform per row, for the token with this index in the row's output."""
        wanted = np.asarray(indices)
        if not self._ahead.size or not ((wanted >= self._first) & (wanted < self._first + _STEPS_AHEAD)).all():
            coming = wanted[:, None] + np.arange(_STEPS_AHEAD)
            self._first = wanted
            self._ahead = uniforms(self._seeds[:, None], self._rows[:, None], coming.astype(np.uint64))
        return self._ahead[np.arange(len(wanted)), wanted - self._first]


def draw(logits: Tensor, batch: BatchSampling, indices: list[int]) -> Tensor:
    """The next token of every row: logits (rows, vocabulary) fp32 in, token ids (rows,) int64 out."""
    if batch.greedy_only:
        return logits.argmax(-1)
    uniform = torch.from_numpy(batch.uniforms(indices)).to(logits.device)
    if not batch.any_few:
        return _draw_from_all(logits, batch, uniform)
    # Which way a row is drawn is its own matter: a neighbour that needs the whole vocabulary does not change it.
    few, valid = draw_few(logits, batch.temperature, batch.few, batch.top_p, uniform)
    if bool(valid.all()):
        return few
    drawn = torch.where(batch.greedy, logits.argmax(-1), _draw_from_all(logits, batch, uniform))
    return torch.where(valid, few, drawn)


def _draw_from_all(logits: Tensor, batch: BatchSampling, uniform: Tensor) -> Tensor:
    return invert_cdf(warp(logits, batch), uniform)


def warp(logits: Tensor, batch: BatchSampling) -> Tensor:
    """The distribution that rows are drawn from: (rows, vocabulary) fp32, each row sums to 1.

    Rows at temperature 0 are given at temperature 1, since greedy rows are not drawn.
    """
    scores = logits / batch.temperature
    if batch.largest_k:
        scores = _keep_top_k(scores, batch)
    probabilities = scores.softmax(-1)
    if batch.any_p:
        probabilities = _keep_top_p(probabilities, batch)
    return probabilities


def _keep_top_k(scores: Tensor, batch: BatchSampling) -> Tensor:
    largest = scores.topk(min(batch.largest_k, scores.shape[-1])).values
    position = (batch.top_k.clamp(max=largest.shape[-1]) - 1).clamp(min=0)
    threshold = largest.gather(-1, position).masked_fill(batch.top_k == 0, -torch.inf)
    return scores.masked_fill(scores < threshold, -torch.inf)


def _keep_top_p(probabilities: Tensor, batch: BatchSampling) -> Tensor:
    """Keep the likeliest candidates until their mass reaches top_p, the one that reaches it included."""
    count = min(_FIRST_CANDIDATES, probabilities.shape[-1])
    while True:
        largest = probabilities.topk(count).values
        mass_before = largest.cumsum(-1, dtype=torch.float64) - largest
        kept = mass_before < batch.top_p
        # All kept: the border may lie further on, so look at more candidates.
        if count == probabilities.shape[-1] or not bool((kept[:, -1] & (batch.top_p[:, 0] < 1)).any()):
            break
        count = min(count * 8, probabilities.shape[-1])
    border = largest.gather(-1, kept.sum(-1, keepdim=True) - 1).masked_fill(batch.top_p >= 1, 0.0)
    probabilities = probabilities.masked_fill(probabilities < border, 0.0)
    # Rows without top_p are divided by exactly 1: a neighbour's setting must not change their bits.
    mass = probabilities.sum(-1, keepdim=True).masked_fill(batch.top_p >= 1, 1.0)
    return probabilities / mass


_FIRST_CANDIDATES = 256
_STEPS_AHEAD = 32  # making noise costs per call, hardly per number

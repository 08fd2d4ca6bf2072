"""Masked language models (Devlin et al., 2018): an encoder guesses the tokens that it is not shown."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bert import HIDDEN_ACTIVATIONS, BertConfig, Encoder, RobertaConfig
from training.objective import IGNORED

SHOWN_AS_MASK, SHOWN_AS_ANOTHER = 0.8, 0.1  # of the tokens to guess; the rest is shown as it is


class MaskedLanguageModel(Encoder):
    """Encoder -> linear layer -> activation -> norm -> tokens, by the very embedding that tokens come in by."""

    def __init__(self, config: BertConfig, dropout: float = 0.0) -> None:
        """`dropout` is for training."""
        super().__init__(config, dropout)
        self.transform = nn.Linear(config.width, config.width)
        self.transform_norm = nn.LayerNorm(config.width, config.epsilon)
        self.output_bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        # RoBERTa's head has a GELU whatever its blocks have.
        self._activate = HIDDEN_ACTIVATIONS["gelu" if isinstance(config, RobertaConfig) else config.hidden_activation]
        self.initialise()

    def forward(self, tokens: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
        """Tokens (B, T), of which the first lengths (B,) of each text count -> logits (N, vocabulary) of the N places
        that are wanted (B, T): of all places they would take more memory than all else."""
        x = self.transform_norm(self._activate(self.transform(self.states(tokens, lengths)[wanted])))
        return F.linear(x, self.tokens.weight, self.output_bias)


class Masking(NamedTuple):
    share: float  # of a row's tokens, which are to be guessed; at least one
    mask: int  # the token that is shown in their place
    frame: frozenset[int]  # tokens that nobody is asked for
    vocabulary_size: int

    def apply(self, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) -> what is shown and what is to be guessed of them (B, T), the latter IGNORED elsewhere."""
        askable = ~torch.isin(tokens, torch.tensor(sorted(self.frame)))
        counts = (self.share * askable.sum(1, keepdim=True)).round().clamp(min=1)
        drawn = torch.rand(tokens.shape, generator=generator).masked_fill(~askable, torch.inf)
        chosen = askable & (drawn.argsort(1).argsort(1) < counts)
        kind = torch.rand(tokens.shape, generator=generator)
        others = torch.randint(self.vocabulary_size, tokens.shape, generator=generator)
        shown = tokens.masked_fill(chosen & (kind < SHOWN_AS_MASK), self.mask)
        shown = torch.where(chosen & (kind >= 1 - SHOWN_AS_ANOTHER), others, shown)
        return shown, tokens.masked_fill(~chosen, IGNORED)

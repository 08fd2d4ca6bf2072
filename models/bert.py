"""BERT (Devlin et al., 2018) and RoBERTa (Liu et al., 2019) as classifiers of texts.

The two compute the same: embeddings, post-norm encoder blocks, tanh of a linear layer over the first token's state, a
linear layer to the labels. They count positions in other ways. A text always stands alone, so there are no token types:
what an imported model adds for the first type is part of its positions.

Letters in shapes: B texts, T time, H heads, D head size, E width = H * D, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.labels import MAX_LABELS
from contracts.sizes import check_sizes

HiddenActivation = Literal["gelu", "gelu_tanh", "relu"]  # the first is exact, by erf
HIDDEN_ACTIVATIONS: dict[HiddenActivation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


@dataclass(frozen=True)
class BertConfig:
    vocabulary_size: int
    context_tokens: int
    width: int
    layers: int
    heads: int
    inner: int  # width of the feed-forward layers
    labels: int
    hidden_activation: HiddenActivation = "gelu"
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        """Raises ValueError for what is no size: this comes from files."""
        check_sizes(
            vocabulary_size=self.vocabulary_size,
            context_tokens=self.context_tokens,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            inner=self.inner,
            labels=self.labels,
        )
        if self.context_tokens < 2 or self.width % self.heads:
            raise ValueError("a BERT has a context of two tokens or more, and a width that its heads divide")
        if self.labels > MAX_LABELS:
            raise ValueError(f"labels is {self.labels}; a classifier has at most {MAX_LABELS}")
        if self.hidden_activation not in get_args(HiddenActivation):
            raise ValueError(f"hidden_activation is {self.hidden_activation!r}, not one of {list(HIDDEN_ACTIVATIONS)}")
        if not isinstance(self.epsilon, float) or not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon is {self.epsilon!r}; it must be a small number above 0")

    @classmethod
    def from_manifest(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    @property
    def position_rows(self) -> int:
        """Rows of the table of positions."""
        return self.context_tokens

    def positions(self, tokens: Tensor) -> Tensor:
        """Rows of the table for tokens (B, T), the padding behind a text included."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return places.clamp(max=self.position_rows - 1)  # padding may go beyond the context


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """Positions are counted from behind the padding token's id, which is also the position of that very token."""

    padding_token: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.padding_token) is not int or not 0 <= self.padding_token < self.vocabulary_size:
            raise ValueError(f"padding_token is {self.padding_token!r}; the ids end at {self.vocabulary_size - 1}")

    @property
    def position_rows(self) -> int:
        return self.context_tokens + self.padding_token + 1

    def positions(self, tokens: Tensor) -> Tensor:
        """A text may hold the padding token too: it takes no place among the others."""
        counted = (tokens != self.padding_token).long()
        places = counted.cumsum(1) * counted + self.padding_token
        return places.clamp(max=self.position_rows - 1)


class Attention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.width // config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor, asked: int | None = None) -> Tensor:
        """States (B, T, E), of which the `asked` first ones or all A = T attend where mask (B, 1, 1, T) is True ->
        (B, A, E)."""
        texts, time, _ = x.shape
        parts = self.qkv(x).view(texts, time, 3, self.heads, self.size)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind()  # each B H T D
        scores = torch.matmul(q[:, :, :asked], k.transpose(-1, -2)) / math.sqrt(self.size)
        mixed = torch.matmul(scores.masked_fill(~mask, -torch.inf).softmax(-1), v)
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return attended


class Block(nn.Module):
    """Post-norm: each sum is normalised. `dropout` is of what each half adds, in training."""

    def __init__(self, config: BertConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention = Attention(config)
        self.norm1 = nn.LayerNorm(config.width, config.epsilon)
        self.up = nn.Linear(config.width, config.inner)
        self.down = nn.Linear(config.inner, config.width)
        self.norm2 = nn.LayerNorm(config.width, config.epsilon)
        self._activate = HIDDEN_ACTIVATIONS[config.hidden_activation]

    def forward(self, x: Tensor, mask: Tensor, asked: int | None = None) -> Tensor:
        """States (B, T, E) -> those of the `asked` first tokens, or of all."""
        x = self.norm1(x[:, :asked] + self._drop(self.attention(x, mask, asked)))
        normed: Tensor = self.norm2(x + self._drop(self.down(self._activate(self.up(x)))))
        return normed

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Encoder(nn.Module):
    """Token and position embeddings -> norm -> blocks -> states. What is made of the states comes with subclasses."""

    def __init__(self, config: BertConfig, dropout: float = 0.0) -> None:
        """`dropout` is for training."""
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.tokens = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Embedding(config.position_rows, config.width)
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.layers))

    def initialise(self) -> None:
        """Weights as BERT begins with."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def states(self, tokens: Tensor, lengths: Tensor, asked: int | None = None) -> Tensor:
        """Tokens (B, T), of which the first lengths (B,) of each text count -> states (B, T, E), or only those of the
        `asked` first tokens, which spares most of the last block."""
        mask = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])[:, None, None]  # B 1 1 T
        x: Tensor = self.norm(self.tokens(tokens) + self.positions(self.config.positions(tokens)))
        x = F.dropout(x, self.dropout, self.training)
        for place, block in enumerate(self.blocks, start=1):
            x = block(x, mask, asked if place == len(self.blocks) else None)
        return x


class Bert(Encoder):
    """Encoder -> first token's state -> labels."""

    def __init__(self, config: BertConfig, dropout: float = 0.0) -> None:
        """`dropout` is for training."""
        super().__init__(config, dropout)
        self.pool = nn.Linear(config.width, config.width)
        self.head = nn.Linear(config.width, config.labels)
        self.initialise()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (B, T), of which the first lengths (B,) of each text count -> logits (B, L), as training wants them:
        soon. Their last bits may be other ones in another batch."""
        return self.logits(self.states(tokens, lengths, asked=1)[:, 0])

    def read(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The states (B, E) of the first tokens, which have seen all of their texts. Products of all rows keep the bits
        of each in every batch."""
        return self.states(tokens, lengths)[:, 0]

    def logits(self, first: Tensor) -> Tensor:
        """First tokens' states (B, E) -> logits (B, L)."""
        pooled = F.dropout(torch.tanh(self.pool(first)), self.dropout, self.training)
        logits: Tensor = self.head(pooled)
        return logits

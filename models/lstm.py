"""LSTM language models: character or word level, any number of layers of any sizes.

Gates in PyTorch's order (input, forget, cell, output). `hard_sigmoid` is Keras' and tf.js' old recurrent activation,
0.2 x + 0.5 clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.sizes import is_size

RecurrentActivation = Literal["sigmoid", "hard_sigmoid"]
State = list[tuple[Tensor, Tensor]]  # per layer: h and c, each (rows, layer size)


@dataclass(frozen=True)
class LstmConfig:
    vocabulary_size: int
    layers: tuple[int, ...]
    embedding: int | None = None  # width of the embedding; None: one-hot
    recurrent_activation: RecurrentActivation = "sigmoid"
    window: int | None = None  # predicts from the last `window` tokens with zero initial state; None: state is carried

    def __post_init__(self) -> None:
        """Raises ValueError for what is no size: this comes from files."""
        chosen = (size for size in (self.embedding, self.window) if size is not None)
        sizes = (self.vocabulary_size, *self.layers, *chosen)
        if not self.layers or not all(map(is_size, sizes)):
            raise ValueError("an LSTM has one layer or more, and its sizes are whole numbers from 1 on")
        if self.recurrent_activation not in get_args(RecurrentActivation):
            raise ValueError(f"recurrent_activation is {self.recurrent_activation!r}, not 'sigmoid' or 'hard_sigmoid'")

    @classmethod
    def from_manifest(cls, config: dict[str, Any]) -> LstmConfig:
        return cls(**{**config, "layers": tuple(config["layers"])})


class LstmLanguageModel(nn.Module):
    """Embedding or one-hot -> LSTM layers -> linear to the vocabulary."""

    def __init__(self, config: LstmConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        width = config.embedding or config.vocabulary_size
        self.embedding = nn.Embedding(config.vocabulary_size, width) if config.embedding else None
        sizes = (width, *config.layers)
        self.layers = nn.ModuleList(nn.LSTM(before, after, batch_first=True) for before, after in pairwise(sizes))
        self.head = nn.Linear(config.layers[-1], config.vocabulary_size)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Teacher-forced pass for training: tokens (batch, time) -> logits (batch, time, vocabulary), final state.

        Only for `recurrent_activation` "sigmoid", which PyTorch's fused LSTM computes.
        """
        if self.config.recurrent_activation != "sigmoid":
            raise ValueError("training needs the recurrent activation 'sigmoid'")
        hidden = self._embed(tokens)
        after: State = []
        for index, layer in enumerate(self.layers):
            before = None if state is None else (state[index][0][None], state[index][1][None])
            hidden, (h, c) = layer(hidden, before)
            after.append((h[0], c[0]))
            hidden = F.dropout(hidden, self.dropout, self.training)
        return self.head(hidden), after

    def zero_state(self, rows: int) -> State:
        weight = self.head.weight
        return [(weight.new_zeros(rows, size), weight.new_zeros(rows, size)) for size in self.config.layers]

    def step(self, tokens: Tensor, state: State) -> State:
        """Advance by one token: tokens (rows,). The numbers of a row do not depend on the others for rows >= 4."""
        activation: Callable[[Tensor], Tensor] = (
            torch.sigmoid if self.config.recurrent_activation == "sigmoid" else _hard_sigmoid
        )
        after: State = []
        hidden: Tensor | None = None
        for layer, (h, c) in zip(self.lstms(), state, strict=True):
            projected = (
                F.linear(hidden, *input_weights(layer)) if hidden is not None else self.project_tokens(tokens, layer)
            )
            gates = projected + F.linear(h, *recurrent_weights(layer))
            i, f, g, o = gates.chunk(4, dim=-1)  # each (rows, layer size)
            c = activation(f) * c + activation(i) * torch.tanh(g)
            hidden = activation(o) * torch.tanh(c)
            after.append((hidden, c))
        return after

    def advance(self, tokens: Tensor, active: Tensor, wanted: Tensor, state: State) -> tuple[Tensor, State]:
        """Read tokens (rows, time); where `active` (rows, time), which lies on the CPU, is False a row keeps its state.

        Returns the logits (wanted, vocabulary) after those tokens that `wanted` (wanted,) counts row by row, and the
        state at the end.
        """
        hidden: list[Tensor] = []
        chosen = active.to(tokens.device, non_blocking=True)
        for time, everywhere in enumerate(active.all(0).tolist()):
            stepped = self.step(tokens[:, time], state)
            state = stepped if everywhere else chosen_state(chosen[:, time, None], stepped, state)
            hidden.append(state[-1][0])
        logits: Tensor = self.head(torch.stack(hidden, 1).flatten(0, 1)[wanted])
        return logits, state

    def _embed(self, tokens: Tensor) -> Tensor:
        if self.embedding is not None:
            embedded: Tensor = self.embedding(tokens)
            return embedded
        return F.one_hot(tokens, self.config.vocabulary_size).to(self.head.weight.dtype)

    def lstms(self) -> list[nn.LSTM]:
        return [layer for layer in self.layers if isinstance(layer, nn.LSTM)]

    def project_tokens(self, tokens: Tensor, layer: nn.LSTM) -> Tensor:
        """Input projection of the first layer; for one-hot input a column of its matrix."""
        weight, bias = input_weights(layer)
        if self.embedding is not None:
            return F.linear(self.embedding(tokens), weight, bias)
        return weight.t()[tokens] + bias


def chosen_state(active: Tensor, after: State, before: State) -> State:
    """The new state where `active` (rows, 1), else the old one."""
    return [
        (torch.where(active, new_h, h), torch.where(active, new_c, c))
        for (h, c), (new_h, new_c) in zip(before, after, strict=True)
    ]


def input_weights(layer: nn.LSTM) -> tuple[Tensor, Tensor]:
    return layer.get_parameter("weight_ih_l0"), layer.get_parameter("bias_ih_l0")


def recurrent_weights(layer: nn.LSTM) -> tuple[Tensor, Tensor]:
    return layer.get_parameter("weight_hh_l0"), layer.get_parameter("bias_hh_l0")


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x).add_(0.5).clamp_(0.0, 1.0)

"""Modules as whole programs, ready to be traced; `models.runtimes.programs` says what they take and return.

They hold the very modules of `models/`, so that a program's numbers are those of the PyTorch runtime.
"""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.bundle import Precision
from models.bert import Bert, BertConfig
from models.dcgan import fold_batch_norm, generator
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel, input_weights, recurrent_weights
from models.runtimes import LENGTH_STEP
from models.runtimes.load import DTYPES
from models.weights import Config, Weights

Module = TypeVar("Module", bound=nn.Module)


def program(config: Config, weights: Weights, precision: Precision) -> tuple[nn.Module, tuple[Any, ...]]:
    """A model's program in a precision, and inputs to trace it with, no side of which is 0 or 1."""
    dtype = DTYPES[precision]
    if isinstance(config, LstmConfig):
        lstm = LstmProgram(_loaded(LstmLanguageModel(config), weights, dtype))
        state = tuple(torch.zeros(4, size, dtype=dtype) for size in config.layers for _ in "hc")
        active = torch.ones(4, 3, dtype=torch.bool)
        return lstm, (torch.zeros(4, 3, dtype=torch.int64), active, torch.arange(2), state)
    if isinstance(config, Gpt2Config):
        length = min(8, config.context_tokens)  # any will do; archives keep their example
        keys, values = torch.zeros(
            2, config.layers, 4, config.heads, length, config.width // config.heads, dtype=dtype
        ).unbind()
        tokens, positions = torch.zeros(4, 2, dtype=torch.int64), torch.arange(2).expand(4, 2).contiguous()
        example = (tokens, positions, torch.arange(3), keys.clone(), values.clone())
        return Gpt2Program(_loaded(Gpt2(config), weights, dtype)), example
    if isinstance(config, BertConfig):
        bert = BertProgram(_loaded(Bert(config), weights, dtype))
        return bert, (torch.zeros(4, LENGTH_STEP, dtype=torch.int64), torch.full((4,), LENGTH_STEP))
    folded = fold_batch_norm(_loaded(generator(config), weights, torch.float32)).to(dtype)
    return folded, (torch.zeros(2, config.latent, 1, 1, dtype=dtype),)


def _loaded(module: Module, weights: Weights, dtype: torch.dtype) -> Module:
    module.load_state_dict(weights)
    return module.to(dtype).eval().requires_grad_(False)


class Gpt2Program(nn.Module):
    def __init__(self, model: Gpt2) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, positions: Tensor, wanted: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        model = self.model
        rows = torch.arange(tokens.shape[0], device=tokens.device)[:, None]
        mask = (torch.arange(keys.shape[3], device=tokens.device) <= positions[..., None])[:, None]  # (R, 1, T, C)
        x = model.embed(tokens, positions)
        for layer, block in enumerate(model.each_block()):
            q, k, v = block.attention.split(block.norm1(x))
            keys[layer, rows, :, positions] = k.transpose(1, 2)  # (R, T, H, D)
            values[layer, rows, :, positions] = v.transpose(1, 2)
            x = x + block.attention.merge(block.attention.attend(q, keys[layer], values[layer], mask))
            x = x + block.feed_forward(x)
        return model.logits(x.flatten(0, 1)[wanted]), keys, values


class BertProgram(nn.Module):
    def __init__(self, model: Bert) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        first = self.model.read(tokens, lengths)
        # Too few rows would get other bits (see pytorch.BertBackend); to repeat them is what torch.export can express.
        return self.model.logits(first.repeat(LENGTH_STEP, 1))[: first.shape[0]]


class LstmProgram(nn.Module):
    def __init__(self, model: LstmLanguageModel) -> None:
        super().__init__()
        self.model = model
        self._read = _scripted_read()

    def forward(
        self, tokens: Tensor, active: Tensor, wanted: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        hard = self.model.config.recurrent_activation == "hard_sigmoid"
        after: list[Tensor] = []
        hidden: Tensor | None = None  # (R, T, size of the layer before)
        for index, layer in enumerate(self.model.lstms()):
            before = self.model.project_tokens(tokens, layer) if hidden is None else _project(hidden, layer)
            h, c = state[2 * index : 2 * index + 2]
            hidden, h, c = self._read(before, active, h, c, *recurrent_weights(layer), hard)
            after += [h, c]
        states: Tensor = before.new_zeros(0) if hidden is None else hidden.flatten(0, 1)
        return self.model.head(states[wanted]), tuple(after)


def _project(hidden: Tensor, layer: nn.LSTM) -> Tensor:
    return F.linear(hidden, *input_weights(layer))


def _scripted_read() -> Any:
    """`_read` compiled: tracing alone would write down one run of its loop, for one number of tokens."""
    with warnings.catch_warnings():
        # The successor cannot express this loop; docs/bundles.md tells users.
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is (deprecated|not supported)", DeprecationWarning)
        return torch.jit.script(_read)


def _read(
    projected: Tensor, active: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor, hard: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer over projected inputs (R, T, 4 x size): h after every token (R, T, size), and the last h and c."""
    every: list[Tensor] = []
    for time in range(projected.shape[1]):
        i, f, g, o = (projected[:, time] + F.linear(h, weight, bias)).chunk(4, dim=-1)
        if hard:
            i, f, o = _hard_sigmoid(i), _hard_sigmoid(f), _hard_sigmoid(o)
        else:
            i, f, o = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o)
        new_c = f * c + i * torch.tanh(g)
        new_h = o * torch.tanh(new_c)
        moves = active[:, time, None]
        h, c = torch.where(moves, new_h, h), torch.where(moves, new_c, c)
        every.append(h)
    return torch.stack(every, 1), h, c


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0.0, 1.0)

"""The loop that people write around onnxruntime: PyTorch's own export with the past as inputs and outputs, numpy draws.

A peer of `text_engines.py`. Its int8 is onnxruntime's own `quantize_dynamic`. The past stays in onnxruntime's memory
from call to call; all rows are read together and have one length, as such loops have it.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import quantize_dynamic
from torch import nn

Past = list[torch.Tensor]


class Gpt2Step(nn.Module):
    """transformers' GPT-2: tokens [rows, new] behind a key and value [rows, heads, length, width] per layer to logits
    [rows, vocabulary] of the last one, and the longer keys and values."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body, self.head = model.transformer, model.lm_head

    def forward(self, tokens: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        before, heads = past[0].shape[2], self.body.config.n_head
        places = torch.arange(before, before + tokens.shape[1])
        seen = torch.arange(before + tokens.shape[1])[None] <= places[:, None]
        bias = torch.where(seen, 0.0, -3e38)
        hidden, present = self.body.wte(tokens) + self.body.wpe(places), []
        for block, key_before, value_before in zip(self.body.h, past[::2], past[1::2], strict=True):
            projected = block.attn.c_attn(block.ln_1(hidden)).chunk(3, -1)
            query, key, value = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in projected)
            key, value = torch.cat([key_before, key], 2), torch.cat([value_before, value], 2)
            present += [key, value]
            weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + bias).softmax(-1)
            hidden = hidden + block.attn.c_proj((weights @ value).transpose(1, 2).flatten(2))
            hidden = hidden + block.mlp(block.ln_2(hidden))
        return self.head(self.body.ln_f(hidden[:, -1])), *present

    def past(self, rows: int) -> Past:
        config = self.body.config
        shape = (rows, config.n_head, 0, config.n_embd // config.n_head)
        return [torch.zeros(shape) for _ in range(2 * config.n_layer)]

    axes: ClassVar = {0: "rows", 2: "length"}  # of the past that change


class LstmStep(nn.Module):
    """nn.LSTM: tokens [rows, new] behind hidden and cell states [layers, rows, width] to logits [rows, vocabulary] of
    the last one, and the later states. Without an embedding tokens are one-hot rows."""

    def __init__(self, lstm: nn.LSTM, embedding: nn.Module | None, head: nn.Module) -> None:
        super().__init__()
        self.lstm, self.embedding, self.head = lstm, embedding, head

    def forward(self, tokens: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.embedding is None:
            inputs = nn.functional.one_hot(tokens, self.lstm.input_size).float()
        else:
            inputs = self.embedding(tokens)
        hidden, present = self.lstm(inputs, (past[0], past[1]))
        return self.head(hidden[:, -1]), *present

    def past(self, rows: int) -> Past:
        return [torch.zeros(self.lstm.num_layers, rows, self.lstm.hidden_size) for _ in range(2)]

    axes: ClassVar = {1: "rows"}


class PlainLoop:
    """Writes texts with a graph of a step."""

    def __init__(self, step: Gpt2Step | LstmStep, graph: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._names = [each.name for each in self._session.get_inputs()]
        self._past = step.past

    def write(self, prompts: torch.Tensor, new_tokens: int, top_k: int = 0, top_p: float = 1.0) -> np.ndarray:
        """The texts [rows, new tokens] behind prompts [rows, tokens]; with top-k 1 the likeliest."""
        random, written = np.random.default_rng(), []
        tokens = prompts.numpy()
        past = [_value(each.numpy()) for each in self._past(len(tokens))]
        for _ in range(new_tokens):
            feeds = dict(zip(self._names, [_value(tokens), *past], strict=True))
            logits, *past = self._session.run_with_ort_values(None, feeds)
            tokens = draw(logits.numpy(), random, top_k, top_p)[:, None]
            written.append(tokens)
        return np.concatenate(written, 1)


def draw(logits: np.ndarray, random: np.random.Generator, top_k: int = 0, top_p: float = 1.0) -> np.ndarray:
    """A token [rows] of each row of logits [rows, vocabulary] at temperature 1."""
    kept = None
    if top_k:
        kept = np.argpartition(logits, -top_k)[:, -top_k:]
        order = np.argsort(-np.take_along_axis(logits, kept, 1))
        kept = np.take_along_axis(kept, order, 1)
        logits = np.take_along_axis(logits, kept, 1)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    sums = weights.cumsum(1)
    if top_k and top_p < 1:
        end = (sums < top_p * sums[:, -1:]).sum(1)  # the token that reaches top-p is the last to be kept
        total = sums[np.arange(len(sums)), end]
    else:
        total = sums[:, -1]
    drawn = (sums <= random.random(len(sums))[:, None] * total[:, None]).sum(1)
    return drawn if kept is None else np.take_along_axis(kept, drawn[:, None], 1)[:, 0]


def plain_loops(step: Gpt2Step | LstmStep, folder: Path, threads: int) -> dict[str, PlainLoop]:
    """The loop over the exported step in fp32, and over what `quantize_dynamic` makes of it."""
    graphs = {precision: folder / f"plain-{precision}.onnx" for precision in ("fp32", "int8")}
    _export(step.eval(), graphs["fp32"])
    logging.getLogger().setLevel(logging.ERROR)  # it would have graphs prepared that are small already
    quantize_dynamic(graphs["fp32"], graphs["int8"])
    return {precision: PlainLoop(step, graph, threads) for precision, graph in graphs.items()}


def _export(step: Gpt2Step | LstmStep, graph: Path) -> None:
    past = [torch.zeros([2 if size == 0 else size for size in each.shape]) for each in step.past(2)]
    before, after = ([f"{when}.{number}" for number in range(len(past))] for when in ("past", "present"))
    axes = {"tokens": {0: "rows", 1: "new"}, "logits": {0: "rows"}} | dict.fromkeys(before + after, step.axes)
    with warnings.catch_warnings():
        # The exporter by tracing is said to be old. The new one needs a package more, and makes the same graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            step,
            (torch.zeros(2, 5, dtype=torch.long), *past),
            graph,
            input_names=["tokens", *before],
            output_names=["logits", *after],
            dynamic_axes=axes,
            dynamo=False,
        )


def _value(array: np.ndarray) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)

"""A GPT-2 checkpoint folder as transformers writes it: config, weights and tokenizer."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

import tokenizers
import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import decoders, pre_tokenizers
from torch import Tensor

from contracts.errors import StoreError
from contracts.requests import MAX_COUNT
from contracts.tokenizers import BpeTokenizer
from models.gpt2 import Gpt2Config
from models.pretrained.source import Source, read_json
from models.pretrained.weights import read_weights
from models.weights import Weights

Size = Annotated[int, Field(ge=1, le=MAX_COUNT)]
END = "<|endoftext|>"

# Their name of a part -> ours, and whether theirs is a Conv1D, which keeps its weight as (in, out).
_PARTS = {
    "wte": ("tokens", False),
    "wpe": ("positions", False),
    "ln_f": ("norm", False),
    "ln_1": ("norm1", False),
    "ln_2": ("norm2", False),
    "attn.c_attn": ("attention.qkv", True),
    "attn.c_proj": ("attention.out", True),
    "mlp.c_fc": ("up", True),
    "mlp.c_proj": ("down", True),
}
_NAME = re.compile(r"(?:h\.(?P<block>[0-9]{1,4})\.)?(?P<part>[a-z_0-9.]+)\.(?P<kind>weight|bias)")
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # constants that old checkpoints hold


class _Config(BaseModel):
    """config.json: what changes the numbers must be what models/gpt2.py computes."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())

    model_type: Literal["gpt2"]
    vocab_size: Size
    n_positions: Size
    n_embd: Size
    n_layer: Size
    n_head: Size
    n_inner: Size | None = None
    layer_norm_epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh"] = "gelu_new"
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False
    reorder_and_upcast_attn: Literal[False] = False
    add_cross_attention: Literal[False] = False


class PretrainedGpt2(NamedTuple):
    config: Gpt2Config
    weights: Weights  # fp32, by the names of models/gpt2.py
    tokenizer: BpeTokenizer


def read_gpt2(source: Source) -> PretrainedGpt2:
    """From config.json, weights and tokenizer.

    Weights are model.safetensors, whole or in shards, or else pytorch_model.bin; the tokenizer is tokenizer.json or
    else vocab.json with merges.txt. Raises StoreError for damaged files and for what models/gpt2.py does not compute.
    """
    config = _config(read_json(_Config, source.file("config.json")))
    return PretrainedGpt2(config, _our_weights(read_weights(source)), _read_tokenizer(source))


def _config(theirs: _Config) -> Gpt2Config:
    if theirs.n_inner not in (None, 4 * theirs.n_embd):
        raise StoreError(f"n_inner is {theirs.n_inner}; only 4 * n_embd = {4 * theirs.n_embd} can be used")
    if theirs.n_embd % theirs.n_head:
        raise StoreError(f"n_embd is {theirs.n_embd}, which {theirs.n_head} heads do not divide")
    try:
        return Gpt2Config(
            vocabulary_size=theirs.vocab_size,
            context_tokens=theirs.n_positions,
            width=theirs.n_embd,
            layers=theirs.n_layer,
            heads=theirs.n_head,
            epsilon=theirs.layer_norm_epsilon,
        )
    except ValueError as error:
        raise StoreError(f"config.json is not that of a model: {error}") from None


def _our_weights(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names, fp32. Raises StoreError for an output layer of its own and for unknown tensors."""
    theirs = {name.removeprefix("transformer."): weight for name, weight in theirs.items() if not _is_mask(name)}
    head = theirs.pop("lm_head.weight", None)
    if head is not None and "wte.weight" in theirs and not _equal(head, theirs["wte.weight"]):
        raise StoreError("lm_head.weight differs from wte.weight: only models that tie the two can be used")
    return dict(_our_weight(name, weight) for name, weight in theirs.items())


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _is_mask(name: str) -> bool:
    return _MASK.fullmatch(name.removeprefix("transformer.")) is not None


def _our_weight(name: str, weight: Tensor) -> tuple[str, Tensor]:
    match = _NAME.fullmatch(name)
    if match is None or match["part"] not in _PARTS:
        raise StoreError(f"the weights hold {name}, which GPT-2 as a language model does not have")
    part, conv1d = _PARTS[match["part"]]
    if conv1d and weight.dim() == 2:
        weight = weight.t()
    place = f"blocks.{int(match['block'])}.{part}" if match["block"] else part
    return f"{place}.{match['kind']}", weight.to(torch.float32) if weight.is_floating_point() else weight


def _read_tokenizer(source: Source) -> BpeTokenizer:
    try:
        if source.has("tokenizer.json"):
            tokenizer = tokenizers.Tokenizer.from_file(str(source.file("tokenizer.json")))
            # Settings of somebody's training, which would cut prompts.
            tokenizer.no_truncation()
            tokenizer.no_padding()
        else:
            vocabulary, merges = source.file("vocab.json"), source.file("merges.txt")
            tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocabulary), str(merges)))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            tokenizer.add_special_tokens([END])
        return BpeTokenizer(tokenizer, END)
    except StoreError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception for files it cannot read
        raise StoreError(f"the tokenizer in {source.folder} cannot be used: {error}") from None

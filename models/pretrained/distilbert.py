"""DistilBERT (Sanh et al., 2019) is BERT without token types, in half the blocks; it is read as one."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from contracts.requests import MAX_COUNT

Size = Annotated[int, Field(ge=1, le=MAX_COUNT)]

# Their name of a part of a block -> BERT's.
_PARTS = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
# Of the layers that guess masked tokens.
_HEAD = {
    "vocab_transform": "cls.predictions.transform.dense",
    "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
}
_BLOCK = re.compile(r"transformer\.layer\.(?P<block>[0-9]{1,4})\.(?P<part>[a-z0-9_.]+)\.(?P<kind>weight|bias)")


class DistilbertConfig(BaseModel):
    """config.json: what changes the numbers must be what models/bert.py computes."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())

    model_type: Literal["distilbert"]
    vocab_size: Size
    max_position_embeddings: Size
    dim: Size
    n_layers: Size
    n_heads: Size
    hidden_dim: Size
    activation: Literal["gelu", "relu"] = "gelu"

    def as_bert(self) -> dict[str, Any]:
        """The fields of BERT's config."""
        return {
            "model_type": "bert",
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "hidden_size": self.dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "intermediate_size": self.hidden_dim,
            "hidden_act": self.activation,
        }


def weights_as_bert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """By BERT's names, with a type of tokens that adds nothing. What has no such name keeps its own."""
    renamed = {_bert_name(name): weight for name, weight in weights.items()}
    if (words := renamed.get("bert.embeddings.word_embeddings.weight")) is not None and words.dim() == 2:
        renamed["bert.embeddings.token_type_embeddings.weight"] = torch.zeros(1, words.shape[1])
    return renamed


def _bert_name(name: str) -> str:
    if name.startswith("vocab_projector."):
        return name.replace("vocab_projector.weight", "cls.predictions.decoder.weight").replace(
            "vocab_projector.bias", "cls.predictions.bias"
        )
    place, _, kind = name.rpartition(".")
    if place in _HEAD:
        return f"{_HEAD[place]}.{kind}"
    inner = name.removeprefix("distilbert.")  # saved without its task, it has no such prefix
    match = _BLOCK.fullmatch(inner)
    if match and match["part"] in _PARTS:
        return f"bert.encoder.layer.{match['block']}.{_PARTS[match['part']]}.{match['kind']}"
    return f"bert.{inner}" if inner.startswith("embeddings.") else name

"""A model in memory that is about to become a bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from contracts.bundle import (
    FP32_GRAPH,
    GRAPH_WEIGHTS,
    INT8_GRAPH,
    INT8_WEIGHTS,
    TOKENIZER,
    WEIGHTS,
    Bundle,
    Example,
    Limits,
    Variant,
)
from contracts.errors import InvalidRequest, StoreError
from contracts.labels import Labels
from contracts.prompt_fields import PromptFields
from contracts.store import Store
from contracts.tokenizers import EncoderTokenizer, Tokenizer, vocabulary_faults
from models.bert import BertConfig, RobertaConfig
from models.dcgan import DcganConfig
from models.gpt2 import Gpt2Config
from models.lstm import LstmConfig
from models.weights import Config, weight_faults

LSTM_MAX_TOKENS = 4096  # an LSTM has no limit of its own, but a request must have one


@dataclass(frozen=True)
class Draft:
    """Config, fp32 weights by the names of the family's module in models/, tokenizer and where all this is from."""

    config: Config
    weights: dict[str, Tensor]
    tokenizer: Tokenizer | EncoderTokenizer | None
    example_prompt: str | None
    provenance: dict[str, Any]
    prompt_fields: PromptFields | None = None
    labels: Labels | None = None

    def publish(self, store: Store, name: str) -> Bundle:
        """Write the next version of model `name`. Raises StoreError with all faults of this draft."""
        if faults := [*weight_faults(self.config, self.weights), *self._text_faults(), *self._label_faults()]:
            raise StoreError(f"{name} cannot become a bundle: " + "; ".join(faults))
        return store.write(name, self._fill)

    def _fill(self, folder: Path) -> dict[str, Any]:
        try:
            save_file({name: weight.contiguous() for name, weight in self.weights.items()}, folder / WEIGHTS)
        except RuntimeError as error:  # two names of one tensor
            raise StoreError(f"the weights cannot be written: {error}") from None
        if self.tokenizer is not None:
            self.tokenizer.write(folder / TOKENIZER)
        return {
            **_identity(self.config),
            "config": asdict(self.config),
            "limits": _limits(self.config),
            "tokenizer": self.tokenizer.kind if self.tokenizer else None,
            "variants": (
                Variant(format="pytorch", precision="fp32", files=(WEIGHTS,)),
                *_more_variants(self.config, folder),
            ),
            "example": Example(prompt=self.example_prompt),
            "provenance": self.provenance,
            "prompt_fields": self.prompt_fields,
            "labels": self.labels,
        }

    def _text_faults(self) -> list[str]:
        if isinstance(self.config, DcganConfig):
            return []
        if self.tokenizer is None:
            return ["a model of texts needs a tokenizer"]
        if isinstance(self.tokenizer, EncoderTokenizer) != isinstance(self.config, BertConfig):
            return [f"a tokenizer of kind {self.tokenizer.kind!r} does not fit this family"]
        faults = vocabulary_faults(self.tokenizer, self.config.vocabulary_size)
        try:
            for marker in self.prompt_fields.markers if self.prompt_fields else []:
                if len(self.tokenizer.encode(marker)) != 1:
                    faults.append(f"the marker {marker} is no token of its own")
            if not self.tokenizer.encode(self.example_prompt or ""):
                faults.append(f"the example prompt {self.example_prompt!r} has no token that the model knows")
        except InvalidRequest as error:
            faults.append(f"the example prompt {self.example_prompt!r} cannot be read: {error}")
        return faults

    def _label_faults(self) -> list[str]:
        outputs = self.config.labels if isinstance(self.config, BertConfig) else 0
        names = len(self.labels.names) if self.labels else 0
        return [] if names == outputs else [f"{names} labels are named, but the model has {outputs}"]


def _identity(config: Config) -> dict[str, str]:
    if isinstance(config, BertConfig):
        return {"family": "roberta" if isinstance(config, RobertaConfig) else "bert", "task": "classify"}
    if isinstance(config, DcganConfig):
        return {"family": "dcgan", "task": "image"}
    return {"family": "gpt2" if isinstance(config, Gpt2Config) else "lstm", "task": "text"}


def _more_variants(config: Config, folder: Path) -> list[Variant]:
    """Writes the variants for ONNX Runtime beside the weights in `folder`, where `onnx` is installed and they exist."""
    if find_spec("onnx") is None:
        return []
    weights: tuple[str, ...] = (WEIGHTS,)
    if isinstance(config, Gpt2Config) and config.width // config.heads % 8 == 0:
        from export.onnx_gpt2 import write_onnx_gpt2

        write_onnx_gpt2(folder, config)
    elif isinstance(config, BertConfig):
        from export.onnx_bert import write_onnx_bert

        write_onnx_bert(folder, config)
        return [Variant(format="onnx", precision="fp32", files=(WEIGHTS, FP32_GRAPH))]
    elif isinstance(config, LstmConfig) and config.window is None:
        from export.onnx_lstm import write_onnx_lstm

        write_onnx_lstm(folder, config)
        weights = (WEIGHTS, GRAPH_WEIGHTS)
    else:
        return []
    return [
        Variant(format="onnx", precision="fp32", files=(*weights, FP32_GRAPH)),
        Variant(format="onnx", precision="int8", files=(*weights, INT8_GRAPH, INT8_WEIGHTS)),
    ]


def _limits(config: Config) -> Limits:
    if isinstance(config, DcganConfig):
        return Limits(picture_pixels=(config.size, config.size))
    if isinstance(config, Gpt2Config | BertConfig):
        return Limits(context_tokens=config.context_tokens)
    return Limits(max_tokens=LSTM_MAX_TOKENS)

"""BERT and RoBERTa checkpoint folders as transformers writes them: classifiers, and encoders to be made one."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

import tokenizers
import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import pre_tokenizers, processors
from torch import Tensor

from contracts.errors import StoreError
from contracts.labels import MAX_LABELS, Activation
from contracts.requests import MAX_COUNT
from contracts.tokenizers import EncoderTokenizer, RobertaTokenizer, WordPieceTokenizer
from models.bert import BertConfig, HiddenActivation, RobertaConfig
from models.pretrained.distilbert import DistilbertConfig, weights_as_bert
from models.pretrained.source import Source, read_json
from models.pretrained.weights import read_weights
from models.weights import Weights

Size = Annotated[int, Field(ge=1, le=MAX_COUNT)]
_ACTIVATIONS: dict[str | None, Activation] = {
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
}
_HIDDEN: dict[str, HiddenActivation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}

# Their name of a part -> ours.
_PARTS = {
    "embeddings.word_embeddings": "tokens",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm2",
}
_HEADS = {
    "bert": {"bert.pooler.dense": "pool", "classifier": "head"},
    "roberta": {"classifier.dense": "pool", "classifier.out_proj": "head"},
}
# Our name of a weight -> theirs; "output" is the embedding again.
_LANGUAGE_HEADS = {
    "bert": {
        "transform.weight": "cls.predictions.transform.dense.weight",
        "transform.bias": "cls.predictions.transform.dense.bias",
        "transform_norm.weight": "cls.predictions.transform.LayerNorm.weight",
        "transform_norm.bias": "cls.predictions.transform.LayerNorm.bias",
        "output_bias": "cls.predictions.bias",
        "output": "cls.predictions.decoder.weight",
    },
    "roberta": {
        "transform.weight": "lm_head.dense.weight",
        "transform.bias": "lm_head.dense.bias",
        "transform_norm.weight": "lm_head.layer_norm.weight",
        "transform_norm.bias": "lm_head.layer_norm.bias",
        "output_bias": "lm_head.bias",
        "output": "lm_head.decoder.weight",
    },
}
_NAME = re.compile(r"(?:encoder\.layer\.(?P<block>[0-9]{1,4})\.)?(?P<part>[A-Za-z_0-9.]+)")
_KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}  # the last two in old checkpoints
# Constants that old checkpoints hold, and a layer of RoBERTa's that its classifier does not use.
_UNUSED = re.compile(r"(ro)?bert[a]?\.embeddings\.(position|token_type)_ids|roberta\.pooler\.dense\.(weight|bias)")


class _Config(BaseModel):
    """config.json: what changes the numbers must be what models/bert.py computes."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())

    model_type: Literal["bert", "roberta"]
    vocab_size: Size
    max_position_embeddings: Size
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    intermediate_size: Size
    hidden_act: Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"] = "gelu"
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-12
    pad_token_id: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = None
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False
    problem_type: Literal["single_label_classification", "multi_label_classification"] | None = None
    # Two nameless labels are what transformers leaves out of its file.
    id2label: Annotated[dict[str, str], Field(min_length=1, max_length=MAX_LABELS)] = {"0": "LABEL_0", "1": "LABEL_1"}


class _Family(BaseModel):
    model_type: str | None = None


class _TokenizerConfig(BaseModel):
    do_lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True


class PretrainedClassifier(NamedTuple):
    config: BertConfig
    weights: Weights  # fp32, by the names of models/bert.py
    tokenizer: EncoderTokenizer
    names: tuple[str, ...]  # of the labels
    activation: Activation  # that transformers' pipeline applies


class PretrainedEncoder(NamedTuple):
    config: BertConfig  # with the labels that were asked for
    weights: Weights  # without the layers that come after the blocks, which are for each task anew
    language_head: Weights  # those of a model that guesses masked tokens by its own embedding, if the checkpoint is one
    tokenizer: EncoderTokenizer


def read_classifier(source: Source) -> PretrainedClassifier:
    """From config.json, weights and tokenizer of a model for sequence classification.

    The labels are those of `id2label`. The activation is sigmoid for `problem_type` "multi_label_classification" or
    one label, else softmax. Weights are model.safetensors, whole or in shards, or else pytorch_model.bin; the tokenizer
    is tokenizer.json, or else vocab.txt (BERT) or vocab.json with merges.txt (RoBERTa). Raises StoreError for damaged
    files and for what models/bert.py does not compute.
    """
    theirs = read_json(_Config, source.file("config.json"))
    names = _names(theirs)
    default = _ACTIVATIONS.get(theirs.problem_type, "sigmoid" if len(names) == 1 else "softmax")
    weights = _our_weights(theirs.model_type, read_weights(source))
    return PretrainedClassifier(
        _config(theirs, len(names)), weights, _read_tokenizer(theirs.model_type, source), names, default
    )


def read_encoder(source: Source, labels: int) -> PretrainedEncoder:
    """The same of any BERT, DistilBERT or RoBERTa, whatever it was trained for: what is not of the encoder is left out,
    but what guesses masked tokens."""
    path = source.file("config.json")
    read = read_weights(source)
    if read_json(_Family, path).model_type == "distilbert":
        theirs, read = _Config(**read_json(DistilbertConfig, path).as_bert()), weights_as_bert(read)
    else:
        theirs = read_json(_Config, path)
    encoder = f"{theirs.model_type}.embeddings.", f"{theirs.model_type}.encoder."
    if not any(name.startswith(encoder) for name in read):  # saved without its task, the names begin later
        read = {f"{theirs.model_type}.{name}": weight for name, weight in read.items()}
    weights = _our_weights(theirs.model_type, {name: read[name] for name in read if name.startswith(encoder)})
    head = _language_head(theirs.model_type, read, weights.get("tokens.weight"))
    return PretrainedEncoder(_config(theirs, labels), weights, head, _read_tokenizer(theirs.model_type, source))


def _config(theirs: _Config, labels: int) -> BertConfig:
    shape = {
        "vocabulary_size": theirs.vocab_size,
        "width": theirs.hidden_size,
        "layers": theirs.num_hidden_layers,
        "heads": theirs.num_attention_heads,
        "inner": theirs.intermediate_size,
        "labels": labels,
    }
    hidden, epsilon = _HIDDEN[theirs.hidden_act], theirs.layer_norm_eps
    if theirs.hidden_size % theirs.num_attention_heads:
        heads = theirs.num_attention_heads
        raise StoreError(f"hidden_size is {theirs.hidden_size}, which {heads} heads do not divide")
    try:
        if theirs.model_type == "bert":
            context = theirs.max_position_embeddings
            return BertConfig(**shape, context_tokens=context, hidden_activation=hidden, epsilon=epsilon)
        padding = 1 if theirs.pad_token_id is None else theirs.pad_token_id
        return RobertaConfig(
            **shape,
            context_tokens=theirs.max_position_embeddings - padding - 1,
            hidden_activation=hidden,
            epsilon=epsilon,
            padding_token=padding,
        )
    except ValueError as error:
        raise StoreError(f"config.json is not that of a model: {error}") from None


def _names(theirs: _Config) -> tuple[str, ...]:
    places = [str(place) for place in range(len(theirs.id2label))]
    if strange := sorted(theirs.id2label.keys() - set(places)):
        raise StoreError(f"id2label of config.json names the output {strange[0]!r}; it must count from 0 on")
    return tuple(theirs.id2label[place] for place in places)


def _our_weights(model_type: str, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names, fp32. Raises StoreError for unknown tensors."""
    weights = dict(_our_weight(model_type, *each) for each in theirs.items() if not _UNUSED.fullmatch(each[0]))
    _join_types(weights)
    for name in [name for name in weights if ".attention.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in weights and weights[part].dim() for part in parts):
            weights[name.replace(".query.", ".qkv.")] = _joined([weights.pop(part) for part in parts], name)
    return weights


def _language_head(model_type: str, theirs: dict[str, Tensor], embedding: Tensor | None) -> Weights:
    """None where parts are missing, and where tokens are guessed by another embedding than they come in by."""
    names = _LANGUAGE_HEADS[model_type]
    output = theirs.get(names["output"])
    tied = output is None or (embedding is not None and torch.equal(output.to(torch.float32), embedding))
    head = {ours: name for ours, name in names.items() if ours != "output"}
    if not tied or head.keys() != {ours for ours, name in head.items() if name in theirs}:
        return {}
    return {ours: theirs[name].to(torch.float32) for ours, name in head.items()}


def _join_types(weights: dict[str, Tensor]) -> None:
    """Every token is of the first type: what it adds becomes part of the positions."""
    types, positions = weights.pop("types.weight", None), weights.get("positions.weight")
    if types is None or positions is None:
        raise StoreError("the weights lack token types or positions (token_type_embeddings, position_embeddings)")
    if types.dim() != 2 or not len(types) or types.shape[1:] != positions.shape[1:]:
        raise StoreError(f"token_type_embeddings is {list(types.shape)}, beside positions {list(positions.shape)}")
    weights["positions.weight"] = positions + types[0]


def _joined(parts: list[Tensor], name: str) -> Tensor:
    if len({part.shape[1:] for part in parts}) > 1:
        raise StoreError(f"{name} and its key and value have other widths")
    return torch.cat(parts)


def _our_weight(model_type: str, name: str, weight: Tensor) -> tuple[str, Tensor]:
    place, _, kind = name.rpartition(".")
    ours = _HEADS[model_type].get(place)
    if ours is None and place.startswith(f"{model_type}."):
        match = _NAME.fullmatch(place.removeprefix(f"{model_type}."))
        part = _PARTS.get(match["part"]) if match else None
        if match and part:
            ours = f"blocks.{int(match['block'])}.{part}" if match["block"] else part
    if ours is None or kind not in _KINDS:
        raise StoreError(f"the weights hold {name}, which a {model_type} for sequence classification does not have")
    return f"{ours}.{_KINDS[kind]}", weight.to(torch.float32) if weight.is_floating_point() else weight


def _read_tokenizer(model_type: str, source: Source) -> EncoderTokenizer:
    kind = WordPieceTokenizer if model_type == "bert" else RobertaTokenizer
    try:
        if source.has("tokenizer.json"):
            return kind(tokenizers.Tokenizer.from_file(str(source.file("tokenizer.json"))))
        return kind(_bert_tokenizer(source) if model_type == "bert" else _roberta_tokenizer(source))
    except Exception as error:  # the tokenizers library raises plain Exception for files it cannot read
        raise StoreError(f"the tokenizer in {source.folder} cannot be used: {error}") from None


def _bert_tokenizer(source: Source) -> tokenizers.Tokenizer:
    settings = _TokenizerConfig()
    if source.has("tokenizer_config.json"):
        settings = read_json(_TokenizerConfig, source.file("tokenizer_config.json"))
    vocabulary = source.file("vocab.txt")
    tokenizer: tokenizers.Tokenizer = tokenizers.BertWordPieceTokenizer(
        str(vocabulary),
        lowercase=settings.do_lower_case,
        strip_accents=settings.strip_accents,
        handle_chinese_chars=settings.tokenize_chinese_chars,
    )._tokenizer
    return tokenizer


def _roberta_tokenizer(source: Source) -> tokenizers.Tokenizer:
    vocabulary, merges = source.file("vocab.json"), source.file("merges.txt")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    begin, end = (tokenizer.token_to_id(token) for token in ("<s>", "</s>"))
    if begin is None or end is None:
        raise StoreError("it has no <s> and </s>")
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", end), ("<s>", begin))
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", tokenizers.AddedToken("<mask>", lstrip=True)])
    return tokenizer

"""What the training of genres begins with: a checkpoint's encoder and tokenizer, or new ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import tokenizers
import torch
from tokenizers import decoders, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from contracts.errors import StoreError
from contracts.tokenizers import EncoderTokenizer, RobertaTokenizer
from models.bert import Attention, Bert, BertConfig, RobertaConfig
from models.pretrained.bert import read_encoder
from models.pretrained.hub import checkpoint_folder
from models.pretrained.source import Source
from models.weights import Weights
from training.genres.data import GenreData
from training.genres.masked import MaskedLanguageModel
from training.recipes import SCRATCH, GenresRecipe
from training.seeds import seeded

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # of a tokenizer that is trained here
_CLASSIFIER_ONLY = ("pool.", "head.")
MEAN_GAIN = 4.0  # of what a block adds of all tokens at first
LANGUAGE_ONLY = ("transform", "output_bias")


class Beginning(NamedTuple):
    config: BertConfig
    tokenizer: EncoderTokenizer
    weights: Weights  # of the encoder, none from scratch; maybe those that guess masked tokens

    @property
    def guesses(self) -> bool:
        """Whether the weights that guess masked tokens are there; else they are learnt anew."""
        return any(name.startswith(LANGUAGE_ONLY) for name in self.weights)

    def classifier(self, recipe: GenresRecipe) -> Bert:
        """Its last two layers are new. Raises StoreError."""
        with seeded(recipe.seed):
            module = Bert(self.config, recipe.dropout)
            if not self.weights:
                widen(module)
        encoder = {name: weight for name, weight in self.weights.items() if not name.startswith(LANGUAGE_ONLY)}
        _load(module, encoder, recipe.model, new=_CLASSIFIER_ONLY)
        return module

    def language_model(self, recipe: GenresRecipe) -> MaskedLanguageModel:
        """Raises StoreError."""
        with seeded(recipe.seed):
            module = MaskedLanguageModel(self.config, recipe.dropout)
            if not self.weights:
                widen(module)
        _load(module, self.weights, recipe.model, new=() if self.guesses else LANGUAGE_ONLY)
        return module

    def taught(self, weights: Weights) -> Beginning:
        """The same after its language model has learnt these."""
        return self._replace(weights=weights)


def read_beginning(data: GenreData, recipe: GenresRecipe) -> Beginning:
    """Raises StoreError for a checkpoint that cannot be had, and for sizes of which no model can be made."""
    if recipe.model == SCRATCH:
        tokenizer = train_encoder_tokenizer(data.train.texts, recipe.vocabulary_size)
        return Beginning(_scratch_config(tokenizer, len(data.genres), recipe), tokenizer, {})
    found = read_encoder(Source(checkpoint_folder(recipe.model)), len(data.genres))
    return Beginning(found.config, found.tokenizer, {**found.weights, **found.language_head})


def train_encoder_tokenizer(texts: Sequence[str], vocabulary_size: int) -> RobertaTokenizer:
    """RoBERTa's kind, byte-level BPE, but lower-cased: a small model has no use for capitals. (A WordPiece trainer
    gives other ids each time.)"""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    begin, end = (SPECIAL_TOKENS.index(token) for token in ("<s>", "</s>"))
    made.post_processor = processors.RobertaProcessing(("</s>", end), ("<s>", begin))
    return RobertaTokenizer(made)


def widen(module: Bert | MaskedLanguageModel) -> None:
    """Initial weights of a narrow encoder. (The usual 0.02 fits a width of 768: here hardly anything of a text would
    reach the first token, and nothing be learnt.)

    Sums keep their size. A block begins by looking at all tokens alike and adding their mean, enlarged since a mean is
    small: from the first step on a text is known by its words. Their places, which drown them, come in later.
    """
    width = module.config.width
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and name != "head":
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    nn.init.normal_(module.positions.weight, std=0.1 * module.tokens.weight.std().item())
    for attention in (layer for layer in module.modules() if isinstance(layer, Attention)):
        turned = math.sqrt(MEAN_GAIN) * nn.init.orthogonal_(torch.empty(width, width))
        with torch.no_grad():
            attention.qkv.weight[: 2 * width].normal_(std=0.02)
            attention.qkv.weight[2 * width :] = turned
            attention.out.weight.copy_(turned.T)


def _scratch_config(tokenizer: EncoderTokenizer, genres: int, recipe: GenresRecipe) -> BertConfig:
    try:
        return RobertaConfig(
            vocabulary_size=tokenizer.vocabulary_size,
            context_tokens=recipe.block_tokens,
            width=recipe.width,
            layers=recipe.blocks,
            heads=recipe.heads,
            inner=4 * recipe.width,
            labels=genres,
            padding_token=SPECIAL_TOKENS.index("<pad>"),
        )
    except ValueError as error:
        raise StoreError(f"no encoder can be made from this recipe: {error}") from None


def _load(module: nn.Module, weights: Weights, name: str, *, new: tuple[str, ...]) -> None:
    """All weights but the new ones, where there are any. Raises StoreError."""
    if not weights:
        return
    try:
        missing, _ = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise StoreError(f"{name} holds weights that do not fit its config: {error}") from None
    if lacking := sorted(each for each in missing if not each.startswith(new)):
        raise StoreError(f"{name} lacks {', '.join(lacking[:5])}; it is not a whole encoder")

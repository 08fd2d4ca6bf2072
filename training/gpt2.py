"""GPT-2: fine-tuned from a checkpoint, from scratch, or as the student of another run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers, trainers
from torch import Tensor, nn

from contracts.errors import StoreError
from contracts.tokenizers import BpeTokenizer
from models.gpt2 import Gpt2, Gpt2Config
from models.pretrained.gpt2 import read_gpt2
from models.pretrained.hub import checkpoint_folder
from models.pretrained.source import Source
from training.layouts import Layout, packed, padded
from training.objective import Batch, cross_entropy
from training.recipes import SCRATCH, Gpt2Recipe
from training.seeds import seeded
from training.texts import Texts
from training.writing import TextObjective

END = "<|endoftext|>"
PAD = "<|pad|>"
_EXAMPLE_WORDS = 3


@dataclass
class Gpt2Objective(TextObjective):
    """Rows of a layout in an order of their own for each epoch."""

    recipe: Gpt2Recipe
    module: Gpt2
    tokenizer: BpeTokenizer
    train: Layout
    held_out_rows: Layout
    held_out: str
    example_prompt: str
    facts: dict[str, Any]

    @property
    def config(self) -> Gpt2Config:
        return self.module.config

    @property
    def steps_per_epoch(self) -> int:
        return self.train.batches

    def batch(self, epoch: int, index: int) -> Batch:
        return self.train.batch(epoch, index)

    def loss(self, model: nn.Module, batch: Batch, first_row: int) -> Tensor:
        logits, _ = model(batch.inputs)
        return cross_entropy(logits, batch.targets)

    def step_done(self) -> None:
        """Nothing is carried on."""

    def carried(self) -> dict[str, Tensor]:
        return {}

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is carried on."""

    def validation(self) -> Iterator[tuple[Tensor, int]]:
        device = self.module.tokens.weight.device
        for index in range(self.held_out_rows.batches):
            batch = self.held_out_rows.batch(None, index)
            logits, _ = self.module(batch.inputs.to(device))
            yield cross_entropy(logits, batch.targets.to(device)), batch.predicted


def gpt2_objective(texts: Texts, recipe: Gpt2Recipe) -> Gpt2Objective:
    """Raises StoreError for texts that do not fill a block, and for a checkpoint that cannot be had."""
    with seeded(recipe.seed):
        return objective_with(*_beginning(texts, recipe), texts, recipe)


def objective_with(module: Gpt2, tokenizer: BpeTokenizer, texts: Texts, recipe: Gpt2Recipe) -> Gpt2Objective:
    """What `module` learns from texts; it gets the special tokens that they need. Raises StoreError."""
    markers = texts.prompt_fields.markers if texts.prompt_fields else []
    fillers = [PAD] if recipe.layout == "padded" else []
    module, tokenizer = with_tokens(module, tokenizer, [END, *markers, *fillers])
    if recipe.block_tokens > module.config.context_tokens:
        raise StoreError(
            f"block_tokens is {recipe.block_tokens}; this model reads {module.config.context_tokens} tokens at most"
        )
    # Texts of fields end with the marker of the last one.
    closing = "" if texts.prompt_fields else END
    train, held_out = ([tokenizer.encode(text + closing) for text in part] for part in (texts.train, texts.validation))
    if (tokens := sum(map(len, train))) <= recipe.block_tokens:
        raise StoreError(f"the texts have {tokens} tokens; one block of this recipe needs {recipe.block_tokens + 1}")
    lay_out = partial(padded, filler=tokenizer.encode(PAD)[0]) if fillers else packed
    return Gpt2Objective(
        recipe=recipe,
        module=module,
        tokenizer=tokenizer,
        train=lay_out(train, recipe),
        held_out_rows=lay_out(held_out, recipe),
        held_out="".join(text + closing for text in texts.validation),
        example_prompt=_example_prompt(texts),
        facts={"prompt_fields": texts.prompt_fields},
    )


def train_tokenizer(texts: Sequence[str], vocabulary_size: int, markers: Sequence[str] = ()) -> BpeTokenizer:
    """Byte-level BPE as GPT-2's: every byte has a token, so that no text is unknown."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END, *(marker for marker in markers if marker != END)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BpeTokenizer(tokenizer, END)


def with_tokens(module: Gpt2, tokenizer: BpeTokenizer, tokens: Sequence[str]) -> tuple[Gpt2, BpeTokenizer]:
    """The same model with these special tokens: new rows of the embedding lie around the mean of the old ones, so that
    none of them is likely from the start (Hewitt, 2021)."""
    extended = tokenizer.with_special_tokens(tokens)
    missing = extended.vocabulary_size - module.config.vocabulary_size
    if missing <= 0:
        return module, extended
    larger = Gpt2(replace(module.config, vocabulary_size=extended.vocabulary_size), module.dropout)
    weights = module.state_dict()
    known = weights["tokens.weight"]
    near = known.mean(0) + 0.1 * known.std(0) * torch.randn(missing, known.shape[1])
    larger.load_state_dict({**weights, "tokens.weight": torch.cat([known, near])})
    return larger, extended


def _beginning(texts: Texts, recipe: Gpt2Recipe) -> tuple[Gpt2, BpeTokenizer]:
    """What training starts from. Raises StoreError."""
    if recipe.model == SCRATCH:
        markers = texts.prompt_fields.markers if texts.prompt_fields else []
        tokenizer = train_tokenizer(texts.train, recipe.vocabulary_size, markers)
        return Gpt2(_scratch_config(recipe, tokenizer), recipe.dropout), tokenizer
    found = read_gpt2(Source(checkpoint_folder(recipe.model)))
    module = Gpt2(found.config, recipe.dropout)
    try:
        module.load_state_dict(found.weights)
    except RuntimeError as error:
        raise StoreError(f"{recipe.model} holds weights that do not fit its config: {error}") from None
    return module, found.tokenizer


def _scratch_config(recipe: Gpt2Recipe, tokenizer: BpeTokenizer) -> Gpt2Config:
    try:
        return Gpt2Config(
            vocabulary_size=tokenizer.vocabulary_size,
            context_tokens=recipe.context_tokens,
            width=recipe.width,
            layers=recipe.blocks,
            heads=recipe.heads,
        )
    except ValueError as error:
        raise StoreError(f"no GPT-2 can be made from this recipe: {error}") from None


def _example_prompt(texts: Texts) -> str:
    if texts.example_prompt:
        return texts.example_prompt
    if texts.prompt_fields:
        first, *_ = texts.prompt_fields.fields
        beginning, marker, _ = texts.train[0].partition(first.end)
        return beginning + marker
    return " ".join(texts.train[0].split()[:_EXAMPLE_WORDS])

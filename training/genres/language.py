"""An encoder learns the language of the plots before it learns their genres."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from contracts.errors import StoreError
from contracts.run import RunDescription
from contracts.tokenizers import EncoderTokenizer
from contracts.tokenizers.encoders import FRAME
from models.weights import family_of
from training.genres.beginning import Beginning
from training.genres.data import GenreData
from training.genres.masked import MaskedLanguageModel, Masking
from training.objective import IGNORED, Batch, by_decay
from training.recipes import GenresRecipe, TextRecipe
from training.run_folder import RunFolder
from training.schedule import Schedule
from training.seeds import generator_of

WARM_UP_SHARE = 0.06  # RoBERTa's
_ORDER, _MASKS, _HELD_OUT_MASKS = range(3)  # what is drawn from the recipe's seed


@dataclass
class LanguageObjective:
    recipe: TextRecipe  # of this part of the run
    module: MaskedLanguageModel
    tokenizer: EncoderTokenizer
    masking: Masking
    blocks: list[list[int]]
    held_out_blocks: list[list[int]]
    guesses: bool  # whether it began with weights that guess tokens
    held_out: str = ""  # it is not for export

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.blocks) // self.recipe.batch_rows)

    def batch(self, epoch: int, index: int) -> Batch:
        """Other tokens are masked in every epoch."""
        seed, rows = self.recipe.seed, self.recipe.batch_rows
        order = torch.randperm(len(self.blocks), generator=generator_of(seed, _ORDER, epoch))
        chosen = order[index * rows : (index + 1) * rows].tolist()
        return self._batch([self.blocks[row] for row in chosen], generator_of(seed, _MASKS, epoch, index))

    def loss(self, model: nn.Module, batch: Batch, first_row: int) -> Tensor:
        wanted = batch.targets != IGNORED
        logits = model(batch.inputs, batch.lengths, wanted)
        return F.cross_entropy(logits.float(), batch.targets[wanted], reduction="sum")

    def step_done(self) -> None:
        """Nothing is carried on."""

    def carried(self) -> dict[str, Tensor]:
        return {}

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is carried on."""

    def validation(self) -> Iterator[tuple[Tensor, int]]:
        """The same tokens are masked each time."""
        device, rows = self.module.tokens.weight.device, self.recipe.batch_rows
        for begin in range(0, len(self.held_out_blocks), rows):
            generator = generator_of(self.recipe.seed, _HELD_OUT_MASKS, begin)
            batch = self._batch(self.held_out_blocks[begin : begin + rows], generator)
            yield self.loss(self.module, batch.to(device), 0), batch.predicted

    def parameter_groups(self) -> list[dict[str, Any]]:
        return by_decay(self.module, self.recipe.weight_decay)

    def schedule(self, optimizer: Optimizer, steps: int) -> Schedule:
        warming = self.recipe.model_copy(update={"warmup_steps": round(WARM_UP_SHARE * steps)})
        return Schedule.of_recipe(optimizer, warming, steps)

    def describe(self, metrics: dict[str, float]) -> RunDescription:
        return RunDescription(
            family=family_of(self.module.config),
            task="masked",
            config=asdict(self.module.config),
            tokenizer=self.tokenizer.kind,
            hyperparameters=self.recipe.model_dump(),
            metrics=metrics,
        )

    def look(self, folder: Path, epoch: int) -> str:
        return ""

    def finish(self, folder: RunFolder) -> str:
        head = "its head was the checkpoint's" if self.guesses else "its head was new"
        return f"{folder.path}: the language of the plots has been learnt ({head}); now their genres"

    def _batch(self, blocks: Sequence[list[int]], generator: torch.Generator) -> Batch:
        tokens = torch.tensor(blocks)
        shown, wanted = self.masking.apply(tokens, generator)
        return Batch(shown, wanted, lengths=torch.full((len(blocks),), tokens.shape[1]))


def language_objective(data: GenreData, recipe: GenresRecipe, beginning: Beginning) -> LanguageObjective:
    """Raises StoreError for a tokenizer without a mask, and for plots without words."""
    tokenizer, config = beginning.tokenizer, beginning.config
    if tokenizer.mask is None:
        raise StoreError(f"the tokenizer of {recipe.model} has no mask token; leave --language-epochs out")
    most = min(recipe.language_block_tokens, config.context_tokens)
    train, held_out = (framed_blocks(tokenizer, part.texts, most) for part in (data.train, data.validation))
    if not train:
        raise StoreError("the plots to train on have no words; there is no language to learn")
    frame = frozenset(tokenizer.encode(""))
    module = beginning.language_model(recipe)
    if not beginning.guesses:
        _say_how_often(module, train)
    return LanguageObjective(
        recipe=language_recipe(recipe),
        module=module,
        tokenizer=tokenizer,
        masking=Masking(recipe.masked_share, tokenizer.mask, frame, config.vocabulary_size),
        blocks=train,
        held_out_blocks=held_out,
        guesses=beginning.guesses,
    )


def language_recipe(recipe: GenresRecipe) -> TextRecipe:
    """That of the part of a run in which language is learnt."""
    return TextRecipe(
        epochs=recipe.language_epochs,
        batch_rows=recipe.language_batch_rows,
        learning_rate=recipe.language_learning_rate,
        schedule="linear",
        micro_batch_rows=recipe.micro_batch_rows,
        **recipe.model_dump(
            include={"precision", "seed", "optimizer", "weight_decay", "gradient_norm", "dropout"}
            | {"validations_per_epoch", "stop_after"}
        ),
    )


def _say_how_often(module: MaskedLanguageModel, blocks: Sequence[list[int]]) -> None:
    """To begin with, every token is as likely as it is in the plots: what is learnt is what the context adds."""
    counts = torch.bincount(torch.tensor(list(chain.from_iterable(blocks))), minlength=len(module.output_bias)) + 1
    with torch.no_grad():
        module.output_bias.copy_((counts / counts.sum()).log())


def framed_blocks(tokenizer: EncoderTokenizer, texts: Sequence[str], most: int) -> list[list[int]]:
    """Texts one behind the other, with the token that ends a text between them, in blocks of `most` tokens that are
    framed as a text is. What fills no block is left out, but texts that fill none are a short one."""
    read = [tokens for tokens in map(tokenizer.encode, texts) if len(tokens) > FRAME]
    if not read:
        return []
    first, last = read[0][0], read[0][-1]
    stream = list(chain.from_iterable(tokens[1:] for tokens in read))[:-1]
    room = min(most - FRAME, len(stream))
    return [[first, *stream[begin : begin + room], last] for begin in range(0, len(stream) - room + 1, room)]

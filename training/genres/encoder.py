"""BERT and RoBERTa learn the genres of plots: all genres at once, each for itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from contracts.bundle import WEIGHTS
from contracts.errors import StoreError
from contracts.labels import Labels
from contracts.run import RUN, RunDescription
from contracts.tokenizers import EncoderTokenizer
from models.bert import Bert
from models.pretrained.source import read_json
from models.weights import family_of, read_safetensors
from training.genres.baseline import baseline
from training.genres.beginning import Beginning
from training.genres.data import GenreData, LabelledPlots, Truth, positive_weights
from training.genres.report import write_report
from training.genres.scores import Probabilities, best_threshold, judge, search_thresholds
from training.objective import Batch, by_decay
from training.recipes import GenresRecipe
from training.run_folder import RunFolder
from training.schedule import Schedule
from training.seeds import generator_of

WARM_UP_SHARE = 0.25  # of a cycle
VALIDATION_ROWS = 32
ALIKE_BATCHES = 25  # whose plots are sorted by length
_EXAMPLE_CHARACTERS = 200
UNKNOWN_THRESHOLD = 0.5  # until the search at the end


@dataclass
class GenresObjective:
    recipe: GenresRecipe
    module: Bert
    tokenizer: EncoderTokenizer
    data: GenreData
    train: list[list[int]]  # tokens of each plot, the special ones included
    held_out_texts: list[list[int]]
    weights: Tensor  # (genres,) of positive examples
    report: bool = True  # beside a baseline; it needs libraries of the extras
    held_out: str = ""  # classifiers are judged by texts of export's own

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.train) // self.recipe.batch_rows)

    def batch(self, epoch: int, index: int) -> Batch:
        """Other tokens are hidden in every epoch."""
        batch = _batch(self.train, self.data.train, self._order(epoch)[index].tolist())
        mask = self.tokenizer.mask
        if not self.recipe.hidden_share or mask is None:
            return batch
        drawn = torch.rand(batch.inputs.shape, generator=generator_of(self.recipe.seed, epoch, index))
        hidden = (drawn < self.recipe.hidden_share) & ~torch.isin(batch.inputs, self._frame)
        return batch._replace(inputs=batch.inputs.masked_fill(hidden, mask))

    def loss(self, model: nn.Module, batch: Batch, first_row: int) -> Tensor:
        logits = model(batch.inputs, batch.lengths)
        weights = self.weights.to(logits.device)
        return F.binary_cross_entropy_with_logits(
            logits.float(), batch.targets.float(), pos_weight=weights, reduction="sum"
        )

    def step_done(self) -> None:
        """Nothing is carried on."""

    def carried(self) -> dict[str, Tensor]:
        return {}

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is carried on."""

    def validation(self) -> Iterator[tuple[Tensor, int]]:
        """Without weights: what is wanted is probabilities that are true."""
        for batch, logits in self._read_held_out():
            targets = batch.targets.to(logits.device).float()
            yield F.binary_cross_entropy_with_logits(logits, targets, reduction="sum"), targets.numel()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """By depth below the head, each with what decays and what does not."""
        return [group for part in _by_depth(self.module) for group in by_decay(part, self.recipe.weight_decay)]

    def schedule(self, optimizer: Optimizer, steps: int) -> Schedule:
        depths = [depth for depth, _ in enumerate(_by_depth(self.module)) for _ in range(2)]  # as the groups
        shares: list[Callable[[int], float]] = [
            partial(rate_share, self.recipe, steps, depth=depth, deepest=max(depths)) for depth in depths
        ]
        return Schedule(LambdaLR(optimizer, shares))

    def describe(self, metrics: dict[str, float]) -> RunDescription:
        return RunDescription(
            family=family_of(self.module.config),
            task="classify",
            config=asdict(self.module.config),
            tokenizer=self.tokenizer.kind,
            hyperparameters=self.recipe.model_dump(),
            metrics=metrics,
            example_prompt=self.data.train.texts[0][:_EXAMPLE_CHARACTERS],
            labels=_labels(self.data.genres, (UNKNOWN_THRESHOLD,)),
        )

    def look(self, folder: Path, epoch: int) -> str:
        """The F1 at the best common threshold."""
        probabilities, truth = self.probabilities(), self.data.validation.truth
        threshold = best_threshold(probabilities, truth)
        found = judge(probabilities, truth, self.data.genres, [threshold] * len(self.data.genres))
        return f"micro F1 {found.micro_f1:.3f}, macro F1 {found.macro_f1:.3f} at {threshold:.2f}"

    def finish(self, folder: RunFolder) -> str:
        """Thresholds for the best weights, into the run; a report beside the baseline's, where one is wanted."""
        self.module.load_state_dict(read_safetensors(folder.path / WEIGHTS))
        probabilities, truth = self.probabilities(), self.data.validation.truth
        thresholds = search_thresholds(probabilities, truth, self.recipe.thresholds)
        kept = read_json(RunDescription, folder.path / RUN)
        folder.describe(kept.model_copy(update={"labels": _labels(self.data.genres, thresholds)}))
        if not self.report:
            return ""
        beside = {"model": probabilities, "baseline": baseline(self.data)}
        return write_report(folder.path, self.data, beside, self.recipe)

    @torch.no_grad()
    def probabilities(self) -> Probabilities:
        """(texts, genres) of the plots to validate with."""
        self.module.eval()
        read = [torch.sigmoid(logits.double()).cpu() for _, logits in self._read_held_out()]
        return np.asarray(torch.cat(read).numpy(), dtype=np.float64)

    @cached_property
    def _frame(self) -> Tensor:
        return torch.tensor(self.tokenizer.encode(""))

    @cached_property
    def _lengths(self) -> Tensor:
        return torch.tensor(list(map(len, self.train)))

    def _order(self, epoch: int) -> list[Tensor]:
        """The plots of each batch, in an order that is drawn, and of like length so that little is padded."""
        generator, rows = generator_of(self.recipe.seed, epoch), self.recipe.batch_rows
        order = torch.randperm(len(self.train), generator=generator)
        parts = torch.split(order, rows * ALIKE_BATCHES)
        alike = torch.cat([part[self._lengths[part].argsort(stable=True)] for part in parts])
        batches = torch.split(alike, rows)
        return [batches[place] for place in torch.randperm(len(batches), generator=generator)]

    def _read_held_out(self) -> Iterator[tuple[Batch, Tensor]]:
        device = self.module.head.weight.device
        for begin in range(0, len(self.held_out_texts), VALIDATION_ROWS):
            rows = list(range(begin, min(begin + VALIDATION_ROWS, len(self.held_out_texts))))
            batch = _batch(self.held_out_texts, self.data.validation, rows)
            there = batch.to(device)
            yield batch, self.module(there.inputs, there.lengths).float()


def genres_objective(
    data: GenreData, recipe: GenresRecipe, beginning: Beginning, *, report: bool = True
) -> GenresObjective:
    """Raises StoreError for a checkpoint whose weights do not fit its config, and for a tokenizer without a mask where
    one is needed."""
    module, tokenizer = beginning.classifier(recipe), beginning.tokenizer
    if recipe.hidden_share and tokenizer.mask is None:
        raise StoreError(f"the tokenizer of {recipe.model} has no mask token; leave --hidden-share out")
    most = min(recipe.block_tokens, module.config.context_tokens)
    train, held_out = ([tokenizer.cut(tokenizer.encode(text), most) for text in part.texts] for part in data[1:3])
    weights = torch.tensor(positive_weights(data.train.truth, recipe.largest_weight), dtype=torch.float32)
    _say_how_often(module, data.train.truth, weights)
    return GenresObjective(recipe, module, tokenizer, data, train, held_out, weights, report)


def rate_share(recipe: GenresRecipe, steps: int, step: int, *, depth: int, deepest: int) -> float:
    """What the recipe's learning rate is multiplied by, `depth` layers below the head (0), `deepest` being those of the
    embeddings. Each cycle warms up and cools down; a layer that is still frozen has 0."""
    at = min(step / steps, 1.0) * recipe.cycles
    cycle = min(int(at), recipe.cycles - 1)
    inside = min(at - cycle, 1.0)
    if inside < WARM_UP_SHARE:
        shape = inside / WARM_UP_SHARE
    else:
        shape = 0.5 * (1 + math.cos(math.pi * (inside - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)))
    if depth == 0:
        first_of_several = cycle == 0 and recipe.cycles > 1
        return shape * (recipe.head_learning_rate / recipe.learning_rate if first_of_several else 1.0)
    unfrozen = deepest if recipe.cycles == 1 else math.ceil(deepest * cycle / (recipe.cycles - 1))
    return shape * recipe.layer_decay**depth if depth <= unfrozen else 0.0


def _say_how_often(module: Bert, truth: Truth, weights: Tensor) -> None:
    """To begin with, every text is of each genre as likely as texts are: what is learnt is what sets them apart. (From
    one half, thousands of steps would go by until the rare genres are rare.)"""
    share = torch.from_numpy(truth.mean(0)).float().clamp(1e-4, 1 - 1e-4)
    with torch.no_grad():
        module.head.bias.copy_((weights * share / (1 - share)).log())


def _by_depth(module: Bert) -> list[nn.Module]:
    """The head, the blocks from the last to the first, and what is below them."""
    head = nn.ModuleList([module.pool, module.head])
    return [head, *reversed(module.blocks), nn.ModuleList([module.tokens, module.positions, module.norm])]


def _batch(texts: Sequence[list[int]], plots: LabelledPlots, rows: Sequence[int]) -> Batch:
    """Padded to the longest of these texts."""
    chosen = [texts[row] for row in rows]
    width = max(map(len, chosen))
    tokens = torch.tensor([text + [0] * (width - len(text)) for text in chosen])
    return Batch(tokens, torch.from_numpy(plots.truth[list(rows)]).long(), lengths=torch.tensor(list(map(len, chosen))))


def _labels(genres: tuple[str, ...], thresholds: tuple[float, ...]) -> Labels:
    common = len(set(thresholds)) == 1
    return Labels(names=genres, activation="sigmoid", threshold=thresholds[0] if common else thresholds)

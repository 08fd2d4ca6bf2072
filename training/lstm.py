"""Character and word LSTMs: what they learn from a text, in windows or in rows whose state is carried on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from contracts.errors import StoreError
from contracts.tokenizers import CharacterTokenizer, Tokenizer, WordTokenizer
from models.lstm import LstmConfig, LstmLanguageModel, State
from training.objective import Batch, Objective, cross_entropy
from training.recipes import CharLstmRecipe, WordLstmRecipe
from training.seeds import generator_of, seeded
from training.texts import Texts
from training.writing import TextObjective

UNKNOWN = "<unk>"
VALIDATION_CHUNK_TOKENS = 256
_FEWEST_VALIDATION_TOKENS = 1024  # of a row that is validated; each row begins without a past
_EXAMPLE_CHARACTERS = 24
_EXAMPLE_WORDS = 3


@dataclass
class _LstmObjective(TextObjective):
    """What windows and rows share."""

    recipe: CharLstmRecipe | WordLstmRecipe
    module: LstmLanguageModel
    tokenizer: Tokenizer
    train: Tensor  # (tokens,)
    held_out_tokens: Tensor  # (tokens,)
    held_out: str
    example_prompt: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> LstmConfig:
        return self.module.config


@dataclass
class RowsObjective(_LstmObjective):
    """The text in parallel rows: row i + 1 goes on where row i ends, so a row's state fits its next chunk."""

    _state: State | None = None
    _after: list[State] = field(default_factory=list)  # of the parts of the batch that is being learnt

    def __post_init__(self) -> None:
        """Raises StoreError for a text that is too short for one chunk per row."""
        time = len(self.train) // self.recipe.batch_rows
        if time <= self.recipe.chunk_tokens:
            needed = self.recipe.batch_rows * (self.recipe.chunk_tokens + 1)
            raise StoreError(
                f"the text has {len(self.train):,} tokens; {self.recipe.batch_rows} rows in chunks of"
                f" {self.recipe.chunk_tokens} need {needed:,}; give more text, or fewer --batch-rows"
            )
        self._rows = self.train[: self.recipe.batch_rows * time].view(self.recipe.batch_rows, time)

    @property
    def steps_per_epoch(self) -> int:
        return (self._rows.shape[1] - 1) // self.recipe.chunk_tokens

    def batch(self, epoch: int, index: int) -> Batch:
        begin = index * self.recipe.chunk_tokens
        end = begin + self.recipe.chunk_tokens
        return Batch(self._rows[:, begin:end], self._rows[:, begin + 1 : end + 1], fresh=index == 0)

    def loss(self, model: nn.Module, batch: Batch, first_row: int) -> Tensor:
        rows = slice(first_row, first_row + len(batch.inputs))
        state = None if batch.fresh or self._state is None else [(h[rows], c[rows]) for h, c in self._state]
        if first_row == 0:
            self._after.clear()  # of an attempt for which there was not enough memory
        logits, after = model(batch.inputs, state)
        self._after.append([(h.detach(), c.detach()) for h, c in after])
        return cross_entropy(logits, batch.targets)

    def step_done(self) -> None:
        parts = zip(*self._after, strict=True)  # layer by layer
        self._state = [(torch.cat([h for h, _ in part]), torch.cat([c for _, c in part])) for part in parts]
        self._after.clear()

    def carried(self) -> dict[str, Tensor]:
        carried: dict[str, Tensor] = {}
        for layer, (h, c) in enumerate(self._state or []):
            carried |= {f"{layer}.h": h, f"{layer}.c": c}
        return carried

    def carry(self, tensors: dict[str, Tensor]) -> None:
        self._state = [(tensors[f"{layer}.h"], tensors[f"{layer}.c"]) for layer in range(len(tensors) // 2)] or None

    def validation(self) -> Iterator[tuple[Tensor, int]]:
        """The held-out text in a few long rows, the state carried through."""
        held_out, device = self.held_out_tokens, self.module.head.weight.device
        if len(held_out) < 2:
            return
        rows = max(1, min(self.recipe.batch_rows, len(held_out) // _FEWEST_VALIDATION_TOKENS))
        laid_out = held_out[: len(held_out) // rows * rows].view(rows, -1).to(device)
        state: State | None = None
        for begin in range(0, laid_out.shape[1] - 1, VALIDATION_CHUNK_TOKENS):
            targets = laid_out[:, begin + 1 : begin + VALIDATION_CHUNK_TOKENS + 1]
            logits, state = self.module(laid_out[:, begin : begin + targets.shape[1]], state)
            yield cross_entropy(logits, targets), targets.numel()


@dataclass
class WindowsObjective(_LstmObjective):
    """Random windows of the text, each from a zero state, with a loss behind every token of them.

    Served as it is trained: from the last `chunk_tokens` tokens.
    """

    recipe: CharLstmRecipe

    def __post_init__(self) -> None:
        """Raises StoreError for a text that is shorter than a window."""
        if len(self.train) <= self.recipe.chunk_tokens:
            raise StoreError(
                f"the text has {len(self.train):,} tokens; a window of {self.recipe.chunk_tokens} needs more"
            )

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.recipe.windows_per_epoch // self.recipe.batch_rows)

    def batch(self, epoch: int, index: int) -> Batch:
        places = (len(self.train) - self.recipe.chunk_tokens - 1) // self.recipe.window_step + 1
        drawn = torch.randint(places, (self.recipe.windows_per_epoch,), generator=generator_of(self.recipe.seed, epoch))
        rows = self.recipe.batch_rows
        return _windows(self.train, drawn[index * rows : (index + 1) * rows] * self.recipe.window_step, self.recipe)

    def loss(self, model: nn.Module, batch: Batch, first_row: int) -> Tensor:
        logits, _ = model(batch.inputs, None)
        return cross_entropy(logits, batch.targets)

    def step_done(self) -> None:
        """Nothing is carried on."""

    def carried(self) -> dict[str, Tensor]:
        return {}

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is carried on."""

    def validation(self) -> Iterator[tuple[Tensor, int]]:
        """The last token of windows that lie evenly in the held-out text, as many as an epoch has."""
        held_out, device = self.held_out_tokens, self.module.head.weight.device
        places = len(held_out) - self.recipe.chunk_tokens
        if places < 1:
            return
        starts = torch.linspace(0, places - 1, min(places, self.recipe.windows_per_epoch)).long()
        for group in torch.split(starts, self.recipe.batch_rows):
            batch = _windows(held_out, group, self.recipe)
            logits, _ = self.module(batch.inputs.to(device), None)
            yield cross_entropy(logits[:, -1:], batch.targets[:, -1:].to(device)), len(group)


def char_objective(texts: Texts, recipe: CharLstmRecipe) -> Objective:
    """Raises StoreError for a text that is too short."""
    text, held_out = texts.joined
    characters = "".join(sorted(set(text)))
    tokenizer = CharacterTokenizer(characters)
    window = recipe.chunk_tokens if recipe.layout == "windows" else None
    with seeded(recipe.seed):
        module = LstmLanguageModel(LstmConfig(len(characters), recipe.layers, window=window), recipe.dropout)
    kind = WindowsObjective if recipe.layout == "windows" else RowsObjective
    return kind(
        recipe=recipe,
        module=module,
        tokenizer=tokenizer,
        train=torch.tensor(tokenizer.encode(text)),
        held_out_tokens=torch.tensor(tokenizer.encode(held_out), dtype=torch.int64),
        held_out=held_out,
        example_prompt=texts.example_prompt or text.lstrip()[:_EXAMPLE_CHARACTERS] or text[:_EXAMPLE_CHARACTERS],
    )


def word_objective(texts: Texts, recipe: WordLstmRecipe) -> Objective:
    """Raises StoreError for a text that is too short."""
    text, held_out = texts.joined
    tokenizer = train_word_tokenizer(text, recipe.fewest_occurrences)
    with seeded(recipe.seed):
        config = LstmConfig(tokenizer.vocabulary_size, recipe.layers, recipe.embedding)
        module = LstmLanguageModel(config, recipe.dropout)
    return RowsObjective(
        recipe=recipe,
        module=module,
        tokenizer=tokenizer,
        train=torch.tensor(tokenizer.encode(text)),
        held_out_tokens=torch.tensor(tokenizer.encode(held_out), dtype=torch.int64),
        held_out=held_out,
        example_prompt=texts.example_prompt or " ".join(text.split()[:_EXAMPLE_WORDS]),
    )


def train_word_tokenizer(text: str, fewest_occurrences: int = 1) -> WordTokenizer:
    """Lower-case words, marks and line ends, the frequent ones first. Rarer words than asked for are read as <unk>;
    without any, words that the text has not are left out. Raises StoreError for a text without words."""
    counts = Counter(WordTokenizer.pieces(text))
    counts["\n"] += fewest_occurrences
    # Some letters become others, or two, in lower case, and would be read otherwise the second time.
    known = [word for word, _ in counts.most_common() if WordTokenizer.pieces(word) == [word]]
    words = [word for word in known if counts[word] >= fewest_occurrences]
    if len(words) == len(known):
        return WordTokenizer(words)
    return WordTokenizer([UNKNOWN, *words], "replace", unknown_token=UNKNOWN)


def _windows(tokens: Tensor, starts: Tensor, recipe: CharLstmRecipe) -> Batch:
    """Of tokens (all,) those behind starts (rows,)."""
    chosen = tokens[starts[:, None] + torch.arange(recipe.chunk_tokens + 1)]
    return Batch(chosen[:, :-1], chosen[:, 1:])

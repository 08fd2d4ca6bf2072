"""Recipes: every number that a training run is made by. Flags, TOML files and Python give the same fields.

The defaults are those of the public projects that these models come from.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from contracts.errors import StoreError
from contracts.requests import describe

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
AnyRecipe = TypeVar("AnyRecipe", bound="Recipe")


SCRATCH = "scratch"  # where a recipe names the model to begin with
PICTURE_SIZES = (32, 64, 128)


def _check_size(size: int) -> int:
    if size not in PICTURE_SIZES:
        raise ValueError("it must be 32, 64 or 128")
    return size


class Recipe(BaseModel):
    """What all families share."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: Count = Field(1, description="Times that all of the data is seen.")
    learning_rate: Rate = Field(1e-3, description="Learning rate, the highest of the schedule.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="What forward passes compute in.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="Of weights, order and all else that is drawn.")


class LearnerRecipe(Recipe):
    """What all share that learn by one loss: models that write text, and classifiers."""

    batch_rows: Count = Field(32, description="Rows of a batch, over all processes: one step of the optimizer.")
    micro_batch_rows: Count | None = Field(
        None, description="Rows computed at once; gradients of a batch are added up. Default: all of them."
    )
    optimizer: Literal["adam", "adamw", "rmsprop"] = Field("adam", description="Adam, AdamW or RMSprop.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Decay of matrices; biases and norms keep.")
    gradient_norm: Rate | None = Field(1.0, description="Longer gradients are cut to this norm.")
    dropout: Share = Field(0.0, description="Share of activations that are left out in training.")
    validations_per_epoch: Count = Field(1, description="How often the validation loss is measured.")
    stop_after: Count | None = Field(
        None, description="Validations without a better loss that end the run. Default: none do."
    )


class TextRecipe(LearnerRecipe):
    """What all families that write text share."""

    schedule: Literal["constant", "linear", "one-cycle", "plateau"] = Field(
        "constant", description="Of the learning rate; plateau lowers it when validation stops getting better."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="Steps up to the full rate (linear).")
    patience: Annotated[int, Field(ge=0)] = Field(2, description="Validations without a better loss (plateau).")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="What the rate is multiplied by (plateau).")
    validation_share: Share = Field(0.05, description="Of a plain text: its end, kept from training.")


class CharLstmRecipe(TextRecipe):
    """A character LSTM on any text."""

    epochs: Count = Field(150, description="Passes; with windows, of --windows-per-epoch windows each.")
    batch_rows: Count = Field(128, description="Windows, or parallel rows of the text, of a batch.")
    optimizer: Literal["adam", "adamw", "rmsprop"] = Field("rmsprop", description="Adam, AdamW or RMSprop.")
    learning_rate: Rate = Field(1e-2, description="Learning rate, the highest of the schedule.")
    validation_share: Share = Field(0.0625, description="The end of the text, kept from training.")
    layers: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        (128, 128), description="Size of each layer, separated by commas."
    )
    layout: Literal["windows", "rows"] = Field(
        "windows",
        description="windows: random pieces of the text, each from a zero state, and served so. rows: the text in"
        " parallel rows whose state is carried on; learns more in less time, and a token is served in one step.",
    )
    chunk_tokens: Count = Field(60, description="Characters of a window, or that gradients reach back (rows).")
    window_step: Count = Field(3, description="A window begins at every n-th character.")
    windows_per_epoch: Count = Field(10_000, description="Random windows that make an epoch.")


class WordLstmRecipe(TextRecipe):
    """A word LSTM on synopses, or on any text."""

    epochs: Count = Field(15, description="Times that all of the data is seen.")
    schedule: Literal["constant", "linear", "one-cycle", "plateau"] = Field(
        "plateau", description="Of the learning rate; plateau lowers it when validation stops getting better."
    )
    dropout: Share = Field(0.3, description="Share of activations that are left out behind each layer.")
    embedding: Count = Field(100, description="Width of the word embedding.")
    layers: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        (512, 512, 512), description="Size of each layer, separated by commas."
    )
    chunk_tokens: Count = Field(30, description="Words that gradients reach back; the state is carried on.")
    fewest_occurrences: Count = Field(1, description="Words that occur less often are read as <unk>.")


class Gpt2Recipe(TextRecipe):
    """GPT-2: fine-tuned, or from scratch; also a student of another run."""

    epochs: Count = Field(5, description="Times that all of the data is seen.")
    batch_rows: Count = Field(10, description="Texts, or blocks, of a batch over all processes.")
    optimizer: Literal["adam", "adamw", "rmsprop"] = Field("adamw", description="Adam, AdamW or RMSprop.")
    learning_rate: Rate = Field(1e-4, description="Learning rate, the highest of the schedule.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.003, description="Decay of matrices; biases and norms keep.")
    schedule: Literal["constant", "linear", "one-cycle", "plateau"] = Field(
        "linear", description="Of the learning rate; plateau lowers it when validation stops getting better."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(10, description="Steps up to the full rate (linear).")
    dropout: Share = Field(0.1, description="Share of activations that are left out in training.")
    model: Annotated[str, Field(min_length=1)] = Field(
        "openai-community/gpt2", description="Name on the hub, folder of a checkpoint, or scratch."
    )
    layout: Literal["padded", "packed"] = Field(
        "padded",
        description="padded: a text a row, cut at --block-tokens. packed: texts in a row, blocks of equal size.",
    )
    block_tokens: Annotated[int, Field(ge=2)] = Field(300, description="Tokens of a row.")
    titles: bool = Field(True, description="Plots: genre, title and plot; without, genre and plot.")
    # From scratch.
    vocabulary_size: Annotated[int, Field(ge=257)] = Field(8192, description="Of a tokenizer trained here (scratch).")
    context_tokens: Annotated[int, Field(ge=2)] = Field(512, description="Longest text (scratch).")
    width: Count = Field(256, description="Width of the hidden states (scratch).")
    blocks: Count = Field(4, description="Number of blocks (scratch).")
    heads: Count = Field(4, description="Attention heads of a block (scratch).")
    # Distillation (Sanh et al., 2019).
    teacher: str | None = Field(None, description="Run folder whose student of half its blocks is trained.")
    temperature: Rate = Field(2.0, description="Softens both distributions (student).")
    teacher_weight: Annotated[float, Field(ge=0)] = Field(5.0, description="Of the teacher's distribution (student).")
    text_weight: Annotated[float, Field(ge=0)] = Field(2.0, description="Of the text itself (student).")
    cosine_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="Of equal last hidden states (student).")


class DcganRecipe(Recipe):
    """DCGAN on a folder of pictures. Without the stabilisers, which are off, it is the paper's."""

    epochs: Count = Field(25, description="Times that all of the pictures are seen.")
    learning_rate: Rate = Field(2e-4, description="Learning rate of Adam, of both networks.")
    batch_pictures: Annotated[int, Field(ge=2)] = Field(
        128, description="Real pictures of a step, and generated ones; batch norm sees them as a whole."
    )
    size: Annotated[int, AfterValidator(_check_size)] = Field(64, description="Pixels of a side: 32, 64 or 128.")
    latent: Count = Field(128, description="Numbers that a picture is drawn from.")
    width: Count = Field(64, description="Channels of the largest feature map; the smallest has size/8 times as many.")
    beta1: Share = Field(0.5, description="Adam's memory of gradients.")
    beta2: Share = Field(0.999, description="Adam's memory of their squares.")
    measure_epochs: Annotated[int, Field(ge=0)] = Field(
        1, description="Epochs between measurements of the distance that the best weights have; 0 keeps the last ones."
    )
    # Stabilisers.
    real_target: Annotated[float, Field(gt=0.5, le=1)] = Field(
        1.0, description="0.9 smooths labels of real pictures: a discriminator that is never sure keeps teaching."
    )
    spectral_norm: bool = Field(
        False, description="Bound the discriminator's slope by spectral norm, in place of batch norm."
    )
    ema_decay: Share = Field(
        0.0, description="0.999 draws with a moving average of the generator's weights, which swings less; 0 is off."
    )
    flips: bool = Field(False, description="Mirror half of the real pictures, where left and right mean nothing.")


class GenresRecipe(LearnerRecipe):
    """A BERT or RoBERTa that tells the genres of plots."""

    epochs: Count = Field(3, description="Times that all of the data is seen, over all cycles.")
    batch_rows: Count = Field(12, description="Plots of a batch over all processes.")
    optimizer: Literal["adam", "adamw", "rmsprop"] = Field("adamw", description="Adam, AdamW or RMSprop.")
    learning_rate: Rate = Field(1e-5, description="Highest rate of a cycle, but the first of several.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.01, description="Decay of matrices; biases and norms keep.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(42, description="Of weights, order and dropout.")
    dropout: Share = Field(0.1, description="Share of activations that are left out in training.")
    model: Annotated[str, Field(min_length=1)] = Field(
        "FacebookAI/roberta-base", description="Name on the hub, folder of a checkpoint, or scratch."
    )
    cycles: Count = Field(
        3,
        description="Gradual unfreezing: the first trains the head alone, the last all of it; 1: all at once.",
    )
    head_learning_rate: Rate = Field(3e-4, description="Highest rate of the first of several cycles.")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="A block's rate, times that above it.")
    block_tokens: Annotated[int, Field(ge=3)] = Field(256, description="Tokens that are read of a plot.")
    hidden_share: Share = Field(
        0.0, description="Of a plot's tokens, shown as the mask in training: so fewer plots are learnt by heart."
    )
    fewest_plots: Count = Field(20, description="Genres of fewer plots to train on are left out.")
    largest_weight: Annotated[float, Field(ge=1)] = Field(
        3.0, description="What plots of the rarest genre count; those of the most frequent one count 1."
    )
    thresholds: Literal["common", "each"] = Field(
        "common", description="Searched for the best F1 on validation: one for all genres, or one for each."
    )
    # The language of the plots, before their genres.
    language_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="Times that masked tokens of all plots are guessed before genres are learnt; 0: never."
    )
    language_learning_rate: Rate = Field(5e-5, description="Highest learning rate of it; linear schedule.")
    language_batch_rows: Count = Field(8, description="Blocks of a batch, over all processes (language).")
    language_block_tokens: Annotated[int, Field(ge=3)] = Field(
        256, description="Tokens of a block, texts one behind the other (language)."
    )
    masked_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.15, description="Of the tokens, to guess (language).")
    # From scratch.
    vocabulary_size: Annotated[int, Field(ge=300)] = Field(8192, description="Of a tokenizer trained here (scratch).")
    width: Count = Field(128, description="Width of the hidden states (scratch).")
    blocks: Count = Field(2, description="Number of blocks (scratch).")
    heads: Count = Field(4, description="Attention heads of a block (scratch).")


# What trains an encoder that knows nothing yet.
SCRATCH_GENRES_DEFAULTS: dict[str, Any] = {
    "epochs": 8,
    "batch_rows": 32,
    "cycles": 1,
    "learning_rate": 1e-3,
    "layer_decay": 1.0,
    "blocks": 1,
    "dropout": 0.3,
    "hidden_share": 0.3,
}

# What the movie project changed; these are the defaults where the data are plots.
PLOT_DEFAULTS: dict[str, Any] = {
    "epochs": 1,
    "batch_rows": 4,
    "weight_decay": 0.0,
    "layout": "packed",
    "block_tokens": 512,
    "validations_per_epoch": 10,
    "seed": 42,
}

TEXT_DEFAULTS: dict[str, Any] = {"layout": "packed"}  # where the data are one text


def make_recipe(kind: type[AnyRecipe], *layers: dict[str, Any]) -> AnyRecipe:
    """A recipe from defaults and what overrides them, the last first. Raises StoreError that names each bad value."""
    merged = {name: value for layer in layers for name, value in layer.items()}
    if unknown := sorted(merged.keys() - kind.model_fields):
        raise StoreError(f"{unknown[0]!r} is not a field of this recipe; it has {', '.join(sorted(kind.model_fields))}")
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise StoreError(f"the recipe cannot be used: {describe(error, limit=20)}") from None


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The fields of a TOML file. Raises StoreError."""
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise StoreError(f"{path} is not a TOML file: {error}") from None
    # `learning-rate` as on the command line, or `learning_rate` as in Python.
    return {name.replace("-", "_"): value for name, value in fields.items()}

"""Character LSTM: one pass of truncated backpropagation over the corpus after another."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from contracts.errors import StoreError
from contracts.run import RunDescription
from contracts.tokenizers import CharacterTokenizer
from models.lstm import LstmConfig, LstmLanguageModel, State
from training.progress import Progress, seeded
from training.run_folder import RunFolder


@dataclass(frozen=True)
class LstmRecipe:
    layers: tuple[int, ...] = (128, 128)
    dropout: float = 0.0
    rows: int = 32
    chunk_tokens: int = 64  # gradients reach this far back; the state is carried on
    steps: int = 2000
    learning_rate: float = 5e-3
    gradient_norm: float = 1.0
    seed: int = 0


def train_lstm(
    corpus: str,
    folder: Path,
    recipe: LstmRecipe | None = None,
    *,
    example_prompt: str = "The ",
    held_out: str = "",
    show_progress: bool = True,
) -> Path:
    """Train on a text and write the run folder. `held_out` is text that it does not see.

    Raises StoreError for a folder that exists already and for a corpus that is too short for one chunk per row.
    """
    run, recipe = RunFolder(folder), recipe or LstmRecipe()
    tokenizer = CharacterTokenizer("".join(sorted(set(corpus))))
    rows = _lay_out(tokenizer.encode(corpus), recipe)
    config = LstmConfig(tokenizer.vocabulary_size, recipe.layers)
    progress = Progress(folder.name, recipe.steps, show_progress)
    with seeded(recipe.seed):
        model = LstmLanguageModel(config, recipe.dropout)
        _fit(model, rows, recipe, progress)
    description = RunDescription(
        family="lstm",
        task="text",
        config=asdict(config),
        tokenizer="characters",
        hyperparameters=asdict(recipe),
        metrics=progress.metrics(),
        example_prompt=example_prompt,
    )
    return run.write(description, model.state_dict(), tokenizer, held_out)


def _lay_out(tokens: list[int], recipe: LstmRecipe) -> Tensor:
    """The corpus as (rows, time): row i + 1 goes on where row i ends, so that a row's state fits its next chunk."""
    time = len(tokens) // recipe.rows
    if time <= recipe.chunk_tokens:
        needed = recipe.rows * (recipe.chunk_tokens + 1)
        raise StoreError(f"the corpus has {len(tokens)} characters; this recipe needs {needed} or more")
    return torch.tensor(tokens[: recipe.rows * time]).view(recipe.rows, time)


def _fit(model: LstmLanguageModel, rows: Tensor, recipe: LstmRecipe, progress: Progress) -> None:
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.1)
    begin, state = 0, model.zero_state(recipe.rows)
    for _ in progress:
        if begin + recipe.chunk_tokens >= rows.shape[1]:  # the next epoch
            begin, state = 0, model.zero_state(recipe.rows)
        end = begin + recipe.chunk_tokens
        loss, state = _loss(model, rows[:, begin : end + 1], state)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_norm)
        optimizer.step()
        schedule.step()
        progress.record(loss=loss.item())
        begin = end


def _loss(model: LstmLanguageModel, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """Cross-entropy in nats of tokens (rows, time + 1) after the state, and the state after them, detached."""
    logits, after = model(tokens[:, :-1], state)
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    return loss, [(h.detach(), c.detach()) for h, c in after]

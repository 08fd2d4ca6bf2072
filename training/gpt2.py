"""GPT-2 from scratch: a byte-level BPE tokenizer and a language model for one collection of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import decoders, pre_tokenizers, trainers
from torch import Tensor

from contracts.errors import StoreError
from contracts.run import RunDescription
from contracts.tokenizers import BpeTokenizer
from models.gpt2 import Gpt2, Gpt2Config
from training.progress import Progress, seeded
from training.run_folder import RunFolder

END = "<|endoftext|>"


@dataclass(frozen=True)
class Gpt2Recipe:
    vocabulary_size: int = 1024
    context_tokens: int = 256
    width: int = 128
    layers: int = 4
    heads: int = 4
    rows: int = 4
    steps: int = 2000
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    seed: int = 0


def train_gpt2(
    texts: Sequence[str],
    folder: Path,
    recipe: Gpt2Recipe | None = None,
    *,
    example_prompt: str = "In the year",
    held_out: str = "",
    show_progress: bool = True,
) -> Path:
    """Train tokenizer and model on texts and write the run folder. `held_out` is text that it does not see.

    Raises StoreError for a folder that exists already and for texts that do not fill one block.
    """
    run, recipe = RunFolder(folder), recipe or Gpt2Recipe()
    tokenizer = train_tokenizer(texts, recipe.vocabulary_size)
    config = Gpt2Config(
        vocabulary_size=tokenizer.vocabulary_size,
        context_tokens=recipe.context_tokens,
        width=recipe.width,
        layers=recipe.layers,
        heads=recipe.heads,
    )
    progress = Progress(folder.name, recipe.steps, show_progress)
    with seeded(recipe.seed):
        model = Gpt2(config)
        _fit(model, _batches(tokenizer, texts, recipe), recipe, progress)
    description = RunDescription(
        family="gpt2",
        task="text",
        config=asdict(config),
        tokenizer="bpe",
        hyperparameters=asdict(recipe),
        metrics=progress.metrics(),
        example_prompt=example_prompt,
    )
    return run.write(description, model.state_dict(), tokenizer, held_out)


def train_tokenizer(texts: Sequence[str], vocabulary_size: int) -> BpeTokenizer:
    """Byte-level BPE as GPT-2's: every byte has a token, so that no text is unknown."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BpeTokenizer(tokenizer, END)


def _batches(tokenizer: BpeTokenizer, texts: Sequence[str], recipe: Gpt2Recipe) -> Iterator[Tensor]:
    """Packed blocks without end, each batch (rows, context_tokens + 1).

    A block begins with a text, as a prompt does, and goes on with the texts behind it, each closed by the end token.
    """
    packed: list[int] = []
    begins: list[int] = []
    for text in texts:
        begins.append(len(packed))
        packed += [*tokenizer.encode(text), *tokenizer.encode(END)]
    block = recipe.context_tokens + 1
    if len(packed) < block:
        raise StoreError(f"the texts have {len(packed)} tokens; one block of this recipe needs {block}")
    stream = torch.tensor(packed + packed[:block])
    starts, offsets = torch.tensor(begins), torch.arange(block)
    while True:
        chosen = starts[torch.randint(len(begins), (recipe.rows, 1))]
        yield stream[chosen + offsets]


def _fit(model: Gpt2, batches: Iterator[Tensor], recipe: Gpt2Recipe, progress: Progress) -> None:
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() <= 1]  # biases and norms do not decay
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        recipe.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.1)
    for _ in progress:
        tokens = next(batches)
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_norm)
        optimizer.step()
        schedule.step()
        progress.record(loss=loss.item())

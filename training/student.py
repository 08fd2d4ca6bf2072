"""Distillation (Sanh et al., 2019): a GPT-2 of half its teacher's blocks learns from the teacher's distributions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.bundle import TOKENIZER, WEIGHTS
from contracts.errors import StoreError
from contracts.run import RUN, RunDescription
from contracts.tokenizers import BpeTokenizer, read_tokenizer
from models.gpt2 import Gpt2, Gpt2Config
from models.pretrained.source import read_json
from models.weights import read_config, read_safetensors, weight_faults
from training.gpt2 import Gpt2Objective, objective_with
from training.objective import IGNORED, Batch, cross_entropy
from training.recipes import Gpt2Recipe
from training.texts import Texts


@dataclass
class StudentObjective(Gpt2Objective):
    teacher: Gpt2

    def loss(self, model: nn.Module, batch: Batch, first_row: int) -> Tensor:
        """Three losses, weighted: the teacher's softened distribution, the text, and the direction of the teacher's
        last hidden state."""
        recipe, predicted = self.recipe, batch.targets != IGNORED
        self.teacher.to(batch.inputs.device)
        with torch.no_grad():
            taught = self.teacher.hidden(batch.inputs)
            wanted = F.log_softmax(self.teacher.logits(taught)[predicted].float() / recipe.temperature, -1)
        logits, hidden = model(batch.inputs)
        given = F.log_softmax(logits[predicted].float() / recipe.temperature, -1)
        # Gradients of softened distributions are smaller by the square of the temperature.
        soft = F.kl_div(given, wanted, reduction="sum", log_target=True) * recipe.temperature**2
        cosine = (1 - F.cosine_similarity(hidden[predicted].float(), taught[predicted].float(), dim=-1)).sum()
        text = cross_entropy(logits, batch.targets)
        return recipe.teacher_weight * soft + recipe.text_weight * text + recipe.cosine_weight * cosine


def student_objective(texts: Texts, recipe: Gpt2Recipe) -> StudentObjective:
    """Raises StoreError for a teacher that is no run of a GPT-2."""
    teacher, tokenizer = read_teacher(Path(recipe.teacher or ""))
    student = objective_with(halved(teacher, recipe.dropout), tokenizer, texts, recipe)
    return StudentObjective(**vars(student), teacher=teacher.eval().requires_grad_(False))


def read_teacher(folder: Path) -> tuple[Gpt2, BpeTokenizer]:
    """Raises StoreError."""
    description = read_json(RunDescription, folder / RUN) if (folder / RUN).is_file() else None
    if description is None or description.family != "gpt2":
        raise StoreError(f"{folder} is not the run of a GPT-2; give the folder that `kamishibai train gpt2` wrote")
    config, weights = read_config("gpt2", description.config), read_safetensors(folder / WEIGHTS)
    tokenizer = read_tokenizer("bpe", folder / TOKENIZER)
    if not isinstance(config, Gpt2Config) or not isinstance(tokenizer, BpeTokenizer):
        raise StoreError(f"{folder} does not hold a GPT-2")
    if faults := weight_faults(config, weights):
        raise StoreError(f"{folder} cannot teach: {'; '.join(faults)}")
    teacher = Gpt2(config)
    teacher.load_state_dict(weights)
    return teacher, tokenizer


def halved(teacher: Gpt2, dropout: float) -> Gpt2:
    """Every other block of a teacher, the first among them; a single block is kept."""
    config = replace(teacher.config, layers=max(1, teacher.config.layers // 2))
    student = Gpt2(config, dropout)
    weights = {name: weight for name, weight in teacher.state_dict().items() if not name.startswith("blocks.")}
    for block in range(config.layers):
        taught = teacher.get_submodule(f"blocks.{2 * block if teacher.config.layers > 1 else 0}").state_dict()
        weights |= {f"blocks.{block}.{name}": weight for name, weight in taught.items()}
    student.load_state_dict({name: weight.clone() for name, weight in weights.items()})
    return student

"""The run folder: what training writes and export reads.

run.json             a RunDescription
weights.safetensors  fp32 tensors by the names of the family's module in models/
tokenizer.json       for text and classifiers, as in a bundle
held_out.txt         for text, if there is any: text that was kept from training, for export to judge variants by
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from contracts.bundle import Family, Task
from contracts.labels import Labels
from contracts.prompt_fields import PromptFields
from contracts.tokenizers import TokenizerKind

RUN = "run.json"
HELD_OUT = "held_out.txt"


class RunDescription(BaseModel):
    """How a model was trained, and what is needed to run it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    family: Family
    task: Task | Literal["masked"]  # the latter is language that a classifier begins with; it is not served
    config: dict[str, Any]  # the family's own; goes into the manifest as it is
    tokenizer: TokenizerKind | None = None
    hyperparameters: dict[str, Any]
    metrics: dict[str, float]
    example_prompt: str | None = None
    prompt_fields: PromptFields | None = None
    labels: Labels | None = None  # of a classifier

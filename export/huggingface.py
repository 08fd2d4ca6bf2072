"""A Hugging Face GPT-2 checkpoint folder becomes a bundle."""

from __future__ import annotations

from pathlib import Path

from contracts.bundle import Bundle
from contracts.prompt_fields import PromptFields
from contracts.store import Store
from export.draft import Draft
from export.formats import Wishes
from models.pretrained.gpt2 import read_gpt2
from models.pretrained.source import Source

EXAMPLE_PROMPT = "Once upon a time"


def import_gpt2(
    folder: Path,
    store: Store,
    name: str,
    prompt_fields: PromptFields | None = None,
    wishes: Wishes | None = None,
) -> Bundle:
    """The next version of model `name`, from what `read_gpt2` reads in `folder`. Raises StoreError."""
    source = Source(folder)
    found = read_gpt2(source)
    draft = Draft(
        config=found.config,
        weights=found.weights,
        tokenizer=found.tokenizer,
        example_prompt=EXAMPLE_PROMPT,
        provenance={"source": "huggingface", "sha256": source.digests},
        prompt_fields=prompt_fields,
    )
    return draft.publish(store, name, wishes)

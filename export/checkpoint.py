"""A Hugging Face checkpoint folder, of whatever family, becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from contracts.bundle import Bundle
from contracts.errors import StoreError
from contracts.labels import Activation
from contracts.prompt_fields import PromptFields
from contracts.store import Store
from export.formats import Wishes
from export.huggingface import import_gpt2
from export.huggingface_bert import import_classifier
from models.pretrained.source import Source, read_json


class _Kind(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    model_type: Literal["gpt2", "bert", "roberta"]


def import_checkpoint(
    folder: Path,
    store: Store,
    name: str,
    prompt_fields: PromptFields | None = None,
    activation: Activation | None = None,
    wishes: Wishes | None = None,
) -> Bundle:
    """The next version of model `name`: GPT-2, which may have prompt fields, or a classifier, whose activation may be
    given. Raises StoreError for other families, for what the family has not, and for damaged files."""
    if read_json(_Kind, Source(folder).file("config.json")).model_type == "gpt2":
        if activation is not None:
            raise StoreError(f"{folder} holds a GPT-2, which has no labels; leave --activation out")
        return import_gpt2(folder, store, name, prompt_fields, wishes)
    if prompt_fields is not None:
        raise StoreError(f"{folder} holds a classifier, which writes no text; leave --fields out")
    return import_classifier(folder, store, name, activation, wishes)

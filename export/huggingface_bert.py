"""A Hugging Face BERT or RoBERTa checkpoint for sequence classification becomes a bundle."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from contracts.bundle import Bundle
from contracts.errors import StoreError
from contracts.labels import Activation, Labels
from contracts.requests import describe
from contracts.store import Store
from export.draft import Draft
from export.formats import Wishes
from models.pretrained.bert import read_classifier
from models.pretrained.source import Source

EXAMPLE_TEXT = "Once upon a time"
THRESHOLDS: dict[Activation, float] = {"sigmoid": 0.5, "softmax": 0.0}


def import_classifier(
    folder: Path, store: Store, name: str, activation: Activation | None = None, wishes: Wishes | None = None
) -> Bundle:
    """The next version of model `name`, from what `read_classifier` reads in `folder`.

    `activation` is by default what transformers' pipeline applies. Raises StoreError.
    """
    source = Source(folder)
    found = read_classifier(source)
    chosen = activation or found.activation
    try:
        labels = Labels(names=found.names, activation=chosen, threshold=THRESHOLDS[chosen])
    except ValidationError as error:
        raise StoreError(f"id2label of config.json cannot be used: {describe(error)}") from None
    draft = Draft(
        config=found.config,
        weights=found.weights,
        tokenizer=found.tokenizer,
        example_prompt=EXAMPLE_TEXT,
        provenance={"source": "huggingface", "sha256": source.digests},
        labels=labels,
    )
    return draft.publish(store, name, wishes)

"""A run folder of ours becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contracts.bundle import TOKENIZER, WEIGHTS, Bundle, Family
from contracts.errors import StoreError
from contracts.run import RUN, RunDescription
from contracts.store import Store
from contracts.tokenizers import read_tokenizer
from export.draft import Config, Draft
from export.source import Source, read_json
from export.weights import read_safetensors
from models.dcgan import DcganConfig
from models.gpt2 import Gpt2Config
from models.lstm import LstmConfig


def export_run(run: Path, store: Store, name: str) -> Bundle:
    """The next version of model `name`, from what training left in `run`.

    Raises StoreError for a folder that is not a run or whose weights do not fit its config.
    """
    source = Source(run)
    description = read_json(RunDescription, source.file(RUN))
    config = _config(description.family, description.config)
    weights = read_safetensors(source.file(WEIGHTS))
    kind = description.tokenizer
    draft = Draft(
        config=config,
        weights=weights,
        tokenizer=read_tokenizer(kind, source.file(TOKENIZER)) if kind else None,
        example_prompt=description.example_prompt,
        provenance={
            "source": "run",
            "sha256": source.digests,
            "hyperparameters": description.hyperparameters,
            "metrics": description.metrics,
        },
    )
    return draft.publish(store, name)


def _config(family: Family, values: dict[str, Any]) -> Config:
    readers: dict[Family, type[LstmConfig] | type[Gpt2Config] | type[DcganConfig]]
    readers = {"lstm": LstmConfig, "gpt2": Gpt2Config, "dcgan": DcganConfig}
    try:
        return readers[family].from_manifest(values)
    except (TypeError, ValueError, KeyError) as error:
        raise StoreError(f"the config {values} does not fit the family {family!r}: {error}") from None

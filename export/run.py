"""A run folder of ours becomes a bundle."""

from __future__ import annotations

from pathlib import Path

from contracts.bundle import REPORTS, TOKENIZER, WEIGHTS, Bundle
from contracts.errors import StoreError
from contracts.run import HELD_OUT, RUN, RunDescription
from contracts.store import Store
from contracts.tokenizers import read_any_tokenizer
from export.draft import Draft
from export.formats import Wishes
from models.pretrained.source import Source, read_json, read_text
from models.weights import read_config, read_safetensors

MOST_REPORT_BYTES = 16 << 20  # a larger picture is no look at a glance, and a worker checks its hash before it loads


def export_run(run: Path, store: Store, name: str, wishes: Wishes | None = None) -> Bundle:
    """The next version of model `name`, from what training left in `run`.

    Raises StoreError for a folder that is not a run, whose weights do not fit its config, and for variants that cannot
    be.
    """
    source = Source(run)
    description = read_json(RunDescription, source.file(RUN))
    if description.task == "masked":
        raise StoreError(f"{run} holds the language that a classifier began with; export the run itself: {run.parent}")
    config = read_config(description.family, description.config)
    weights = read_safetensors(source.file(WEIGHTS))
    kind = description.tokenizer
    draft = Draft(
        config=config,
        weights=weights,
        tokenizer=read_any_tokenizer(kind, source.file(TOKENIZER)) if kind else None,
        example_prompt=description.example_prompt,
        provenance={
            "source": "run",
            "sha256": source.digests,
            "hyperparameters": description.hyperparameters,
            "metrics": description.metrics,
        },
        prompt_fields=description.prompt_fields,
        labels=description.labels,
        trained=description.metrics.get("steps", 0) > 0,
        held_out=read_text(source.file(HELD_OUT)) if kind and source.has(HELD_OUT) else None,
        reports=_reports(run),
    )
    return draft.publish(store, name, wishes)


def _reports(run: Path) -> tuple[Path, ...]:
    """What the training has drawn for people: curves, an animation, and the newest grid of samples."""
    drawn = [path for path in sorted(run.iterdir()) if path.suffix in REPORTS]
    drawn += sorted((run / "samples").glob("epoch-*.png"))[-1:]
    return tuple(path for path in drawn if path.is_file() and path.stat().st_size <= MOST_REPORT_BYTES)

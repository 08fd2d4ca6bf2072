"""`kamishibai evaluate`: how good what a model has written is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.devices import devices
from cli.tables import print_table
from contracts.errors import InvalidRequest
from contracts.prompt_fields import PromptFields
from contracts.store import Store, split_name
from models.pretrained.source import read_text
from training.evaluation.dumps import FORMATS, read_dumps
from training.evaluation.embedding import Encoder
from training.evaluation.evaluation import evaluate
from training.evaluation.folder import PAGE, check_folder, write_report
from training.evaluation.perplexity import perplexity_of
from training.evaluation.report import Perplexity, Report, SettingReport
from training.evaluation.training_texts import read_training_texts


def evaluate_text(
    dumps: tuple[Path, ...],
    against: Path,
    output: Path,
    encoder: str | None,
    formats: tuple[str, ...],
    device: str,
    **held_out: Any,
) -> None:
    """Raises StoreError, InvalidRequest."""
    check_folder(output)
    device = devices(device)[0]
    lines = read_dumps(dumps, [PromptFields.from_format(text) for text in formats] or FORMATS)
    training = read_training_texts(against)
    report = evaluate(
        lines,
        training,
        Encoder(encoder, device) if encoder else None,
        training_file=against.name,
        perplexity=_perplexity(device, **held_out),
        show_progress=True,
    )
    write_report(output, report)
    _tell(report)
    click.echo(f"{output / PAGE}: {sum(s.texts for s in report.settings):,} texts against {len(training):,}")


def _perplexity(device: str, model: str | None, store: Path, text: Path | None) -> Perplexity | None:
    if model is None and text is None:
        return None
    if model is None or text is None:
        raise InvalidRequest("perplexity needs both --model and --text: which model, and a text it was not trained on")
    bundle = Store(store).open(*split_name(model))
    return perplexity_of(bundle, read_text(text), device, show_progress=True)


def _tell(report: Report) -> None:
    measures = list(report.highest)
    head = ("SOURCE", "TEMPERATURE", "TOP-P", "TEXTS", "BROKEN", "WORDS", *(name.upper() for name in measures))
    rows = [
        _row(setting, [_number(s.mean) if (s := setting.highest.get(m)) else "" for m in measures])
        for setting in report.settings
    ]
    print_table([(*head, "COPIES", "DISTINCT-2", "SELF-BLEU"), *rows])
    for measure in measures:
        click.echo(f"mean highest similarity ({measure}): {report.highest[measure].mean:.3f}")
    if report.encoder is None:
        click.echo("similarity of meaning was left out; --encoder names a sentence encoder", err=True)
    if found := report.perplexity:
        click.echo(
            f"perplexity of {found.model}: {found.perplexity:.2f} ({found.nats_per_token:.3f} nats per token,"
            f" {found.nats_per_character:.3f} per character, {found.tokens:,} tokens)"
        )


def _row(setting: SettingReport, similarities: list[str]) -> tuple[str, ...]:
    return (
        setting.source,
        f"{setting.setting.temperature:g}",
        "off" if setting.setting.top_p is None else f"{setting.setting.top_p:g}",
        f"{setting.texts:,}",
        f"{setting.broken_share:.1%}",
        f"{setting.words.mean:.1f}" if setting.words else "",
        *similarities,
        f"{setting.copies:,}",
        _number(setting.diversity.distinct_2),
        _number(setting.diversity.self_bleu),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"

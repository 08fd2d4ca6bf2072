"""`kamishibai dump`: many texts of a model, a file for each way of drawing them."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cli.api_client import ApiClient
from cli.dump_folder import DumpFolder, check_new
from cli.dump_plan import Plan, PlannedText, WritingModel, settings
from cli.dump_prompts import Beginnings
from cli.dump_server import ServerWriter
from cli.dump_writer import Texts, Writer, Written
from contracts.errors import InvalidRequest


def dump(
    model: str,
    output: Path,
    plain: bool,
    genres: str | None,
    fields: tuple[str, ...],
    records: Path | None,
    prompts: Path | None,
    samples: int,
    temperatures: str,
    top_ps: str,
    max_tokens: int,
    seed: int,
    **runner: Any,
) -> None:
    """`runner` says where the model runs. Raises InvalidRequest, StoreError, NotReady, EngineFailed, OSError."""
    check_new(output)
    ways = settings(temperatures, top_ps)
    beginnings = Beginnings.read(genres, fields, records, prompts)
    writer = _writer(model, **runner)
    plan = Plan(ways, beginnings.of(writer.model), samples, max_tokens, seed)
    started = time.monotonic()
    with DumpFolder(output, plan.texts_per_file, plain) as folder:
        try:
            _fill(folder, writer, plan)
        except KeyboardInterrupt:
            click.echo(f"\nstopped: {folder.files} of {len(ways)} files have been written, each whole", err=True)
            raise
    rate = len(ways) * plan.texts_per_file / (time.monotonic() - started)
    each = f"{len(ways)} files of {plan.texts_per_file:,} texts each"
    click.echo(f"{output}: {each} by {writer.model.name}, {rate:.1f} texts/s")


def _writer(
    model: str,
    server: str | None,
    api_key: str | None,
    store: Path,
    device: str,
    variant: str | None,
    kv_bytes: int | None,
) -> Writer:
    if server is None:
        from cli.dump_local import local_writer  # torch, without which a server is asked at once

        return local_writer(model, store, device, variant, kv_bytes)
    for option, value in (("--variant", variant), ("--kv-memory", kv_bytes)):
        if value is not None:
            raise InvalidRequest(f"{option} is for a model that is run here; with --server leave it out")
    return ServerWriter(ApiClient(server, api_key), model)


def _fill(folder: DumpFolder, writer: Writer, plan: Plan) -> None:
    with closing(_on_a_bar(writer, plan)) as texts:
        for text, written in texts:
            folder.put(text.setting.name, text.line, _line(text, written, plan, writer.model))


def _on_a_bar(writer: Writer, plan: Plan) -> Texts:
    """The texts as they come, on a bar with their rate."""
    total = len(plan.settings) * plan.texts_per_file
    with (
        tqdm(total=total, unit=" texts", desc=writer.model.name, disable=None, leave=False) as bar,
        closing(writer.write(plan)) as texts,
    ):
        for each in texts:
            yield each
            bar.update()


def _line(text: PlannedText, written: Written, plan: Plan, model: WritingModel) -> dict[str, Any]:
    """What a file says of a text."""
    temperature, top_p = text.setting.temperature, text.setting.top_p
    return {
        "text": written.text,
        "fields": written.fields,
        "settings": {"temperature": temperature, "top_p": top_p, "max_tokens": plan.max_tokens},
        "model": model.name,
        "fingerprint": written.fingerprint,
        "seed": text.seed,
        "finish_reason": written.finish_reason,
    }

"""`kamishibai generate`: one request in this process."""

from __future__ import annotations

import io
import secrets
import sys
from pathlib import Path
from typing import Any

import click
from PIL import Image
from pydantic import ValidationError

from cli.devices import devices
from contracts.bundle import DEFAULT_VARIANT, Bundle
from contracts.errors import EngineFailed, InvalidRequest, StoreError
from contracts.requests import ImageRequest, TextRequest, describe
from contracts.settings import DEFAULT_KV_BYTES
from contracts.store import Store, split_name
from workers.local import LocalModel

# Options that are fields of the request by the same name.
SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "length_penalty",
    "min_tokens",
)


def generate(model: str, store: Path, device: str, variant: str | None, seed: int | None, **options: Any) -> None:
    """Text appears as it comes; pictures go to a file. Raises StoreError, InvalidRequest, EngineFailed."""
    bundle = Store(store).open(*split_name(model))
    if bundle.manifest.task == "classify":
        raise InvalidRequest(f"{model} writes nothing, it labels texts; use it with: kamishibai classify {model} TEXT")
    local = load(bundle, devices(device)[0], variant)
    seed = secrets.randbits(31) if seed is None else seed
    if bundle.manifest.task == "text":
        write_text(local, seed, **options)
    else:
        draw_pictures(local, seed, options["count"], options["out"] or Path(f"{bundle.manifest.name}-{seed}.png"))


def load(bundle: Bundle, device: str, variant: str | None = None, kv_bytes: int | None = None) -> LocalModel:
    """Warns of a variant that misses its bounds. Raises StoreError, also for a device that is not here."""
    chosen = bundle.variant(variant or DEFAULT_VARIANT)
    if chosen.forced:
        click.secho(f"warning: {chosen.name} misses its bounds: {'; '.join(chosen.faults)}", fg="yellow", err=True)
    try:
        return LocalModel(bundle, chosen.name, device, kv_bytes or DEFAULT_KV_BYTES)
    except (RuntimeError, AssertionError, EngineFailed) as error:  # a device that is not here or is full
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise StoreError(f"{bundle.manifest.name} cannot be run on {device}: {reason}; try --device cpu") from None


def write_text(local: LocalModel, seed: int, prompt: str | None, max_tokens: int, **options: Any) -> None:
    tokens = local.bundle.tokenizer().encode(prompt or "")
    if not tokens:
        name = local.bundle.manifest.name
        raise InvalidRequest(f"{name} goes on from a text; give it one with --prompt that holds something it can read.")
    try:
        request = TextRequest(
            target=local.bundle.target(),
            seed=seed,
            prompt_tokens=tuple(tokens),
            max_tokens=max_tokens,
            stop=tuple(options["stop"]),
            **{name: options[name] for name in SAMPLING},
        )
    except ValidationError as error:
        raise InvalidRequest(describe(error)) from None
    given = (prompt or "").encode(errors="replace").decode()  # bytes of the command line that are not UTF-8 become "?"
    unshown = [given]  # until the model has taken the request

    def show(text: str) -> None:
        sys.stdout.write("".join(unshown) + text)
        sys.stdout.flush()
        unshown.clear()

    local.text(request, on_text=show)
    click.echo()
    click.secho(f"seed {seed}", fg="bright_black", err=True)


def draw_pictures(local: LocalModel, seed: int, count: int, out: Path) -> None:
    """One PNG; several pictures are tiled into a square."""
    try:
        request = ImageRequest(target=local.bundle.target(), seed=seed, count=count)
    except ValidationError as error:
        raise InvalidRequest(describe(error)) from None
    pictures = [Image.open(io.BytesIO(file)) for file in local.pictures(request)]
    columns = next(columns for columns in range(1, count + 1) if columns * columns >= count)
    width, height = pictures[0].size
    sheet = Image.new(pictures[0].mode, (columns * width, -(-count // columns) * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    sheet.save(out, "PNG")
    click.echo(f"{out}: {count} picture{'s' if count > 1 else ''} of {width}x{height}, seed {seed}")

"""`kamishibai generate`: one request in this process."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from cli.devices import devices
from contracts.bundle import DEFAULT_VARIANT, Bundle
from contracts.errors import EngineFailed, InvalidRequest, StoreError
from contracts.requests import ImageRequest, OutputFormat, PictureLayout, TextRequest, describe
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

# What a file becomes, by the ending of its name.
_KINDS: dict[str, tuple[PictureLayout, OutputFormat]] = {
    ".png": ("grid", "png"),
    ".gif": ("animation", "gif"),
    ".webp": ("animation", "webp"),
    ".npy": ("array", "npy"),
}


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
        out = options["out"] or Path(f"{bundle.manifest.name}-{seed}.png")
        draw_pictures(local, seed, options["count"], out, options["truncation"], options["to_seed"], options["frames"])


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


def draw_pictures(
    local: LocalModel, seed: int, count: int, out: Path, truncation: float, to_seed: int | None, frames: int
) -> None:
    """One file of all: a PNG that tiles them into a square, an animation or an array, as its name ends."""
    kind = _KINDS.get(out.suffix.lower())
    if kind is None:
        raise InvalidRequest(f"{out} has none of the endings of pictures; end it with {', '.join(_KINDS)}.")
    try:
        request = ImageRequest(
            target=local.bundle.target(),
            seed=seed,
            count=count if to_seed is None else frames,
            truncation=truncation,
            to_seed=to_seed,
            layout=kind[0],
            output_format=kind[1],
        )
    except ValidationError as error:
        raise InvalidRequest(describe(error)) from None
    (file,) = local.pictures(request)
    out.write_bytes(file)
    width, height = local.bundle.manifest.limits.picture_pixels or (0, 0)
    seeds = f"seed {seed}" if to_seed is None else f"from seed {seed} to {to_seed}"
    click.echo(f"{out}: {request.count} picture{'s' if request.count > 1 else ''} of {width}x{height}, {seeds}")

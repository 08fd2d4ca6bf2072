"""`kamishibai models`: what the store holds."""

from __future__ import annotations

from pathlib import Path

import click

from cli.devices import devices
from contracts.errors import StoreError
from contracts.store import Store, split_name


def show_probe(root: Path, name: str, device: str, variant: str | None) -> None:
    """The probe's matrix. Raises StoreError."""
    from cli.generate import load

    local = load(Store(root).open(*split_name(name)), devices(device)[0], variant)
    click.echo(f"{name}@{local.bundle.manifest.version} {local.fingerprint} on {devices(device)[0]}")
    by_size: dict[int, list[tuple[int, bool]]] = {}
    for (size, place), equal in sorted(local.probe.equal.items()):
        by_size.setdefault(size, []).append((place, equal))
    for size, places in by_size.items():
        shown = "  ".join(f"{place}: {'equal' if equal else 'DIFFERS'}" for place, equal in places)
        click.echo(f"batch {size:>3}   place {shown}")
    click.echo("batch invariant: " + ("yes" if local.probe.batch_invariant else "no"))


def list_models(root: Path) -> None:
    store = Store(root)
    rows = [("MODEL", "VERSION", "TASK", "FAMILY", "SIZE", "VARIANTS", "LIMITS")]
    for name in store.names():
        for version in store.versions(name):
            try:
                manifest = store.open(name, version, only=()).manifest
            except StoreError as error:
                click.secho(f"{name}@{version} cannot be used: {error}", fg="red", err=True)
                continue
            size = sum(entry.bytes for entry in manifest.files.values()) / 1e6
            limits = manifest.limits.model_dump(exclude_none=True)
            shown = ", ".join(f"{key} {value}" for key, value in limits.items())
            variants = ", ".join(variant.name for variant in manifest.variants)
            shown_version = f"{version} (latest)" if version == store.latest(name) else str(version)
            rows.append((name, shown_version, manifest.task, manifest.family, f"{size:.1f} MB", variants, shown))
    if len(rows) == 1:
        click.echo(f"{root} holds no model. `kamishibai demo` makes three small ones.")
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

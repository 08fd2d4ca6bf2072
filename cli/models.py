"""`kamishibai models`: what the store holds."""

from __future__ import annotations

from pathlib import Path

import click

from cli.devices import devices
from cli.tables import print_table
from contracts.bundle import DEFAULT_VARIANT, Parity, Variant
from contracts.errors import StoreError
from contracts.store import Store, split_name


def show_probe(root: Path, name: str, device: str, variant: str | None) -> None:
    """The probe's matrix. Raises StoreError."""
    from cli.generate import load

    local = load(Store(root).open(*split_name(name)), devices(device)[0], variant)
    click.echo(
        f"{local.bundle.manifest.name}@{local.bundle.manifest.version} {local.fingerprint} on {devices(device)[0]}"
    )
    by_size: dict[int, list[tuple[int, bool]]] = {}
    for (size, place), equal in sorted(local.probe.equal.items()):
        by_size.setdefault(size, []).append((place, equal))
    for size, places in by_size.items():
        shown = "  ".join(f"{place}: {'equal' if equal else 'DIFFERS'}" for place, equal in places)
        click.echo(f"batch {size:>3}   place {shown}")
    click.echo("batch invariant: " + ("yes" if local.probe.batch_invariant else "no"))


def list_models(root: Path) -> None:
    store = Store(root)
    rows: list[tuple[str, ...]] = [("MODEL", "VERSION", "TASK", "FAMILY", "SIZE", "VARIANTS", "LIMITS")]
    for name in store.names():
        chosen = store.chosen(name)
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
            latest = f" (latest, as {chosen.variant})" if chosen and chosen.variant else " (latest)"
            shown_version = f"{version}{latest if chosen and chosen.version == version else ''}"
            rows.append((name, shown_version, manifest.task, manifest.family, f"{size:.1f} MB", variants, shown))
    if len(rows) == 1:
        click.echo(f"{root} holds no model. `kamishibai demo` makes four small ones.")
        return
    print_table(rows)


def show_model(root: Path, name: str) -> None:
    """The variants of a version, the latest by default, with what was measured of each. Raises StoreError."""
    manifest = Store(root).open(*split_name(name), only=()).manifest
    click.echo(f"{manifest.name}@{manifest.version}: {manifest.family}, {manifest.task}")
    rows: list[tuple[str, ...]] = [("VARIANT", "SIZE", *PARITY_COLUMNS, "INVARIANT", "BOUNDS")]
    for variant in manifest.variants:
        size = f"{sum(manifest.files[file].bytes for file in variant.files) / 1e6:.1f} MB"
        rows.append((variant.name, size, *parity_cells(variant.parity), *_verdict(variant)))
    print_table(rows)
    measured = [variant.parity for variant in manifest.variants if variant.parity]
    if manifest.task == "text" and any(parity.perplexity_ratio is None for parity in measured):
        click.echo(
            "perplexity was not judged: export or import it again with --text FILE, a text that it was not trained on"
        )
    for variant in manifest.variants:
        if variant.forced:
            click.secho(
                f"warning: {variant.name} is here by force and is served with --variant {variant.name} alone: "
                + "; ".join(variant.faults),
                fg="yellow",
            )
    for left_out, reason in manifest.left_out.items():
        click.echo(f"{left_out} was left out: {reason}")


PARITY_COLUMNS = ("MAX DIFF", "MEAN DIFF", "MEAN KL", "EQUAL", "PERPLEXITY", "PSNR")


def parity_cells(parity: Parity | None) -> tuple[str, ...]:
    """What `PARITY_COLUMNS` say of a variant; "-" is what does not apply or could not be judged."""
    if parity is None:
        return ("-",) * len(PARITY_COLUMNS)
    return (
        f"{parity.max_difference:.1e}",
        f"{parity.mean_difference:.1e}",
        _shown(parity.mean_kl, ".1e"),
        _shown(parity.equal_labels_share if parity.equal_greedy_share is None else parity.equal_greedy_share, ".1%"),
        _shown(parity.perplexity_ratio, ".4f"),
        _shown(parity.psnr_db, ".1f"),
    )


def _shown(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def _verdict(variant: Variant) -> tuple[str, str]:
    """Batch invariance and bounds."""
    parity = variant.parity
    if parity is None:
        return "-", "reference" if variant.name == DEFAULT_VARIANT else "not measured"
    kept = "missed" if parity.faults else "kept" if parity.trained else "kept (untrained weights)"
    return "yes" if parity.batch_invariant else "NO", kept

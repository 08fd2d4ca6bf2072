"""`kamishibai tune`: measures the variants of a model on this machine, and records the fastest for its workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import click
import torch
from tqdm import tqdm

from cli.devices import device_class, devices
from cli.tables import print_table
from contracts.bundle import DEFAULT_VARIANT, Bundle
from contracts.errors import StoreError, from_record
from contracts.requests import ImageRequest, Request, TextRequest
from contracts.store import Store, split_name
from contracts.tuning import Choice, write_choice
from workers.engines import Done, Engine, Failed
from workers.engines.loading import example_request, load_model

BATCH_SIZES = (1, 8, 32)
TOKENS = 32  # that each text of a measurement writes
PICTURES = 4  # of each order

Rates = dict[int, float]  # units per second, by batch size


def tune(root: Path, model: str, device: str, rounds: int) -> None:
    """Print a table and record the choice. Raises StoreError."""
    store = Store(root)
    name, version = split_name(model)
    bundle = store.open(name, version)
    version = bundle.manifest.version
    where, kind = devices(device)[0], device_class(devices(device)[0])
    click.echo(f"{name}@{version} on {kind}", err=True)
    left_out: dict[str, str] = {}
    engines = dict(_engines(bundle, where, left_out))
    rates = _measure(bundle, engines, rounds)
    means = {variant: geometric_mean(found.values()) for variant, found in rates.items()}
    _show(rates, left_out)
    best = max(means, key=lambda variant: means[variant])
    choice = Choice(variant=best, rates=means, measured_at=int(time.time()))
    write_choice(store, name, version, kind, choice)
    gain = f", {choice.gain:.2f} times as fast as {DEFAULT_VARIANT}" if choice.gain and best != DEFAULT_VARIANT else ""
    click.secho(f"workers on {kind} run {name}@{version} as {best} from now on{gain}", bold=True)


def _engines(bundle: Bundle, device: str, left_out: dict[str, str]) -> Iterator[tuple[str, Engine[Any]]]:
    """The variants that may be chosen, loaded; why the others may not goes into `left_out`. Raises StoreError if there
    is none."""
    found = 0
    for variant in bundle.manifest.variants:
        if variant.forced:
            left_out[variant.name] = "misses its bounds: " + "; ".join(variant.faults)
            continue
        try:
            loaded = load_model(bundle, variant.name, torch.device(device))
        except (StoreError, RuntimeError) as error:
            left_out[variant.name] = str(error).splitlines()[0]
            continue
        if not loaded.probe.batch_invariant:
            left_out[variant.name] = "gives other bits in other batches here"
            continue
        found += 1
        yield variant.name, loaded.engine
    if not found:
        reasons = "; ".join(f"{variant} {reason}" for variant, reason in left_out.items())
        raise StoreError(f"{bundle.path} has no variant that can be chosen on {device}: {reasons}")


def _measure(bundle: Bundle, engines: dict[str, Engine[Any]], rounds: int) -> dict[str, Rates]:
    """Medians over rounds, in each of which all variants have their turn: what disturbs one, disturbs all."""
    seen: dict[str, dict[int, list[float]]] = {variant: {size: [] for size in BATCH_SIZES} for variant in engines}
    with tqdm(total=rounds * len(engines) * len(BATCH_SIZES), unit="run", leave=False, disable=None) as bar:
        for _ in range(rounds):
            for size in BATCH_SIZES:
                for variant, engine in engines.items():
                    bar.set_postfix_str(f"{variant}, {size} at once")
                    seen[variant][size].append(_rate(engine, _requests(bundle, variant, size)))
                    bar.update()
    return {variant: {size: median(found) for size, found in sizes.items()} for variant, sizes in seen.items()}


def _requests(bundle: Bundle, variant: str, count: int) -> list[Request]:
    """The bundle's example, drawn with as many seeds."""
    example = example_request(bundle, variant)
    changes: dict[str, Any] = {}
    if isinstance(example, TextRequest):
        changes = {"max_tokens": TOKENS, "ignore_eos": True}
    elif isinstance(example, ImageRequest):
        changes = {"count": PICTURES}
    return [example.model_copy(update={"seed": seed} | changes) for seed in range(count)]


def _rate(engine: Engine[Any], requests: list[Request]) -> float:
    """Units per second. Raises EngineFailed."""
    began, units, ended = time.perf_counter(), 0, 0
    waiting = dict(enumerate(requests))
    while ended < len(requests):
        for number, request in list(waiting.items()):
            if engine.fits(request):
                engine.add(str(number), waiting.pop(number))
        call = engine.collect(engine.launch())
        units += call.units
        for event in call.events:
            if isinstance(event, Failed):
                raise from_record(event.record)
            ended += isinstance(event, Done)
    return units / (time.perf_counter() - began)


def _show(rates: dict[str, Rates], left_out: dict[str, str]) -> None:
    reference = rates.get(DEFAULT_VARIANT)
    rows = [("UNITS/S", *(f"{size} at once" for size in BATCH_SIZES), "")]
    for variant, found in rates.items():
        cells = [
            f"{rate:,.0f}" + (f" ({rate / reference[size]:.2f}x)" if reference else "") for size, rate in found.items()
        ]
        rows.append((variant, *cells, ""))
    rows += [(variant, *("-" for _ in BATCH_SIZES), reason) for variant, reason in left_out.items()]
    print_table(rows)

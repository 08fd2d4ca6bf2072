"""`kamishibai doctor`: what this machine has for the product, and what stands in its way.

Each check gives findings; a finding that is a fault names its remedy, and makes the exit status 1.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from redis.exceptions import RedisError

from cli.devices import device_class, devices, driver_version
from cli.finding import Finding, Findings, Level
from cli.redis_findings import redis_findings
from cli.up import address_fault
from contracts.connection import connect
from contracts.errors import StoreError
from contracts.settings import Settings, from_environment
from contracts.store import Store
from workers.embedded_redis import find_server, running_url

FEWEST_FREE_BYTES = 1 << 30

_MARKS: dict[Level, tuple[str, str]] = {"ok": ("✓", "green"), "note": ("!", "yellow"), "fault": ("✗", "red")}


def examine(store: Path, redis_url: str | None) -> None:
    """Print all findings. Raises click's Exit(1) if one is a fault, ValueError for settings that are none."""
    settings = from_environment(store=store, redis_url=redis_url or running_url(store))
    faults = 0
    for check in CHECKS:
        click.secho(check.__doc__ or "", bold=True)
        for level, text in check(settings):
            mark, colour = _MARKS[level]
            click.echo(f"  {click.style(mark, fg=colour)} {text}")
            faults += level == "fault"
    if faults:
        click.secho(f"{faults} thing{'s' if faults > 1 else ''} to mend", fg="red")
        raise click.exceptions.Exit(1)
    click.secho("nothing to mend", fg="green")


def _machine(_: Settings) -> Findings:
    """Machine"""
    yield Finding("ok", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    found = devices("auto")
    for device in found:
        yield Finding("ok", f"{device}: {device_class(device)}")
    if driver := driver_version():
        yield Finding("ok", f"NVIDIA driver {driver}")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", f"{cpus} processors may be used")


def _torch(_: Settings) -> Findings:
    """PyTorch"""
    import torch

    yield Finding("ok", f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    wanted = [device for device in devices("auto") if device != "cpu"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            yield Finding("ok", f"cuda:{index}: {free >> 20:,} of {total >> 20:,} MiB are free")
    elif wanted:
        yield Finding("fault", f"{', '.join(wanted)} cannot be used by this torch; install one built for CUDA")


def _onnx_runtime(_: Settings) -> Findings:
    """ONNX Runtime"""
    from models.runtimes.onnx_session import BOTH_BUILDS, installed_builds

    here = installed_builds()
    if len(here) > 1:
        yield Finding("fault", BOTH_BUILDS)
        return
    if not here:
        yield Finding("note", "not installed; for its variants: pip install 'kamishibai[cpu]' or 'kamishibai[gpu]'")
        return
    import onnxruntime

    from models.runtimes.onnx import multiplies_int8_exactly

    (name,) = here
    yield Finding("ok", f"{name} {here[name]}: {', '.join(onnxruntime.get_available_providers())}")
    if not multiplies_int8_exactly():
        yield Finding("note", "int8 variants are not served here: they need a processor with VNNI")
    gpus = [device for device in devices("auto") if device != "cpu"]
    if not _version("onnx"):
        yield Finding("note", "`export` writes no ONNX variants without the package onnx")
    elif gpus and name == "onnxruntime-gpu":
        yield _on_gpu(gpus[0])
    if gpus and name == "onnxruntime":
        yield Finding("note", "this is the build for CPUs, and there is a GPU: pip install 'kamishibai[gpu]'")


def _on_gpu(device: str) -> Finding:
    """Whether ONNX Runtime starts there: its list of providers is the same without the libraries that they need."""
    import torch
    from onnx import TensorProto

    from export.onnx_graph import Graph
    from models.runtimes.onnx_session import open_session

    graph = Graph()
    graph.node("Relu", [graph.input("x", TensorProto.FLOAT, [1])], "y")
    graph.output("y", TensorProto.FLOAT, [1])
    with TemporaryDirectory() as folder:
        graph.save(Path(folder) / "doctor.onnx")
        try:
            open_session(Path(folder) / "doctor.onnx", 1, torch.device(device))
        except StoreError as error:
            return Finding("fault", str(error))
    return Finding("ok", f"it runs graphs on {device}")


def _redis(settings: Settings) -> Findings:
    """Redis"""
    try:
        yield Finding("ok", f"`up` would run {find_server()}")
    except StoreError as error:
        yield Finding("note", str(error))
    shown = settings.redis_url.rpartition("@")[2]  # without a password
    try:
        findings = list(
            redis_findings(connect(settings.redis_url), ours=settings.redis_url == running_url(settings.store))
        )
        yield Finding("ok", f"{shown} answers")
        yield from findings
    except RedisError as error:
        yield Finding("note", f"{shown} does not answer ({error}); `up` starts one of its own")


def _address(settings: Settings) -> Findings:
    """Address"""
    place = f"{settings.host}:{settings.port}"
    if (fault := address_fault(settings)) is None:
        yield Finding("ok", f"{place} is free")
    else:
        yield Finding("note", f"{place} cannot be taken ({fault}); a server runs there, or choose a --port")


def _store(settings: Settings) -> Findings:
    """Store"""
    store = Store(settings.store)
    if not store.root.exists():
        yield Finding("note", f"{store.root} does not exist yet; `up` makes it, with demo models")
        return
    free = shutil.disk_usage(store.root).free
    level: Level = "ok" if free >= FEWEST_FREE_BYTES else "fault"
    yield Finding(level, f"{free >> 20:,} MiB are free under {store.root.resolve()}")
    if not os.access(store.root, os.W_OK | os.X_OK):
        yield Finding("fault", f"{store.root} cannot be written to by this user")
    for name in store.names():
        latest = store.latest(name)
        for number in store.versions(name):
            mark = " (latest)" if number == latest else ""
            try:
                variants = ", ".join(store.open(name, number).variants())
                yield Finding("ok", f"{name}@{number}{mark}: {variants}")
            except StoreError as error:
                yield Finding("fault", f"{name}@{number}{mark}: {error}; export again and remove it")
    if not store.names():
        yield Finding("note", "it holds no model; `kamishibai demo` makes four small ones")


CHECKS: tuple[Callable[[Settings], Findings], ...] = (_machine, _torch, _onnx_runtime, _redis, _address, _store)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""`kamishibai up`: Redis, workers and server in one command."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click

from cli.devices import devices
from contracts.errors import StoreError
from contracts.settings import Settings, from_environment
from contracts.store import Store
from workers.embedded_redis import Durability, EmbeddedRedis, store_lock
from workers.processes import python_module
from workers.supervisor import Part, Supervisor

SERVER_STOP_SECONDS = 30.0
WORKER_STOP_SECONDS = 35.0


def run_everything(
    store: Path,
    host: str | None,
    port: int | None,
    redis_url: str | None,
    models: str | None,
    variant: str | None,
    workers: int | None,
    device: str,
    kv_bytes: int | None,
    result_cache_bytes: int | None,
    durability: Durability,
) -> None:
    """Until Ctrl-C or SIGTERM. Raises StoreError, ValueError."""
    with store_lock(store):
        check_address(from_environment(host=host, port=port))
        make_demo_models_if_empty(store)
        embedded = None if redis_url else EmbeddedRedis(store, durability)
        try:
            url = redis_url or (embedded and embedded.url)
            settings = from_environment(
                store=store,
                host=host,
                port=port,
                redis_url=url,
                kv_bytes=kv_bytes,
                result_cache_bytes=result_cache_bytes,
            )
            parts = [*worker_parts(settings, models, variant, workers, device), server_part(settings)]
            if embedded:
                parts.insert(0, Part("redis", embedded.command(), stop_seconds=30.0))
                embedded.start_syncing()
            Supervisor(parts).run(while_running=announce_when_ready(settings))
        finally:
            if embedded:
                embedded.clean_up()


def check_address(settings: Settings) -> None:
    """Raises ValueError that names the remedy where the server could not listen: now, not after a restart loop."""
    if (fault := address_fault(settings)) is not None:
        raise ValueError(
            f"cannot listen on {settings.host}:{settings.port} ({fault}); choose others with --host and --port"
        )


def address_fault(settings: Settings) -> str | None:
    """Why a server could not listen; None if it could."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        return str(error.strerror)
    return None


def make_demo_models_if_empty(store: Path) -> None:
    """In a process of its own: this one stays small for as long as the product runs."""
    if Store(store).names():
        return
    command = [*python_module("cli.main"), "demo", "--store", str(store)]
    made = subprocess.run(command, check=False)  # noqa: S603 - our own command, no shell
    if made.returncode:
        raise StoreError(f"the demo models could not be made (status {made.returncode}); see above")


def worker_parts(
    settings: Settings, models: str | None, variant: str | None, workers: int | None, device: str
) -> list[Part]:
    """One worker per device, or as many as asked for, dealt out over the devices."""
    found = devices(device)
    count = workers or len(found)
    # Several workers on one CPU share its cores instead of fighting for them.
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))} if count > len(found) else {}
    chosen = {"--models": models, "--variant": variant}
    options = [word for option, value in chosen.items() if value for word in (option, value)]
    command = [*python_module("cli.main"), "worker", *options]
    return [
        Part(
            f"worker {index}",
            [*command, "--device", found[index % len(found)]],
            settings.to_environment() | threads,
            stop_seconds=WORKER_STOP_SECONDS,
        )
        for index in range(count)
    ]


def server_part(settings: Settings) -> Part:
    command = [*python_module("cli.main"), "serve"]
    return Part("server", command, settings.to_environment(), stop_seconds=SERVER_STOP_SECONDS)


def announce_when_ready(settings: Settings) -> Callable[[], None]:
    """A function that says once that the product is ready."""
    address = f"http://{settings.host}:{settings.port}"
    started = time.monotonic()
    said = False

    def announce() -> None:
        nonlocal said
        if said or not _is_ready(address):
            return
        said = True
        names = ", ".join(Store(settings.store).names())
        click.secho(f"Ready after {time.monotonic() - started:.1f} s: {address} serves {names}", fg="green", bold=True)
        click.echo("Ctrl-C stops it.")

    return announce


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=2) as answer:  # noqa: S310 - our own http address
            return bool(answer.status == 200)
    except OSError:  # urllib's errors, an answer of 503 among them, are OSErrors
        return False

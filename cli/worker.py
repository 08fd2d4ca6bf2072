"""`kamishibai worker`: one worker parent and its engine child."""

from __future__ import annotations

import socket
import uuid
from functools import partial
from logging.config import dictConfig
from pathlib import Path

from cli.devices import device_class, devices
from cli.store_client import StoreClient
from contracts.connection import connect
from contracts.logs import configuration
from contracts.settings import Settings, from_environment
from contracts.store import Store
from workers.child import Child
from workers.crews import Wanted
from workers.parent import WorkerParent
from workers.supply import Supply
from workers.wanted import WantedModels


def run_worker(
    store: Path,
    redis_url: str | None,
    models: str | None,
    device: str,
    name: str | None,
    kv_bytes: int | None,
    variant: str | None,
    store_from: str | None,
    api_key: str | None,
    candidate: bool,
) -> None:
    """Serve until SIGTERM. Raises StoreError if there is nothing to serve, ValueError for a bad URL of Redis."""
    settings = from_environment(store=store, redis_url=redis_url, kv_bytes=kv_bytes, store_from=store_from)
    name = name or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    dictConfig(configuration(settings, worker=name))
    chosen, redis = devices(device)[0], connect(settings.redis_url)
    local = Store(settings.store)
    supply = Supply(StoreClient(settings.store_from, api_key), local, models) if settings.store_from else None
    if supply:
        supply.begin()
    wanted = WantedModels(local, models, variant, device_class(chosen), redis, name, supply)
    make_child = partial(_make_child, settings, chosen, name)
    ready_file = Path(settings.ready_file) if settings.ready_file else None
    WorkerParent(settings.redis_url, name, wanted, make_child, ready_file, candidate=candidate).run()


def _make_child(settings: Settings, device: str, worker: str, wanted: Wanted) -> Child:
    """A child whose models share the KV cache."""
    cached = sum(bundle.manifest.family == "gpt2" for bundle in wanted.values())
    kv_bytes = settings.kv_bytes // max(1, cached)
    targets = list(wanted)
    return Child(settings.store, targets, device, kv_bytes, settings.step_seconds, settings.load_seconds, worker)

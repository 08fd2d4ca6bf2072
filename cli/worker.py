"""`kamishibai worker`: one worker parent and its engine child."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

from cli.devices import devices
from contracts.bundle import DEFAULT_VARIANT, TOKENIZER, Bundle
from contracts.errors import StoreError
from contracts.requests import Target
from contracts.settings import from_environment
from contracts.store import Store
from workers.child import Child
from workers.parent import WorkerParent


def run_worker(
    store: Path,
    redis_url: str | None,
    models: str | None,
    device: str,
    name: str | None,
    kv_bytes: int | None,
    variant: str | None,
) -> None:
    """Serve until SIGTERM. Raises StoreError if there is nothing to serve, ValueError for a bad URL of Redis."""
    settings = from_environment(store=store, redis_url=redis_url, kv_bytes=kv_bytes)
    bundles = served_bundles(Store(settings.store), models, variant)
    cached = sum(bundle.manifest.family == "gpt2" for bundle in bundles.values())
    child = Child(
        settings.store,
        list(bundles),
        devices(device)[0],
        settings.kv_bytes // max(1, cached),
        settings.step_seconds,
        settings.load_seconds,
    )
    name = name or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    WorkerParent(settings.redis_url, name, bundles, child).run()


def served_bundles(store: Store, models: str | None, variant: str | None) -> dict[Target, Bundle]:
    """The newest version of the models asked for, in the variant asked for where a model has it, else in the default.

    Weights are checked by the engine child. Raises StoreError if there is nothing to serve.
    """
    names = [name.strip() for name in models.split(",")] if models else store.names()
    if not names:
        raise StoreError(f"{store.root} holds no model. `kamishibai demo` makes three small ones.")
    bundles = [store.open(name, only=(TOKENIZER,)) for name in names]
    if variant and not any(variant in bundle.variants() for bundle in bundles):
        found = ", ".join(sorted({name for bundle in bundles for name in bundle.variants()}))
        raise StoreError(f"no model has the variant {variant!r}; there is {found}")
    return {bundle.target(variant if variant in bundle.variants() else DEFAULT_VARIANT): bundle for bundle in bundles}

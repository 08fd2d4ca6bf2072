"""`kamishibai models verify | rollback | rm | prune`: the versions in the store."""

from __future__ import annotations

from pathlib import Path

import click
from redis.exceptions import RedisError

from contracts.connection import connect
from contracts.errors import StoreError
from contracts.jobs import JobQueue
from contracts.settings import from_environment
from contracts.store import Store, split_name
from workers.embedded_redis import running_url


def verify(root: Path, models: tuple[str, ...]) -> None:
    """Check the hash of every file; a damaged version is exit status 1. Raises StoreError."""
    store = Store(root)
    damaged = 0
    for name, version in _chosen(store, models or tuple(store.names())):
        try:
            files = store.open(name, version).manifest.files
            size = sum(entry.bytes for entry in files.values()) / 1e6
            click.echo(f"{name}@{version}: {len(files)} files of {size:.1f} MB are as they were written")
        except StoreError as error:
            damaged += 1
            click.secho(f"{name}@{version}: {error}", fg="red", err=True)
    if damaged:
        click.secho(f"{damaged} damaged; export again, and remove it with: kamishibai models rm", fg="red", err=True)
        raise click.exceptions.Exit(1)


def roll_back(root: Path, model: str, version: int | None) -> None:
    """Raises StoreError."""
    store = Store(root)
    before = store.chosen(model)
    chosen = store.roll_back(model, version)
    click.echo(
        f"{model}@{chosen} is the latest again (it was {model}@{before}). Workers that run load it by themselves."
    )


def remove(root: Path, model: str, sure: bool, redis_url: str | None) -> None:
    """One version, or all of a model. Raises StoreError, also for one that still has jobs."""
    store = Store(root)
    name, version = split_name(model)
    versions = [version for _, version in _chosen(store, (model,))]
    if version is not None:
        store.check_removable(name, version)
    _check_unused(store, name, versions, redis_url)
    shown = ", ".join(f"{name}@{version}" for version in versions)
    if not sure:
        nothing_left = f"; nothing of {name} is left then" if versions == store.versions(name) else ""
        click.confirm(f"Remove {shown} from {root} for good{nothing_left}?", abort=True)
    latest = store.latest(name)
    for version in sorted(versions, key=lambda version: version == latest):  # the latest can only be the last one
        store.remove(name, version)
    click.echo(f"removed {shown}")


def prune(root: Path, models: tuple[str, ...], keep: int, sure: bool, redis_url: str | None) -> None:
    """All but the newest `keep` versions of each model and the latest. Raises StoreError."""
    store = Store(root)
    surplus = {}
    for name in models or tuple(store.names()):
        kept = {*store.versions(name)[-keep:], store.latest(name)}
        surplus[name] = [version for version in store.versions(name) if version not in kept]
        _check_unused(store, name, surplus[name], redis_url)
    shown = [f"{name}@{version}" for name, versions in surplus.items() for version in versions]
    if not shown:
        click.echo(f"nothing to remove: no model has more than {keep} versions")
        return
    if not sure:
        click.confirm(f"Remove {', '.join(shown)} from {root} for good?", abort=True)
    for name, versions in surplus.items():
        for version in versions:
            store.remove(name, version)
    click.echo(f"removed {', '.join(shown)}")


def _chosen(store: Store, models: tuple[str, ...]) -> list[tuple[str, int]]:
    """Names stand for all their versions. Raises StoreError for what is not there."""
    found = []
    for model in models:
        name, version = split_name(model)
        versions = [each for each in store.versions(name) if version in (None, each)]
        if not versions:
            raise StoreError(f"{store.root} has no model {model}; it has {', '.join(store.names()) or 'none'}")
        found += [(name, each) for each in versions]
    return found


def _check_unused(store: Store, name: str, versions: list[int], redis_url: str | None) -> None:
    """Raises StoreError for a version with jobs: what was accepted for it could not run any more.

    Looks into the Redis given, or that of the running `up` of the store; without one nothing runs here.
    """
    url = redis_url or running_url(store.root)
    if url is None:
        return
    jobs = JobQueue(connect(from_environment(redis_url=url).redis_url))
    for version in versions:
        bundle = store.open(name, version, only=())
        queues = [queue for variant in bundle.variants() for queue in bundle.target(variant).queues]
        try:
            count = sum(jobs.unfinished(queues))
        except RedisError as error:
            raise StoreError(f"Redis cannot be asked whether {name}@{version} has jobs ({error})") from None
        if count:
            raise StoreError(f"{name}@{version} has {count} jobs that have not ended; wait for them, or cancel them")

"""`kamishibai keys`: who may ask the servers on one Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from redis.exceptions import RedisError

from cli.tables import print_table
from contracts.api_keys import ApiKeys, Scope
from contracts.connection import connect
from contracts.errors import StoreError
from contracts.settings import from_environment
from workers.embedded_redis import running_url


def create_key(
    name: str,
    scope: Scope,
    jobs_per_minute: int | None,
    unfinished_jobs: int | None,
    store: Path,
    redis_url: str | None,
) -> None:
    """The key goes to standard output, alone, so that a script can keep it. Raises ValueError, StoreError."""
    with _keys(store, redis_url) as keys:
        first = keys.read() is None
        text = keys.create(name, scope, jobs_per_minute=jobs_per_minute, unfinished_jobs=unfinished_jobs)
    click.echo(text)
    click.echo(f"This is the only time that it is shown. It works within a second; scope {scope}.", err=True)
    if first:
        click.echo("It is the first key: from now on every route but health and URLs of pictures needs one.", err=True)


def list_keys(store: Path, redis_url: str | None) -> None:
    """Raises StoreError."""
    with _keys(store, redis_url) as keys:
        found = keys.read()
    if found is None:
        click.echo("There are no API keys; servers are open to whoever reaches them.")
        return
    rows = [("ID", "NAME", "SCOPE", "JOBS/MIN", "UNFINISHED", "CREATED", "REVOKED")]
    for key in sorted(found.values(), key=lambda key: key.created_at):
        rate, unfinished = (str(limit or "-") for limit in (key.jobs_per_minute, key.unfinished_jobs))
        rows.append((key.id, key.name, key.scope, rate, unfinished, _day(key.created_at), _day(key.revoked_at)))
    print_table(rows)


def revoke_key(name_or_id: str, store: Path, redis_url: str | None) -> None:
    """Raises ValueError, StoreError."""
    with _keys(store, redis_url) as keys:
        key = keys.revoke(name_or_id)
    click.echo(f"{key.name} ({key.id}) is revoked; servers refuse it within a second.")


def forget_keys(store: Path, redis_url: str | None) -> None:
    """Raises StoreError."""
    with _keys(store, redis_url) as keys:
        keys.forget_all()
    click.echo("All API keys are forgotten; servers are open to whoever reaches them, unless KAMISHIBAI_KEYS=required.")


@contextmanager
def _keys(store: Path, redis_url: str | None) -> Iterator[ApiKeys]:
    """Of the Redis given, else of the running `up` of the store."""
    settings = from_environment(store=store, redis_url=redis_url or running_url(store))
    try:
        yield ApiKeys(connect(settings.redis_url))
    except RedisError as error:
        message = f"Redis cannot be used ({error}); start `kamishibai up` or give another one with --redis-url"
        raise StoreError(message) from None


def _day(seconds: int | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds is not None else "-"

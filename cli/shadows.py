"""`kamishibai models shadow | promote`: versions under traffic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from redis.exceptions import RedisError

from cli.tables import print_table
from contracts.connection import connect
from contracts.errors import StoreError
from contracts.settings import from_environment
from contracts.store import Store
from server import answers
from server.catalogue import Catalogue
from server.shadow_control import ShadowControl
from workers.embedded_redis import running_url


def begin_shadow(root: Path, name: str, candidate: str, share: float, redis_url: str | None) -> None:
    """Raises StoreError, KamishibaiError."""
    with _control(root, redis_url) as control:
        shadow = control.begin(name, candidate, share)
    click.echo(
        f"{shadow['share']:.1%} of the requests for {shadow['live']} are also run on {shadow['candidate']}."
        f" The comparison: kamishibai models shadow {name}"
    )


def stop_shadow(root: Path, name: str, redis_url: str | None) -> None:
    """Raises StoreError, KamishibaiError."""
    with _control(root, redis_url) as control:
        _print(control.stop(name))


def show_shadow(root: Path, name: str, redis_url: str | None) -> None:
    """Raises StoreError, KamishibaiError."""
    with _control(root, redis_url) as control:
        _print(control.read(name))


def promote(root: Path, name: str, to: str | None, redis_url: str | None) -> None:
    """Raises StoreError, KamishibaiError."""
    with _control(root, redis_url) as control:
        choice = control.promote(name, to)
    chosen = f"{name}@{choice['version']}" + (f"/{choice['variant']}" if choice["variant"] else "")
    click.echo(
        f"{chosen} is what new requests run on (it was {choice['before']}). What was accepted stays where it is;"
        f" `kamishibai models rollback {name}` undoes it."
    )


@contextmanager
def _control(root: Path, redis_url: str | None) -> Iterator[ShadowControl]:
    """With the Redis given, or that of the running `up` of the store. Raises StoreError."""
    settings = from_environment(store=root, redis_url=redis_url or running_url(root))
    connection, store = connect(settings.redis_url), Store(root)
    try:
        yield ShadowControl(connection, store, Catalogue(connection, store))
    except RedisError as error:
        raise StoreError(f"Redis cannot be asked ({error})") from None
    finally:
        connection.close()


def _print(shadow: answers.Shadow) -> None:
    """The comparison as tables."""
    state = "is compared" if shadow["running"] else "was compared"
    click.echo(f"{shadow['live']} {state} with {shadow['candidate']} on {shadow['share']:.1%} of its requests")
    requests, parts, divergence = shadow["requests"], shadow["parts"], shadow["divergence"]
    counts = {name.upper().replace("_", " "): str(count) for name, count in requests.items()}
    print_table([("REQUESTS", *counts), ("", *counts.values())])
    differences = _shown(parts["difference"]), _shown(parts["largest_difference"])
    agreement = _shown(parts["agreement"], ".1%")
    print_table(
        [
            ("PARTS", "COMPARED", "EQUAL", "AGREEMENT", "MEAN DIFF", "MAX DIFF"),
            ("", str(parts["compared"]), str(parts["equal"]), agreement, *differences),
        ]
    )
    measured = (_shown(divergence[name]) for name in ("mean", "deviation", "largest"))
    print_table([("KL", "TOKENS", "MEAN", "DEVIATION", "MAX"), ("", str(divergence["tokens"]), *measured)])
    rows: list[tuple[str, ...]] = [("SECONDS", "WAIT", "RUN", "PER UNIT", "FIRST TOKEN")]
    for name, speed in (("live", shadow["speed"]["live"]), ("candidate", shadow["speed"]["candidate"])):
        times = (speed[each] for each in ("wait_seconds", "run_seconds", "seconds_per_unit", "first_token_seconds"))
        rows.append((name, *map(_shown, times)))
    print_table(rows)


def _shown(value: float | None, how: str = ".2g") -> str:
    return "-" if value is None else format(value, how)

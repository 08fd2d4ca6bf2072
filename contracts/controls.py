"""What an operator has told the workers: models that none shall serve, workers that shall take nothing."""

from __future__ import annotations

from typing import NamedTuple, cast

from redis import Redis

from contracts import keys


class Controls(NamedTuple):
    unloaded: frozenset[str]  # names of models
    reloads: dict[str, int]  # how often each model was to be reloaded, ever
    drained: frozenset[str]  # names of workers


def read_controls(connection: Redis) -> Controls:
    with connection.pipeline(transaction=False) as pipe:
        pipe.smembers(keys.UNLOADED)
        pipe.hgetall(keys.RELOADS)
        pipe.smembers(keys.DRAINED)
        unloaded, reloads, drained = pipe.execute()
    counts = {_text(name): int(count) for name, count in reloads.items() if count.isdigit()}
    return Controls(frozenset(map(_text, unloaded)), counts, frozenset(map(_text, drained)))


def unloaded_models(connection: Redis) -> frozenset[str]:
    return frozenset(map(_text, cast(set[bytes], connection.smembers(keys.UNLOADED))))


def load(connection: Redis, model: str) -> None:
    """Serve a model again."""
    connection.srem(keys.UNLOADED, model)


def unload(connection: Redis, model: str) -> None:
    """Serve a model no longer; what was accepted is still done."""
    connection.sadd(keys.UNLOADED, model)


def reload(connection: Redis, model: str) -> None:
    """Read a model anew from the store, into new engines."""
    connection.hincrby(keys.RELOADS, model, 1)


def drain(connection: Redis, worker: str) -> None:
    """A worker ends what it has and takes nothing more."""
    connection.sadd(keys.DRAINED, worker)


def resume(connection: Redis, worker: str) -> None:
    connection.srem(keys.DRAINED, worker)


def _text(name: bytes) -> str:
    return name.decode(errors="replace")

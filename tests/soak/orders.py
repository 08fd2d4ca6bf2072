"""The steady load of a soak: requests of every manner, in the same shares all the time."""

from __future__ import annotations

from random import Random

from tests.chaos.orders import BODIES, HANGS, Manner, Order

SHARES: dict[Manner, int] = {
    "call": 30,
    "stream": 15,
    "job": 20,
    "follow": 5,
    "cancel": 10,
    "leave": 5,
    "vanish": 8,
    "bad": 7,
}
_TEXTS_ONLY = {"stream", "follow", "vanish"}


def orders(seed: int, count: int) -> list[Order]:
    """Short and long texts and pictures. Without a fault script the bodies that harm an engine are left out."""
    rng = Random(seed)
    return [_order(rng, number) for number in range(count)]


def _order(rng: Random, number: int) -> Order:
    manner = rng.choices(list(SHARES), list(SHARES.values()))[0]
    bodies = [body for body in range(HANGS.start) if manner not in _TEXTS_ONLY or BODIES[body]["model"] != "faces"]
    return Order(number, manner, rng.choice(bodies))

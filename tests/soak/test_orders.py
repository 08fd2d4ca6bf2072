"""The load: the same for a seed, of every manner, harmless."""

from __future__ import annotations

from tests.chaos.orders import BODIES, HANGS
from tests.soak.orders import SHARES, orders


def test_a_short_load_has_requests_of_every_manner():
    assert {order.manner for order in orders(1, 200)} == set(SHARES)


def test_the_same_seed_gives_the_same_load():
    assert orders(3, 50) == orders(3, 50)
    assert orders(3, 50) != orders(4, 50)


def test_no_request_harms_an_engine_and_only_texts_are_streamed():
    for order in orders(2, 500):
        assert order.body < HANGS.start
        assert not order.payload.get("stream") or BODIES[order.body]["model"] != "faces"

"""The proxy passes bytes on and harms only the link that it is told to harm."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.proxy import Proxy


@pytest.fixture
def proxy(redis_url):
    proxy = Proxy(Path(redis_url.removeprefix("unix://")))
    yield proxy
    proxy.close()


@pytest.fixture
def client():
    with ExitStack() as clients:
        yield lambda proxy, name: clients.enter_context(
            Redis("127.0.0.1", proxy.open(name), socket_timeout=1, retry=Retry(NoBackoff(), 0))
        )


def test_large_values_pass_both_ways(proxy, client, connection):
    value = bytes(range(256)) * 4000
    assert client(proxy, "a").set("key", value)
    assert client(proxy, "b").get("key") == value


def test_a_cut_resets_one_link_and_lets_new_connections_through(proxy, client, connection):
    one, other = client(proxy, "a"), client(proxy, "b")
    subscription = one.pubsub()
    subscription.subscribe("channel")
    subscription.get_message(timeout=1)
    assert other.ping()
    proxy.cut("a")
    with pytest.raises(RedisError):
        subscription.get_message(timeout=1)
    assert one.ping()
    assert other.ping()


def test_a_delay_is_added_each_way(proxy, client, connection):
    slow = client(proxy, "a")
    assert slow.ping()
    proxy.delay("a", 0.1)
    began = time.monotonic()
    assert slow.ping()
    assert 0.2 <= time.monotonic() - began < 1
    proxy.delay("a", 0)


def test_a_blocked_link_is_silent_until_it_is_open_again(proxy, client, connection):
    one, other = client(proxy, "a"), client(proxy, "b")
    assert one.ping()
    proxy.block("a", True)
    with pytest.raises(RedisError):
        one.ping()
    assert other.ping()
    proxy.block("a", False)
    assert one.ping()


def test_connections_are_refused_at_once_while_redis_is_away(client, tmp_path):
    proxy = Proxy(tmp_path / "nobody.sock")
    began = time.monotonic()
    with pytest.raises(RedisError):
        client(proxy, "a").ping()
    assert time.monotonic() - began < 0.5
    proxy.close()

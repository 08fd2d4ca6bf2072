"""contracts/sentinel.py: URLs, and connections that follow the master from one server to the next."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from contracts.connection import connect
from contracts.sentinel import SentinelUrl, connection_options
from tests.sentinels import Watched


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "redis+sentinel://a:1,b,[::1]:5/main/2",
            SentinelUrl((("a", 1), ("b", 26379), ("::1", 5)), "main", {"db": 2}, {}),
        ),
        (
            "redis+sentinel://me:p%40ss@a/main?sentinel_password=p&sentinel_username=u",
            SentinelUrl(
                (("a", 26379),),
                "main",
                {"db": 0, "username": "me", "password": "p@ss"},
                {"username": "u", "password": "p"},
            ),
        ),
        (
            "rediss+sentinel://a:1/main?ssl_ca_certs=ca.pem",
            SentinelUrl(
                (("a", 1),),
                "main",
                {"db": 0, "ssl_ca_certs": "ca.pem", "ssl": True},
                {"ssl_ca_certs": "ca.pem", "ssl": True},
            ),
        ),
        ("redis://a:1/0", None),
        ("unix:///run/redis.sock", None),
    ],
)
def test_a_url_says_where_the_sentinels_are_and_what_the_master_is_called(url, expected):
    assert SentinelUrl.parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:1",
        "redis+sentinel://a:1/",
        "redis+sentinel:///main",
        "redis+sentinel://a:x/main",
        "redis+sentinel://a:1,/main",
        "redis+sentinel://a:1/main/x",
    ],
)
def test_a_url_that_is_none_is_refused_with_the_form(url):
    with pytest.raises(ValueError, match=r"not of the form redis\+sentinel://"):
        connect(url)


@pytest.mark.parametrize(
    ("scheme", "kind"), [("redis", SentinelManagedConnection), ("rediss", SentinelManagedSSLConnection)]
)
def test_tls_is_the_schemes_choice(scheme, kind):
    url = SentinelUrl.parse(f"{scheme}+sentinel://a:1/main")
    assert url is not None
    assert connection_options(url, 1.0)["connection_class"] is kind


def test_without_a_sentinel_that_answers_there_is_a_connection_error_at_once():
    with pytest.raises(RedisConnectionError):
        connect("redis+sentinel://127.0.0.1:1/main").ping()


def test_a_client_follows_the_master(tmp_path):
    with Watched(tmp_path) as watched:
        client = connect(watched.url)
        client.set("before", "kept")
        assert client.wait(1, 5000) == 1
        watched.kill_master()
        watched.await_other_master()
        assert client.get("before") == b"kept"
        client.set("after", "written")
        assert client.info("replication")["role"] == "master"

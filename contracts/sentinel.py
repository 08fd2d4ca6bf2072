"""A Redis behind sentinels: whoever connects asks them for the master of the moment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.connection import parse_url
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

FORM = "redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/MASTER[/DATABASE]"
_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_DEFAULT_PORT = 26379
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d+))?")


@dataclass(frozen=True)
class SentinelUrl:
    """What such a URL says. User, password and TLS are Redis' own; those of the sentinels are parameters."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    options: dict[str, Any]  # of a connection to the master
    sentinel_options: dict[str, Any]

    @classmethod
    def parse(cls, url: str) -> SentinelUrl | None:
        """None for a URL of another kind. Raises ValueError that shows the form."""
        scheme, found, rest = url.partition("://")
        if not found or scheme not in _SCHEMES:
            return None
        hosts, _, path = rest.partition("?")[0].rpartition("@")[2].partition("/")
        master, _, database = path.partition("/")
        matches = [_HOST.fullmatch(host) for host in hosts.split(",")]
        if not master or not all(matches) or not (database.isdecimal() or not database):
            raise ValueError(f"the Redis URL is not of the form {FORM}")
        sentinels = tuple((match[1].strip("[]"), int(match[2] or _DEFAULT_PORT)) for match in matches if match)
        options = cls._options(_SCHEMES[scheme], rest, database)
        of_sentinels = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        tls = {name: value for name, value in options.items() if name.startswith("ssl")}
        given = {name: value for name, value in of_sentinels.items() if value is not None}
        return cls(sentinels, unquote(master), options, given | tls)

    @staticmethod
    def _options(scheme: str, rest: str, database: str) -> dict[str, Any]:
        """As redis-py reads them from a URL of one server."""
        user, at, _ = rest.rpartition("@")
        query = urlsplit(f"//{rest}").query
        plain = f"{scheme}://{user}{at}host/{database or 0}?{query}"
        options = dict(parse_url(plain))  # type: ignore[no-untyped-call] # redis has no types here
        del options["host"]
        options.pop("connection_class", None)
        return options | ({"ssl": True} if scheme == "rediss" else {})


class MasterAddress:
    """What redis-py's sentinel connections ask of their pool; they find the master anew whenever they connect."""

    is_master = True
    check_connection = False  # the pool does that itself

    def __init__(self, url: SentinelUrl, timeout_seconds: float) -> None:
        options = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
        self.service_name = url.master
        self._sentinel = Sentinel(url.sentinels, sentinel_kwargs=options | url.sentinel_options)  # type: ignore[no-untyped-call] # likewise

    def get_master_address(self) -> tuple[str, int]:
        """Raises redis' ConnectionError while no sentinel knows one."""
        address: tuple[str, int] = self._sentinel.discover_master(self.service_name)  # type: ignore[no-untyped-call] # likewise
        return address


def connection_options(url: SentinelUrl, timeout_seconds: float) -> dict[str, Any]:
    """For redis-py's pools: the class of connections and what they are made with."""
    options = dict(url.options)
    kind = SentinelManagedSSLConnection if options.pop("ssl", False) else SentinelManagedConnection
    return options | {"connection_class": kind, "connection_pool": MasterAddress(url, timeout_seconds)}

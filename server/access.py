"""Who may do what: the API key that a request brings, and whose jobs its bearer may see. Denied unless allowed."""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from dataclasses import dataclass
from typing import cast

from flask import g, request
from redis import Redis, RedisError

from contracts.api_keys import ApiKey, ApiKeys, Scope, key_id
from contracts.errors import Forbidden, Unauthenticated
from contracts.orders import OrderLimits
from contracts.settings import Settings
from server import page_files

CACHE_SECONDS = 1.0  # a revoked key works for this much longer at most
RETRY_SECONDS = 1.0
PROBES = frozenset({"operations.health", "operations.readiness"})  # load balancers hold no keys
PAGE = frozenset({"page.read_page_file", "page.read_page_library"})  # the same for all; what they show needs a key
OPEN_ENDPOINTS = PROBES | PAGE | {"images.read_picture"}  # whose URL is signed
SCOPE_OF_ENDPOINT: dict[str | None, Scope] = {  # all others: infer
    "bundles.list_bundles": "worker",
    "bundles.read_bundle_manifest": "worker",
    "bundles.read_bundle_file": "worker",
    "operations.metrics": "admin",
    "control.load_model": "admin",
    "control.unload_model": "admin",
    "control.reload_model": "admin",
    "control.begin_shadow": "admin",
    "control.read_shadow": "admin",
    "control.stop_shadow": "admin",
    "control.promote_model": "admin",
    "control.roll_back_model": "admin",
    "control.list_workers": "admin",
    "control.drain_worker": "admin",
    "control.resume_worker": "admin",
}

_PORT = re.compile(r":\d+$")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """Whoever sent the current request. `owner` is whose jobs it makes: the id of its key; None: there are no keys."""

    owner: str | None
    sees_all: bool
    limits: OrderLimits

    def sees(self, owner: str | None) -> bool:
        """Whether what this owner has made is shown."""
        return self.sees_all or owner == self.owner


class Access:
    """Lets requests in. Keys are read from Redis at most once a second."""

    def __init__(self, settings: Settings, connection: Redis) -> None:
        self._settings = settings
        self._is_local = _is_loopback(settings.host)
        self._store = ApiKeys(connection)
        self._keys: dict[str, ApiKey] | None = None
        self._read_at = float("-inf")  # monotonic seconds

    def admit(self) -> None:
        """Let the current request in, as `caller()` then says. Raises Unauthenticated, Forbidden, redis.RedisError."""
        if request.endpoint in OPEN_ENDPOINTS or page_files.is_asked_for():
            return
        keys = self._current_keys()
        if keys is None:
            _refuse_other_sites(self._is_local)
            # A server without keys has one user: the person at this machine.
            g.caller = Caller(owner=None, sees_all=True, limits=self._limits())
        else:
            key = _bearer(keys, SCOPE_OF_ENDPOINT.get(request.endpoint, "infer"))
            g.caller = Caller(owner=key.id, sees_all=key.allows("admin"), limits=self._limits(key))

    def warn_if_open(self) -> None:
        """Tell the log once if others than this machine may ask without a key. Waits for Redis as long as it takes."""
        while not self._is_local:
            try:
                if self._current_keys() is None:
                    log.warning(
                        "anybody who reaches %s may use this server: there are no API keys;"
                        " make one with `kamishibai keys create NAME`",
                        self._settings.host,
                    )
                return
            except RedisError:
                time.sleep(RETRY_SECONDS)

    def _limits(self, key: ApiKey | None = None) -> OrderLimits:
        settings = self._settings
        return OrderLimits(
            queued_jobs=settings.max_queued_jobs,
            queued_work=settings.max_queued_work,
            queued_bytes=settings.max_queued_bytes,
            jobs_per_minute=(key and key.jobs_per_minute) or settings.jobs_per_minute,
            unfinished_jobs=(key and key.unfinished_jobs) or settings.unfinished_jobs,
        )

    def _current_keys(self) -> dict[str, ApiKey] | None:
        """By id; None: this server is open."""
        now = time.monotonic()
        if now - self._read_at > CACHE_SECONDS:
            self._keys = self._store.read()
            self._read_at = now
        return {} if self._keys is None and self._settings.keys == "required" else self._keys


def caller() -> Caller:
    """Who sent the current request; routes in OPEN_ENDPOINTS have none."""
    return cast(Caller, g.caller)


def _bearer(keys: dict[str, ApiKey], scope: Scope) -> ApiKey:
    kind, _, text = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not text.strip():
        raise Unauthenticated("This server needs an API key; send it as 'Authorization: Bearer kmb_...'.")
    key = keys.get(key_id(text.strip()) or "")
    if key is None or not key.opens(text.strip()):
        raise Unauthenticated("The API key is not known here or was revoked; `kamishibai keys create` makes a new one.")
    if not key.allows(scope):
        raise Forbidden(f"The key {key.name!r} has the scope {key.scope}; this route needs a key with {scope}.")
    return key


def _refuse_other_sites(is_local: bool) -> None:
    """Without keys the browsers of this machine could be used by any page that they show; a page says where it is from.

    A page of another site has its `Origin`. One whose name was pointed at this machine (DNS rebinding) has its name as
    `Host`, where our own users write an address or localhost. Raises Forbidden.
    """
    host = _PORT.sub("", request.host).strip("[]").lower()
    if is_local and _address(host) is None:
        raise Forbidden(
            f"'Host' is {host[:80]!r}, but without API keys only this machine is served, as localhost or by its"
            " address; make a key with `kamishibai keys create NAME` to serve under other names"
        )
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise Forbidden(
            f"'Origin' is {origin[:80]!r}: pages of other sites may not use a server without API keys;"
            " make a key with `kamishibai keys create NAME`"
        )


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None

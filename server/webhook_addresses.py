"""Where webhooks may go. A client chooses the URL, and this machine may reach what the client may not: so none but
public addresses are connected to, by the very address that was looked at.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import SplitResult, urlsplit

from contracts.errors import InvalidRequest
from contracts.settings import Settings

Address = IPv4Address | IPv6Address

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # the last 32 bits are an IPv4 address
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|[0-9A-Fa-f:.]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class AddressRefused(Exception):
    """A webhook that is not sent, now or later."""


@dataclass(frozen=True)
class Destination:
    """A URL and the addresses that its host has been found at, all of which may be connected to."""

    secure: bool
    host: str  # as the certificate must name it
    port: int
    addresses: tuple[str, ...]
    target: str  # path and query

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS["https" if self.secure else "http"] else f"{host}:{self.port}"


class WebhookAddresses:
    """What the settings let webhooks reach."""

    def __init__(self, settings: Settings) -> None:
        self._schemes = ("https", "http") if settings.webhook_http == "on" else ("https",)
        self._hosts = frozenset(_plain(host) for host in settings.webhook_hosts.split(",") if host.strip())
        self._private = settings.webhook_private == "on"

    def check(self, url: str) -> None:
        """What can be said of a URL without asking anybody. Raises InvalidRequest."""
        try:
            self._split(url)
        except AddressRefused as error:
            raise InvalidRequest(f"'webhook' is {url[:100]!r}: {error}", param="webhook") from None

    def resolve(self, url: str) -> Destination:
        """Asks the resolver, once. Raises AddressRefused, and OSError for a host that is not found."""
        parts = self._split(url)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise AddressRefused("its host cannot be looked up") from None
        addresses = tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        for address in addresses:
            if not self._private and not is_public(ipaddress.ip_address(address)):
                raise AddressRefused(f"{host} is at {address}, which is not public")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Destination(parts.scheme == "https", host, port, addresses, target)

    def _split(self, url: str) -> SplitResult:
        """Raises AddressRefused for what is no URL that a webhook may have."""
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 - raises ValueError
        except ValueError:
            raise AddressRefused("it is no URL") from None
        if not url.isascii() or not url.isprintable() or " " in url:
            raise AddressRefused("it has other characters than those of URLs; percent-encode them")
        if parts.scheme not in self._schemes:
            raise AddressRefused(f"it must begin with {' or '.join(f'{scheme}://' for scheme in self._schemes)}")
        if "@" in parts.netloc or parts.port == 0 or not _HOST.fullmatch(parts.hostname or ""):
            raise AddressRefused("it must name a host, without user and password; the port may be 1 to 65535")
        self._check_host(_plain(parts.hostname or ""))
        return parts

    def _check_host(self, host: str) -> None:
        if self._hosts and host not in self._hosts:
            raise AddressRefused("its host is not among those that this server sends webhooks to")
        literal = _literal(host)
        local = host == "localhost" or host.endswith(".localhost") or (literal is not None and not is_public(literal))
        if local and not self._private:
            raise AddressRefused("its address is not public")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the internet at large, and, where it holds another one, that one too."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not address.is_reserved
    if (inner := _inner(address)) is not None:
        return is_public(inner)
    return address in _GLOBAL_UNICAST and address.is_global


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this one end up at."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _plain(host: str) -> str:
    return host.strip().lower().rstrip(".")


def _literal(host: str) -> Address | None:
    """The address that a host is, also as `2130706433` or `0x7f.1`, which the system's resolver understands."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None

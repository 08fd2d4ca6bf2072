"""The store of a running server, over HTTP, as `contracts.delivery` pulls from it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

from cli.api_client import ApiClient
from contracts.delivery import Offer
from contracts.errors import InvalidRequest
from contracts.files import MOST_BYTES
from contracts.requests import describe

_PIECE_BYTES = 1 << 18


class _Offers(BaseModel):
    data: list[Offer]


class StoreClient:
    """A source of bundles. Files are asked for by their hash, and from any byte on."""

    def __init__(self, address: str, api_key: str | None = None, *, option: str = "--store-from") -> None:
        """`option` is how the command line names the server. Raises InvalidRequest for what is no address or no key."""
        self._api = ApiClient(address, api_key, option=option)

    @property
    def address(self) -> str:
        return self._api.address.geturl()

    @property
    def secure(self) -> bool:
        """Whether the server's certificate is checked, or it is on this machine."""
        return self._api.address.scheme == "https" or _is_here(self._api.address.hostname or "")

    def offers(self) -> list[Offer]:
        try:
            return _Offers.model_validate(self._api.ask("GET", "/v1/bundles")).data
        except ValidationError as error:
            raise InvalidRequest(f"{self.address} lists no bundles as we know them: {describe(error)}") from None

    def manifest(self, offer: Offer) -> bytes:
        return b"".join(self._pieces(f"{_path(offer)}/manifest", 0, MOST_BYTES))

    def pieces(self, offer: Offer, sha256: str, start: int) -> Iterator[bytes]:
        return self._pieces(f"{_path(offer)}/files/{sha256}", start)

    def _pieces(self, path: str, start: int, most: float = float("inf")) -> Iterator[bytes]:
        """From byte `start` on; no more than `most` bytes and a piece."""
        part = {"Range": f"bytes={start}-"} if start else {}
        came = 0
        with self._api.read(path, **part) as answer:
            sent_from = answer.headers.get("Content-Range", "bytes 0-").removeprefix("bytes ").partition("-")[0]
            if sent_from != str(start):
                raise InvalidRequest(f"{self.address} was asked for {path} from byte {start} and sends {sent_from}")
            while came <= most and (piece := answer.read(_PIECE_BYTES)):
                came += len(piece)
                yield piece


def _path(offer: Offer) -> str:
    return f"/v1/bundles/{offer.model}/{offer.version}"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback
    except ValueError:
        return False

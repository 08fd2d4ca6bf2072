"""Another store to pull from, without a network in between."""

from __future__ import annotations

import json
from collections.abc import Iterator

from contracts.bundle import MANIFEST
from contracts.delivery import Offer
from contracts.errors import NotReady
from contracts.store import Store

PIECE = 7_000


class StoreSource:
    """A store on this disk. While it is `away` it does not answer; it breaks off after every `breaks_after` bytes."""

    def __init__(self, store: Store, *, secure: bool = True, breaks_after: int | None = None) -> None:
        self.secure = secure
        self.away = False
        self.asked: list[tuple[str, int]] = []  # files and from which byte on
        self._store = store
        self._breaks_after = breaks_after

    def offers(self) -> list[Offer]:
        if self.away:
            raise NotReady("nobody listens")
        return [self._offer(name, version) for name in self._store.names() for version in self._store.versions(name)]

    def manifest(self, offer: Offer) -> bytes:
        return (self._store.root / offer.model / str(offer.version) / MANIFEST).read_bytes()

    def pieces(self, offer: Offer, sha256: str, start: int) -> Iterator[bytes]:
        files = json.loads(self.manifest(offer))["files"]
        (name,) = (name for name, entry in files.items() if entry["sha256"] == sha256)
        self.asked.append((name, start))
        content = (self._store.root / offer.model / str(offer.version) / name).read_bytes()[start:]
        for place in range(0, len(content), PIECE):
            if self._breaks_after is not None and place >= self._breaks_after:
                raise NotReady("the connection was reset")
            yield content[place : place + PIECE]

    def _offer(self, name: str, version: int) -> Offer:
        bundle = self._store.open(name, version, only=())
        size = sum(entry.bytes for entry in bundle.manifest.files.values())
        chosen = self._store.chosen(name)
        latest = chosen is not None and version == chosen.version
        variant = chosen.variant if chosen and latest else None
        return Offer(model=name, version=version, digest=bundle.digest, bytes=size, latest=latest, variant=variant)

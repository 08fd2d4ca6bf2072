"""What workers elsewhere may pull: the versions of the store, their manifests and files.

Nothing that a client writes becomes a path: names and versions are those of the store's folders, and a file is found by
its hash in the manifest.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from contracts.bundle import MANIFEST, Bundle
from contracts.errors import NotFound, StoreError
from contracts.files import read_small
from contracts.store import Store, split_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stocked:
    """A version that can be pulled."""

    model: str
    version: int
    digest: str
    bytes: int
    latest: bool
    variant: str | None  # of the latest, where one was promoted


class Stock:
    """All of it blocks: it reads files. A manifest is read once for the list, since a version never changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, int], tuple[str, int]] = {}  # digest and bytes

    def list(self) -> list[Stocked]:
        """All versions, by name; those that cannot be read are left out."""
        found: list[Stocked] = []
        for name in self._store.names():
            chosen = self._store.chosen(name)
            for version in self._store.versions(name):
                if known := self._of(name, version):
                    latest = chosen is not None and version == chosen.version
                    variant = chosen.variant if chosen and latest else None
                    found.append(Stocked(name, version, *known, latest=latest, variant=variant))
        self._known = {(each.model, each.version): (each.digest, each.bytes) for each in found}
        return found

    def manifest(self, name: str, version: str) -> bytes:
        """Raises NotFound."""
        return read_small(self._bundle(name, version).path / MANIFEST)

    def open_file(self, name: str, version: str, sha256: str) -> tuple[BinaryIO, int]:
        """The file with this hash, and its size. Raises NotFound."""
        bundle = self._bundle(name, version)
        for file, entry in bundle.manifest.files.items():
            if entry.sha256 == sha256:
                return self._opened(bundle.path / file), entry.bytes
        raise NotFound(f"{name}@{version} has no file with the SHA-256 {sha256[:80]!r}; its manifest lists them.")

    def _of(self, name: str, version: int) -> tuple[str, int] | None:
        try:
            return self._known.get((name, version)) or self._read(name, version)
        except (StoreError, OSError) as error:
            log.error("%s@%d cannot be offered: %s", name, version, error)
            return None

    def _read(self, name: str, version: int) -> tuple[str, int]:
        bundle = self._store.open(name, version, only=())
        return bundle.digest, sum(entry.bytes for entry in bundle.manifest.files.values())

    def _bundle(self, name: str, version: str) -> Bundle:
        try:
            return self._store.open(*split_name(f"{name}@{version}"), only=())
        except StoreError as error:
            raise NotFound(f"There is no bundle {name[:80]!r}, version {version[:20]!r}: {error}") from None

    def _opened(self, path: Path) -> BinaryIO:
        try:
            return path.open("rb")
        except OSError as error:
            log.error("%s cannot be read: %s", path, error)
            raise NotFound(f"{path.name} cannot be read ({error.strerror}); the server's log says more.") from None

"""A bundle that comes from another store: every byte checked, taken up again where it broke off, whole or not at all.

It grows in `STORE/.pulling-<model>@<version>-<digest>/`, which is locked by whoever pulls it, so that of several
workers of a host one pulls and the others wait for it. The digest, that of the manifest, stands for the whole bundle.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from contracts.bundle import Bundle, FileEntry, Manifest, read_manifest
from contracts.errors import NotReady, StoreError
from contracts.store import PULLING, Store, check_name

PATIENCE_SECONDS = 120.0  # with a source that was there and brings nothing more
RETRY_SECONDS = 2.0


def _model_name(name: str) -> str:
    try:
        return check_name(name)
    except StoreError as error:
        raise ValueError(str(error)) from None


class Offer(BaseModel):
    """A version that another store has. `digest` is the SHA-256 of its manifest, which has those of all files."""

    model_config = ConfigDict(frozen=True)

    model: Annotated[str, AfterValidator(_model_name)]
    version: Annotated[int, Field(ge=1, le=999_999_999)]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]  # of all files
    latest: bool  # whether new requests run on it
    variant: Annotated[str, Field(pattern="^[a-z0-9]{1,20}:[a-z0-9]{1,20}$")] | None = None  # in which it was promoted

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"


class Source(Protocol):
    """Another store. All may raise NotReady while it cannot be reached, and other errors that stay."""

    @property
    def secure(self) -> bool:
        """Whether nobody on the way to it could have changed what it says."""

    def offers(self) -> list[Offer]:
        """All versions that it has."""

    def manifest(self, offer: Offer) -> bytes:
        """As it lies in the other store."""

    def pieces(self, offer: Offer, sha256: str, start: int) -> Iterator[bytes]:
        """The file of this hash, from this byte on."""


def fetch(
    source: Source,
    offer: Offer,
    store: Store,
    *,
    pinned: bool = False,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> Bundle:
    """The bundle in the store, pulled if it is not there. `pinned`: the offer's digest is known from elsewhere.

    A source that goes away is waited for. `on_bytes` is told how many bytes have come each time. Raises StoreError for
    a bundle that is not what it should be, and NotReady for a source that stays away; what has come is kept then.
    """
    came = time.monotonic()

    def count(number: int) -> None:
        nonlocal came
        came = time.monotonic()
        on_bytes(number)

    while True:
        try:
            return _attempt(source, offer, store, pinned, count)
        except NotReady:
            if time.monotonic() - came > PATIENCE_SECONDS:
                raise
            time.sleep(RETRY_SECONDS)


def _attempt(source: Source, offer: Offer, store: Store, pinned: bool, on_bytes: Callable[[int], object]) -> Bundle:
    """Raises NotReady if it breaks off."""
    store.root.mkdir(parents=True, exist_ok=True)
    store.sweep()
    folder = store.root / f"{PULLING}{offer.name}-{offer.digest[:16]}"
    while True:
        if bundle := _present(store, offer):
            return bundle
        folder.mkdir(exist_ok=True)
        with _locked(folder) as ours:
            if not ours:
                continue  # somebody else has just finished it
            if bundle := _present(store, offer):
                folder.rmdir()
                return bundle
            content = source.manifest(offer)
            manifest = _checked(source, offer, content, pinned)
            _check_room(folder, manifest)
            for name, entry in manifest.files.items():
                _File(source, offer, folder / name, entry).complete(on_bytes)
            return store.place(folder, content)


def _present(store: Store, offer: Offer) -> Bundle | None:
    """Raises StoreError if what is there is not the same."""
    if offer.version not in store.versions(offer.model):
        return None
    bundle = store.open(offer.model, offer.version, only=())
    if bundle.digest != offer.digest:
        raise StoreError(
            f"{bundle.path} is another bundle than the {offer.name} that is offered: the SHA-256 of its manifest is"
            f" {bundle.digest}, not {offer.digest}. A version is never overwritten; pull into another --store, or"
            f" remove this one: kamishibai models rm {offer.name}"
        )
    return bundle


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Waits until nobody else has it. False if it is no longer in its place then."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield _is_still(folder, os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _is_still(folder: Path, known: os.stat_result) -> bool:
    try:
        return os.path.samestat(known, folder.stat())
    except FileNotFoundError:
        return False


def _checked(source: Source, offer: Offer, content: bytes, pinned: bool) -> Manifest:
    """The manifest, if it is what was offered and may be had in this way. Raises StoreError."""
    if (found := hashlib.sha256(content).hexdigest()) != offer.digest:
        raise StoreError(f"the manifest of {offer.name} has the SHA-256 {found} instead of {offer.digest}; not pulled")
    manifest = read_manifest(content, f"what was sent for {offer.name}")
    if (manifest.name, manifest.version) != (offer.model, offer.version):
        raise StoreError(f"the manifest of {offer.name} is that of {manifest.name}@{manifest.version}; not pulled")
    if manifest.holds_code and not (source.secure or pinned):
        raise StoreError(
            f"{offer.name} holds programs (TorchScript or pt2), which are not pulled over a connection that others"
            " could change; use https://, or name the digest that you know it by: kamishibai models pull --digest"
        )
    return manifest


def _check_room(folder: Path, manifest: Manifest) -> None:
    here = sum(path.stat().st_size for path in folder.iterdir())
    needed, free = sum(entry.bytes for entry in manifest.files.values()) - here, shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{manifest.name}@{manifest.version} needs {needed} bytes more in {folder.parent}, which has {free};"
            " make room, or choose another --store"
        )


class _File:
    """A file on its way."""

    def __init__(self, source: Source, offer: Offer, path: Path, entry: FileEntry) -> None:
        self._source = source
        self._offer = offer
        self._path = path
        self._entry = entry

    def complete(self, on_bytes: Callable[[int], object]) -> None:
        """Raises NotReady if it breaks off, StoreError if it is another file than the manifest says."""
        taken_up = self._path.exists()
        found = self._go_on(on_bytes)
        if found != self._entry.sha256 and taken_up:  # what was here may have suffered, as from a power cut
            self._path.unlink()
            found = self._go_on(on_bytes)
        if found == self._entry.sha256:
            return
        self._path.unlink()
        raise StoreError(
            f"{self._path.name} of {self._offer.name} has the SHA-256 {found} instead of {self._entry.sha256}, which"
            " its manifest says; it was not kept"
        )

    def _go_on(self, on_bytes: Callable[[int], object]) -> str:
        """Fetch what is missing. Returns the hash of all."""
        with self._path.open("a+b") as file:
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
            known = file.tell()
            if known < self._entry.bytes:
                for piece in self._source.pieces(self._offer, self._entry.sha256, known):
                    file.write(piece)
                    digest.update(piece)
                    known += len(piece)
                    on_bytes(len(piece))
                    if known > self._entry.bytes:
                        break  # it is another file; a source could go on for ever
            file.flush()
            os.fsync(file.fileno())
        if known < self._entry.bytes:
            raise NotReady(
                f"{self._path.name} of {self._offer.name} broke off after {known} of {self._entry.bytes} bytes"
            )
        return digest.hexdigest()

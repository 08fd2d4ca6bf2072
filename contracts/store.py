"""The model store: finds bundles, writes them whole or not at all, and removes them.

STORE/<model>/<version>/     a bundle; versions count up and are never used again
STORE/<model>/latest         the version that new requests run on, behind it the one that it replaced, a line each;
                             behind a version the variant, where one was promoted
STORE/<model>/.removed-<v>/  was a version
STORE/.incoming-*/           a bundle in the making, locked by its maker
STORE/.pulling-*/            one on its way from another store (contracts.delivery), likewise
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from contracts.bundle import MANIFEST, Bundle, FileEntry, Manifest, read_manifest, sha256_of
from contracts.errors import StoreError
from contracts.files import replace_file

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_INCOMING = ".incoming-"
PULLING = ".pulling-"
_REMOVED = ".removed-"
_LATEST = "latest"
_ABANDONED_SECONDS = {  # after which a folder that nobody has locked is removed
    _INCOMING: 60.0,  # it is made a moment before it is locked
    PULLING: 24 * 3600.0,  # somebody may go on with it
}


class Chosen(NamedTuple):
    """What new requests for a model run on; without a variant the one that workers choose by themselves."""

    version: int
    variant: str | None = None

    def __str__(self) -> str:
        return str(self.version) if self.variant is None else f"{self.version}/{self.variant}"


class Store:
    """A folder with one folder per model and one per version of it: `STORE/<model>/<version>/`."""

    def __init__(self, root: Path, *, candidates: bool = False) -> None:
        """`candidates`: of a model that has versions, new ones are not the latest until they are promoted."""
        self.root = root
        self._candidates = candidates

    def names(self) -> list[str]:
        """Models with at least one version, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name for path in self.root.iterdir() if _NAME.fullmatch(path.name) and self.versions(path.name)
        )

    def versions(self, name: str) -> list[int]:
        """Versions of a model, oldest first; versions count up and are never used again."""
        folder = self.root / check_name(name)
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name) and path.is_dir())

    def latest(self, name: str) -> int | None:
        """The version that new requests run on: the last one that was written, promoted or rolled back to. None: there
        is none."""
        chosen = self.chosen(name)
        return chosen and chosen.version

    def chosen(self, name: str) -> Chosen | None:
        """The latest version, with its variant where one was promoted."""
        versions = self.versions(name)
        pointed = (chosen for chosen in self._pointer(name) if chosen.version in versions)
        return next(pointed, Chosen(versions[-1]) if versions else None)

    def open(self, name: str, version: int | None = None, *, only: tuple[str, ...] | None = None) -> Bundle:
        """The bundle of a version, the latest by default. Raises StoreError if there is none or it is damaged."""
        versions = self.versions(name)
        if not versions or (version is not None and version not in versions):
            raise StoreError(_missing(self, name, version))
        return Bundle.open(self.root / name / str(version or self.latest(name)), only=only)

    def write(self, name: str, fill: Callable[[Path], dict[str, Any]]) -> Bundle:
        """Make the next version of a model.

        `fill(folder)` writes the bundle's files into an empty folder and returns the manifest's fields other than
        name, version and files. The folder is then renamed into place, so that a reader sees all of it or nothing.
        """
        check_name(name)
        self.root.mkdir(parents=True, exist_ok=True)
        self.sweep()
        folder = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self.root))
        try:
            with _locked(folder):
                fields = fill(folder)
                files = {
                    path.name: FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
                    for path in sorted(folder.iterdir())
                }
                for file in files:
                    _sync(folder / file)
                return self._publish(folder, name, fields, files)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def promote(self, name: str, version: int, variant: str | None) -> None:
        """New requests run on this version, in this variant where one is given. Raises StoreError."""
        latest = self.chosen(name)
        if latest is None or version not in self.versions(name):
            raise StoreError(_missing(self, name, version))
        if variant is not None:
            self.open(name, version, only=()).variant(variant)  # raises StoreError for one that it has not
        if latest != Chosen(version, variant):
            self._point(name, Chosen(version, variant), latest)

    def roll_back(self, name: str, version: int | None = None) -> Chosen:
        """New requests run on this version again, or on what ran before the latest was promoted or written. Returns it.
        Raises StoreError."""
        versions, latest = self.versions(name), self.chosen(name)
        if latest is None or (version is not None and version not in versions):
            raise StoreError(_missing(self, name, version))
        chosen = self._before(name, latest) if version is None else Chosen(version)
        if chosen is None:
            raise StoreError(f"{name}@{latest} is the first version that is left; there is none to go back to")
        self._point(name, chosen, None)
        return chosen

    def place(self, folder: Path, content: bytes) -> Bundle:
        """A folder of this store with all files of a bundle becomes the version that the manifest's `content` says.

        Which version is the latest stays as it is. Raises StoreError if that version is there already.
        """
        manifest = read_manifest(content, str(folder))
        folder.chmod(0o755)
        (folder / MANIFEST).write_bytes(content)
        _sync(folder / MANIFEST)
        _sync(folder)
        target = self.root / check_name(manifest.name) / str(manifest.version)
        target.parent.mkdir(exist_ok=True)
        try:
            folder.rename(target)
        except OSError:
            if not target.exists():
                raise
            raise StoreError(f"{target} is there already, and a version is never overwritten") from None
        _sync(target.parent)
        return Bundle.open(target, only=())

    def follow(self, name: str, version: int, variant: str | None = None) -> None:
        """New requests run on this version, as they do in another store, and in this variant, where one was promoted
        there. Raises StoreError if it is not here."""
        if version not in self.versions(name):
            raise StoreError(_missing(self, name, version))
        chosen = Chosen(version, variant)
        if self._pointer(name)[:1] != [chosen]:  # without a pointer the next version to come would be the latest
            latest = self.chosen(name)
            self._point(name, chosen, latest if latest != chosen else None)

    def check_removable(self, name: str, version: int) -> None:
        """Raises StoreError for a version that is not there, and for the latest while there are others."""
        versions = self.versions(name)
        if version not in versions:
            raise StoreError(_missing(self, name, version))
        if version == self.latest(name) and len(versions) > 1:
            other = max((each for each in versions if each < version), default=versions[-1])
            raise StoreError(
                f"{name}@{version} is the latest, which new requests run on; let them run on another version first:"
                f" kamishibai models rollback {name} --to {other}"
            )

    def remove(self, name: str, version: int) -> None:
        """Remove a version for good. Raises StoreError as `check_removable` does."""
        self.check_removable(name, version)
        removed = self.root / name / f"{_REMOVED}{version}"
        (self.root / name / str(version)).rename(removed)  # readers see all of it or nothing
        _sync(removed.parent)
        _empty(removed)

    def sweep(self) -> None:
        """Remove what killed makers left."""
        for prefix, seconds in _ABANDONED_SECONDS.items():
            for folder in self.root.glob(f"{prefix}*"):
                try:
                    if time.time() - folder.stat().st_mtime > seconds:
                        with _locked(folder):
                            shutil.rmtree(folder, ignore_errors=True)
                except OSError:
                    continue  # its maker is at work, or has just finished

    def _pointer(self, name: str) -> list[Chosen]:
        """The latest and the one before it. It names both since it is written before the version that it names is in
        its place."""
        try:
            lines = (self.root / name / _LATEST).read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            return []
        found = [words for words in map(str.split, lines[:2]) if words and _VERSION.fullmatch(words[0])]
        return [Chosen(int(words[0]), words[1] if len(words) > 1 else None) for words in found]

    def _before(self, name: str, latest: Chosen) -> Chosen | None:
        """What the latest has replaced, or the version before it. What was rolled back from is neither."""
        versions, pointed = self.versions(name), self._pointer(name)
        replaced = [each for each in pointed[1:] if pointed[0] == latest and each.version in versions]
        # A pointer of a time before promotions also names what was rolled back from, which is newer.
        undone = [each for each in replaced if latest.variant or each.version <= latest.version]
        plain = [Chosen(latest.version)] if latest.variant else []
        earlier = [Chosen(version) for version in reversed(versions) if version < latest.version]
        return next(iter([*undone, *plain, *earlier]), None)

    def _point(self, name: str, chosen: Chosen, before: Chosen | None) -> None:
        lines = [f"{each.version} {each.variant or ''}".rstrip() for each in (chosen, before) if each]
        replace_file(self.root / name / _LATEST, "".join(f"{line}\n" for line in lines).encode())
        _sync(self.root / name)

    def _next_version(self, name: str) -> int:
        removed = (path.name.removeprefix(_REMOVED) for path in (self.root / name).glob(f"{_REMOVED}*"))
        used = [*self.versions(name), *(int(word) for word in removed if _VERSION.fullmatch(word))]
        return max(used, default=0) + 1

    def _publish(self, folder: Path, name: str, fields: dict[str, Any], files: dict[str, FileEntry]) -> Bundle:
        folder.chmod(0o755)
        while True:
            version = self._next_version(name)
            manifest = Manifest(name=name, version=version, files=files, **fields)
            (self.root / name).mkdir(exist_ok=True)
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            _sync(folder / MANIFEST)
            _sync(folder)
            target, latest = self.root / name / str(version), self.chosen(name)
            if self._candidates and latest:
                self._point(name, latest, self._before(name, latest))  # without a pointer the newest is the latest
            else:
                self._point(name, Chosen(version), latest)
            try:
                folder.rename(target)
            except FileExistsError:
                continue  # somebody else took this number just now
            except OSError:
                if not target.exists():
                    raise
                continue
            _sync(target.parent)
            return Bundle.open(target)


def check_name(name: str) -> str:
    """A model name, checked: it becomes a folder, a queue and a URL. Raises StoreError."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"{name!r} cannot name a model: use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
        )
    return name


def split_name(text: str) -> tuple[str, int | None]:
    """`name` or `name@version` in its parts. Raises StoreError for what is neither."""
    name, at, version = text.partition("@")
    if at and not _VERSION.fullmatch(version):
        raise StoreError(f"{text!r} names no version: write it like {name}@1")
    return check_name(name), int(version) if at else None


def _missing(store: Store, name: str, version: int | None) -> str:
    versions = store.versions(name)
    have = f"versions {', '.join(map(str, versions))} of it" if versions else ", ".join(store.names()) or "none"
    wanted = name if version is None else f"{name}@{version}"
    return f"{store.root} has no model {wanted}; it has {have}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises OSError if somebody else has locked it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

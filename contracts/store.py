"""The model store: finds bundles and writes them, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts.bundle import MANIFEST, Bundle, FileEntry, Manifest, sha256_of
from contracts.errors import StoreError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_INCOMING = ".incoming-"


class Store:
    """A folder with one folder per model and one per version of it: `STORE/<model>/<version>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

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

    def open(self, name: str, version: int | None = None, *, only: tuple[str, ...] | None = None) -> Bundle:
        """The bundle of a version, the newest by default. Raises StoreError if there is none or it is damaged."""
        versions = self.versions(name)
        if not versions or (version is not None and version not in versions):
            have = ", ".join(self.names()) if not versions else f"versions {', '.join(map(str, versions))} of it"
            wanted = name if version is None else f"{name}@{version}"
            raise StoreError(f"{self.root} has no model {wanted}; it has {have or 'none'}")
        return Bundle.open(self.root / name / str(versions[-1] if version is None else version), only=only)

    def write(self, name: str, fill: Callable[[Path], dict[str, Any]]) -> Bundle:
        """Make the next version of a model.

        `fill(folder)` writes the bundle's files into an empty folder and returns the manifest's fields other than
        name, version and files. The folder is then renamed into place, so that a reader sees all of it or nothing.
        """
        check_name(name)
        self.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self.root))
        try:
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

    def _publish(self, folder: Path, name: str, fields: dict[str, Any], files: dict[str, FileEntry]) -> Bundle:
        folder.chmod(0o755)
        while True:
            version = max(self.versions(name), default=0) + 1
            manifest = Manifest(name=name, version=version, files=files, **fields)
            (self.root / name).mkdir(exist_ok=True)
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            _sync(folder / MANIFEST)
            _sync(folder)
            target = self.root / name / str(version)
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

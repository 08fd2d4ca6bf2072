"""Files of clients on disk: what batches read and write.

FILES/<owner>/<file id>         the content
FILES/<owner>/<file id>.json    a StoredFile; written after its content and removed before it
FILES/.incoming-*               a content on its way
FILES/.batches/<batch id>/      what a batch works with (server.batch_folder)

Everything here blocks; routes call it in a thread (server.threads).
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import NotFound, StorageFull, StoreError, one_line
from contracts.files import read_small, replace_file
from server.ids import new_id

Purpose = Literal["batch", "batch_output"]

FILE_ID = re.compile(r"file-[0-9a-f]{32}")
MOST_NAME_CHARACTERS = 255
MOST_FILES_LISTED = 10_000  # in one call
_OWNER = re.compile(r"[a-z0-9]{1,32}")
_INCOMING = ".incoming-"
_BATCHES = ".batches"
_MOST_SIDECAR_BYTES = 1 << 14
_ABANDONED_SECONDS = 3600.0  # nobody writes to a content for so long, or leaves it without its sidecar
_OLD_BATCH_SECONDS = 7 * 24 * 3600.0  # a batch has a day
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

log = logging.getLogger(__name__)


class StoredFile(BaseModel):
    """What is known of a file. Times are Unix seconds."""

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    filename: str
    purpose: Purpose
    bytes: int
    created_at: int
    expires_at: int


class Page(NamedTuple):
    """Some of a list."""

    files: list[StoredFile]
    has_more: bool


class Incoming:
    """A content on its way to disk. It is gone after `FileStore.incoming` unless it was kept."""

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file = file
        self.path = path

    def write(self, piece: bytes) -> None:
        """Raises StorageFull."""
        left = memoryview(piece)
        with told_when_full():
            while left:  # what fits on a disk that fills up is written first
                left = left[self._file.write(left) :]

    def finish(self) -> None:
        """All of it is on disk. Raises StorageFull."""
        with told_when_full():
            os.fsync(self._file.fileno())


class FileStore:
    """Files by owner: a folder each. A `scope` is one owner, or None for all of them."""

    def __init__(self, root: Path, default_seconds: int) -> None:
        """`default_seconds` is how long a file lives whose maker does not say."""
        self.root = root
        self._default_seconds = default_seconds

    @contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """Raises StorageFull."""
        with told_when_full():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=_INCOMING, dir=self.root)
        try:
            with FileIO(descriptor, "wb") as file:
                yield Incoming(file, Path(name))
        finally:
            Path(name).unlink(missing_ok=True)

    def keep(
        self,
        content: Path,
        owner: str,
        filename: str,
        purpose: Purpose,
        *,
        seconds: int | None = None,
        file_id: str | None = None,
    ) -> StoredFile:
        """Make a file of a content below our root, whose own name stays. With an id it can be repeated after a crash.

        Raises StorageFull; then there is no such file.
        """
        file_id, now = file_id or new_id("file-"), int(time.time())
        target = self._folder(owner) / file_id
        file = StoredFile(
            id=file_id,
            owner=owner,
            filename=one_line(filename, MOST_NAME_CHARACTERS) or file_id,
            purpose=purpose,
            bytes=content.stat().st_size,
            created_at=now,
            expires_at=now + (seconds or self._default_seconds),
        )
        with told_when_full():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):  # made before the crash
                target.hardlink_to(content)
            try:
                replace_file(_sidecar(target), file.model_dump_json().encode())
            except OSError:
                target.unlink()
                raise
        return file

    def find(self, file_id: str, scope: str | None) -> StoredFile:
        """Raises NotFound for one that is not there, has expired, or is out of scope."""
        if FILE_ID.fullmatch(file_id):
            for owner in self._owners(scope):
                file = _read(self._folder(owner) / file_id)
                if file is not None:
                    return file
        raise NotFound(f"There is no file {file_id[:80]!r}; perhaps it has expired.", param="id")

    def path_of(self, file: StoredFile) -> Path:
        """Its content."""
        return self._folder(file.owner) / file.id

    def page(
        self, scope: str | None, *, limit: int, after: str | None, newest_first: bool, purpose: Purpose | None
    ) -> Page:
        """Up to so many files behind the one with the id `after`."""
        contents = {path.name: path for owner in self._owners(scope) for path in _contents(self._folder(owner))}
        found: list[StoredFile] = []
        for file_id in sorted(contents, reverse=newest_first):
            if after is not None and (file_id >= after if newest_first else file_id <= after):
                continue
            file = _read(contents[file_id])
            if file is not None and purpose in (None, file.purpose):
                found.append(file)
            if len(found) > limit:
                break
        return Page(found[:limit], len(found) > limit)

    def delete(self, file: StoredFile) -> None:
        content = self.path_of(file)
        _sidecar(content).unlink(missing_ok=True)
        content.unlink(missing_ok=True)

    def batch_folder(self, batch_id: str) -> Path:
        return self.root / _BATCHES / batch_id

    def tidy(self) -> None:
        """Remove what has expired, and what killed processes left."""
        for path in self.root.glob(f"{_INCOMING}*"):
            _remove_abandoned(path)
        for folder in (self.root / _BATCHES).glob("*"):
            if time.time() - folder.stat().st_mtime > _OLD_BATCH_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        for owner in self._owners(None):
            for content in _contents(self._folder(owner)):
                if _read(content) is None:
                    expired = _sidecar(content).exists()
                    _sidecar(content).unlink(missing_ok=True)
                    if expired:
                        content.unlink(missing_ok=True)
                    else:
                        _remove_abandoned(content)

    def _owners(self, scope: str | None) -> list[str]:
        if scope is not None:
            return [scope]
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if _OWNER.fullmatch(path.name))

    def _folder(self, owner: str) -> Path:
        if not _OWNER.fullmatch(owner):
            raise ValueError(f"{owner!r} can be no owner of files")
        return self.root / owner


@contextmanager
def told_when_full() -> Iterator[None]:
    """A full disk becomes an error that the client is told. Raises StorageFull, and OSError for other faults."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull("The disk that keeps files is full; delete some, or try again later.") from error
        raise


def _sidecar(content: Path) -> Path:
    return content.with_name(f"{content.name}.json")


def _contents(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return [path for path in folder.iterdir() if FILE_ID.fullmatch(path.name)]
    return []


def _read(content: Path) -> StoredFile | None:
    """None for a file that is not whole or has expired."""
    try:
        file = StoredFile.model_validate_json(read_small(_sidecar(content), _MOST_SIDECAR_BYTES))
    except FileNotFoundError:
        return None
    except (ValidationError, StoreError):
        log.warning("%s is damaged; its file is not shown", _sidecar(content))
        return None
    in_its_place = (file.id, file.owner) == (content.name, content.parent.name)
    return file if in_its_place and file.expires_at > time.time() else None


def _remove_abandoned(path: Path) -> None:
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
            path.unlink()

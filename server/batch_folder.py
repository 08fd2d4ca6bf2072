"""What a batch works with on disk: the file that it runs, and the two that it writes.

FILES/.batches/<batch id>/input     a second name of the client's file, so that deleting that one does no harm
FILES/.batches/<batch id>/output    lines answered; what is in here or in `errors` is done for good
FILES/.batches/<batch id>/errors    lines that failed
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from server.batch_lines import Answer, number_in
from server.files import told_when_full


class FolderInUse(Exception):
    """Another process of this machine carries the batch out."""


class BatchFolder:
    """Open while a clerk carries the batch out. Raises OSError, and StorageFull on a full disk."""

    def __init__(self, path: Path, batch_id: str) -> None:
        self.path = path
        self.input, self.output, self.errors = path / "input", path / "output", path / "errors"
        self.completed: set[int] = set()  # numbers of the lines in `output`
        self.failed: set[int] = set()  # and in `errors`; no line is in both
        self._batch_id = batch_id
        self._output: FileIO
        self._errors: FileIO

    @contextmanager
    def opened(self) -> Iterator[None]:
        """With all that was written before. Raises FolderInUse: a clerk that was stopped still has it, whatever Redis
        says of its lease, and when it goes on it may write."""
        with told_when_full():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileIO(self.output, "a+") as self._output, FileIO(self.errors, "a+") as self._errors:
            try:
                fcntl.flock(self._output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderInUse from None
            self.completed = _recover(self._output, self._batch_id)
            self.failed = _recover(self._errors, self._batch_id)
            yield

    def take_input(self, content: Path) -> None:
        """Raises FileNotFoundError where the client's file is gone."""
        with suppress(FileExistsError):
            self.input.hardlink_to(content)

    def done(self, number: int) -> bool:
        """Whether a line has its answer."""
        return number in self.completed or number in self.failed

    def write(self, answers: list[Answer]) -> None:
        """All of them are on disk once this returns. If it raises, open the folder anew to know which are."""
        _append(self._output, b"".join(answer.written for answer in answers if not answer.failed))
        _append(self._errors, b"".join(answer.written for answer in answers if answer.failed))
        self.completed.update(answer.number for answer in answers if not answer.failed)
        self.failed.update(answer.number for answer in answers if answer.failed)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _append(file: FileIO, content: bytes) -> None:
    if not content:
        return
    size = os.fstat(file.fileno()).st_size
    left = memoryview(content)
    try:
        with told_when_full():
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
    except Exception:
        file.truncate(size)
        raise


def _recover(file: FileIO, batch_id: str) -> set[int]:
    """Numbers of the lines that it answers. What a crash has left of a line behind them is cut off."""
    found: set[int] = set()
    size = 0
    with os.fdopen(os.dup(file.fileno()), "rb") as reader:
        reader.seek(0)
        for written in reader:
            number = number_in(batch_id, written)
            if number is None:
                break
            found.add(number)
            size += len(written)
    file.truncate(size)
    return found

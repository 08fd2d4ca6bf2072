"""The content of a file as a body: piece by piece, read in a thread, whole or a part of it."""

from __future__ import annotations

from typing import BinaryIO

from server.threads import in_thread

_BYTES = 1 << 18


class FilePieces:
    """What an open file holds; it can be sought, so that a range of it is sent without reading what is before."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __iter__(self) -> FilePieces:
        return self

    def __next__(self) -> bytes:
        piece = in_thread(self._file.read, _BYTES)
        if not piece:
            self.close()
            raise StopIteration
        return piece

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int) -> None:
        self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        """Also where nothing of it was read."""
        self._file.close()

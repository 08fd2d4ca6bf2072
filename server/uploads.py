"""Uploads: a form with one file, which goes to disk as it comes, however large it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import gevent
from flask import request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from contracts.errors import BodyTooLarge, BodyTooSlow, InvalidRequest
from server.files import FileStore, Incoming
from server.threads import in_thread

MOST_FORM_BYTES = 1 << 16  # of all but the file: boundaries, heads of parts and the form's other fields
MOST_PARTS = 16
_PIECE_BYTES = 1 << 16
_WRITE_BYTES = 1 << 20


@dataclass
class Upload:
    """A form that has been read."""

    content: Incoming
    filename: str | None = None  # None: no file came
    fields: dict[str, str] = field(default_factory=dict)


@contextmanager
def upload(files: FileStore, most_bytes: int, seconds_per_mebibyte: float) -> Iterator[Upload]:
    """The form in the body of the current request; its content is gone afterwards unless it was kept.

    Raises BodyTooLarge, BodyTooSlow, InvalidRequest for what is no such form, and StorageFull.
    """
    request.max_content_length = most_bytes + MOST_FORM_BYTES
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype != "multipart/form-data" or not boundary.isascii() or not boundary:
        raise InvalidRequest("Send the file as multipart/form-data, as `curl -F file=@requests.jsonl` does.")
    with files.incoming() as content:
        received = Upload(content)
        try:
            _Reader(received, boundary.encode(), most_bytes).read(_pieces(seconds_per_mebibyte))
        except (ValueError, ParseException):
            raise InvalidRequest("The form breaks off or is not multipart/form-data; send it again.") from None
        yield received


def _pieces(seconds_per_mebibyte: float) -> Iterator[bytes]:
    """The body, which may take its time by its length. Raises BodyTooSlow."""
    began, received = time.monotonic(), 0
    slow = BodyTooSlow(
        f"The file comes too slowly; each MiB may take {seconds_per_mebibyte:g} seconds. Send it faster, or in parts."
    )
    while True:
        left = began + seconds_per_mebibyte * (1 + received / (1 << 20)) - time.monotonic()
        with gevent.Timeout(max(left, 0.001), slow):
            piece = request.stream.read(_PIECE_BYTES)
        if not piece:
            return
        received += len(piece)
        yield piece


class _Reader:
    """Takes a form apart."""

    def __init__(self, upload: Upload, boundary: bytes, most_bytes: int) -> None:
        self._upload = upload
        self._most_bytes = most_bytes
        self._decoder = MultipartDecoder(boundary, MOST_FORM_BYTES + 2 * _PIECE_BYTES, max_parts=MOST_PARTS)
        self._name = ""  # of the part that is being read
        self._text: bytearray | None = None  # of a field; None: the part is the file
        self._unwritten = bytearray()
        self._bytes = 0

    def read(self, pieces: Iterator[bytes]) -> None:
        """Raises ValueError for what is no form, and what writing raises."""
        for piece in pieces:
            self._decoder.receive_data(piece)
            self._take_events()
        self._decoder.receive_data(None)
        self._take_events()
        self._write()
        in_thread(self._upload.content.finish)

    def _take_events(self) -> None:
        while not isinstance(event := self._decoder.next_event(), NeedData | Epilogue):
            if isinstance(event, File):
                self._begin_file(event)
            elif isinstance(event, Field):
                if not event.name:
                    raise ValueError("a part without a name")
                self._name, self._text = event.name, bytearray()
            elif isinstance(event, Data):
                self._add(event)

    def _begin_file(self, part: File) -> None:
        if part.name != "file" or self._upload.filename is not None:
            raise InvalidRequest("The form has a file that nobody asked for; send one, as 'file'.", param=part.name)
        self._upload.filename, self._text = part.filename, None

    def _add(self, data: Data) -> None:
        if self._text is None:
            self._add_content(data.data)
            return
        self._text += data.data
        if len(self._text) > MOST_FORM_BYTES:
            raise RequestEntityTooLarge
        if not data.more_data:
            self._upload.fields[self._name] = self._text.decode(errors="replace")

    def _add_content(self, piece: bytes) -> None:
        self._bytes += len(piece)
        if self._bytes > self._most_bytes:
            raise BodyTooLarge(f"The file has more than {self._most_bytes} bytes; cut it into smaller ones.")
        self._unwritten += piece
        if len(self._unwritten) >= _WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        piece, self._unwritten = bytes(self._unwritten), bytearray()
        in_thread(self._upload.content.write, piece)

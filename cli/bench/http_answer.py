"""An HTTP/1.1 answer, read as its bytes come in. Nothing here does input or output."""

from __future__ import annotations

from contracts.errors import KamishibaiError

HEAD_BYTES = 64 << 10
LINE_BYTES = 4 << 10  # a chunk's size with its extensions, or a line behind the last chunk


class BrokenAnswer(KamishibaiError):
    """What comes is no HTTP, or ends before its end."""


class HttpAnswer:
    """`feed` gives back what some bytes add to the body. A body ends as Content-Length says, with its last chunk, or
    with the connection."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}  # names in lower case; of several with one name the last
        self.ended = False
        self._version = ""
        self._buffer = bytearray()
        self._read = self._read_head
        self._left = 0  # bytes of the body, or of the chunk, that are still to come

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        connection = self.headers.get("connection", "").lower()
        kept = "close" not in connection if self._version != "HTTP/1.0" else "keep-alive" in connection
        return kept and self.ended and self._read != self._read_until_close and not self._buffer

    def feed(self, data: bytes) -> bytes:
        """Raises BrokenAnswer for what is no HTTP."""
        self._buffer += data
        body = b""
        while not self.ended and (piece := self._read()) is not None:
            body += piece
        return body

    def close(self) -> None:
        """The connection has ended. Raises BrokenAnswer if the answer has not."""
        if self._read == self._read_until_close:
            self.ended = True
        if not self.ended:
            raise BrokenAnswer("the connection was closed in the middle of an answer")

    # Each of these takes from the buffer what it can; None waits for more bytes.

    def _read_head(self) -> bytes | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES:
                raise BrokenAnswer(f"the head of an answer has more than {HEAD_BYTES} bytes")
            return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        self._version, _, rest = first.partition(" ")
        status = rest[:3]
        if not (self._version.startswith("HTTP/1.") and len(status) == 3 and status.isascii() and status.isdigit()):
            raise BrokenAnswer(f"an answer begins with {first[:100]!r}, which is no HTTP/1.1")
        if status.startswith("1"):  # "100 Continue" and the like: the answer comes behind it
            return b""
        self.status = int(status)
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self._choose_body()
        return b""

    def _choose_body(self) -> None:
        length = self.headers.get("content-length", "")
        if self.status in {204, 304}:
            self.ended = True
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._read = self._read_chunk_size
        elif not length:
            self._read = self._read_until_close
        elif length.isascii() and length.isdigit():
            self._left = int(length)
            self._read = self._read_length
            self.ended = self._left == 0
        else:
            raise BrokenAnswer(f"an answer's Content-Length is {length[:100]!r}, which is no number")

    def _read_length(self) -> bytes | None:
        piece = self._take()
        self.ended = self._left == 0
        return piece

    def _read_until_close(self) -> bytes | None:
        self._left = len(self._buffer)
        return self._take()

    def _read_chunk_size(self) -> bytes | None:
        line = self._line()
        if line is None:
            return None
        size = line.partition(b";")[0].strip()
        try:
            self._left = int(size, 16)
        except ValueError:
            raise BrokenAnswer(f"a chunk's size is {bytes(size[:100])!r}, which is no number") from None
        self._read = self._read_chunk if self._left else self._read_trailer
        return b""

    def _read_chunk(self) -> bytes | None:
        piece = self._take()
        if not self._left:
            self._read = self._read_chunk_end
        return piece

    def _read_chunk_end(self) -> bytes | None:
        line = self._line()
        if line is None:
            return None
        if line:
            raise BrokenAnswer("a chunk is longer than it says")
        self._read = self._read_chunk_size
        return b""

    def _read_trailer(self) -> bytes | None:
        line = self._line()
        if line is None:
            return None
        self.ended = not line
        return b""

    def _take(self) -> bytes | None:
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: len(piece)]
        self._left -= len(piece)
        return piece or None

    def _line(self) -> bytearray | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > LINE_BYTES:
                raise BrokenAnswer(f"a line between two chunks has more than {LINE_BYTES} bytes")
            return None
        line = self._buffer[:end]
        del self._buffer[: end + 2]
        return line

"""Server-sent events in the pieces of a body, each with the time at which its end came in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Event(NamedTuple):
    seconds: float  # the time of the piece that completed it
    data: bytes


def events(pieces: Iterable[tuple[float, bytes]]) -> Iterator[Event]:
    """Comments, ids and names are passed over, and so is an event that has not ended."""
    begun = b""  # a line whose end has not come
    data: list[bytes] = []
    for seconds, piece in pieces:
        *lines, begun = (begun + piece).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield Event(seconds, b"\n".join(data))
                data = []

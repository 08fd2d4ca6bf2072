"""The pixels of a PNG file that a worker has written, without an image library: servers have none."""

from __future__ import annotations

import struct
import zlib

MOST_PIXELS = 1 << 16  # of a file; reading more would keep a clerk from its other work for too long

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3}  # by colour type: grey and RGB


def png_pixels(file: bytes) -> tuple[tuple[int, int, int], bytes] | None:
    """Width, height and channels, and a byte for each. None for what is no PNG as workers write them (8 bits, grey or
    RGB, not interlaced) or is too large."""
    try:
        chunks = _chunks(file)
        width, height, *kind = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
        channels = _CHANNELS.get(kind[1], 0)
        if kind != [8, kind[1], 0, 0, 0] or not channels or not 0 < width * height <= MOST_PIXELS:
            return None
        length = (width * channels + 1) * height
        raw = zlib.decompressobj().decompress(chunks[b"IDAT"], length + 1)
        return ((width, height, channels), _unfiltered(raw, height, channels)) if len(raw) == length else None
    except (ValueError, KeyError, struct.error, zlib.error):
        return None


def _chunks(file: bytes) -> dict[bytes, bytes]:
    """By type; the parts of one that comes in several are joined. Raises ValueError, struct.error."""
    if not file.startswith(_SIGNATURE):
        raise ValueError("it is no PNG")
    found: dict[bytes, bytes] = {}
    place = len(_SIGNATURE)
    while place < len(file):
        length, kind = struct.unpack_from(">I4s", file, place)
        found[kind] = found.get(kind, b"") + file[place + 8 : place + 8 + length]
        place += length + 12
    return found


def _unfiltered(raw: bytes, height: int, channels: int) -> bytes:
    """The lines without the filters that PNG puts before its compression. Raises ValueError for an unknown filter."""
    step = len(raw) // height
    before = bytes(step - 1)
    lines = []
    for place in range(0, len(raw), step):
        before = _unfiltered_line(raw[place], raw[place + 1 : place + step], before, channels)
        lines.append(before)
    return b"".join(lines)


def _unfiltered_line(kind: int, line: bytes, above: bytes, channels: int) -> bytes:
    if kind == 0:
        return line
    if kind == 2:
        return bytes((byte + up) & 255 for byte, up in zip(line, above, strict=True))
    found = bytearray(channels)  # so that what is left of the first pixel is 0
    corner = bytes(channels) + above
    for index, byte in enumerate(line):
        left, up = found[index], above[index]
        found.append((byte + _predicted(kind, left, up, corner[index])) & 255)
    return bytes(found[channels:])


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 1:
        return left
    if kind == 3:
        return (left + up) // 2
    if kind != 4:
        raise ValueError(f"{kind} is no filter of PNG")
    distances = (abs(up - corner), abs(left - corner), abs(left + up - 2 * corner))
    return (left, up, corner)[distances.index(min(distances))]  # the first of equal ones, as PNG has it

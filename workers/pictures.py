"""PNG files from raw pixels."""

from __future__ import annotations

import io

from PIL import Image


def encode_png(pixels: bytes, size: tuple[int, int]) -> bytes:
    """Raw uint8 pixels (height x width x 1 or 3 channels) of a `size` (width, height) picture as a PNG file."""
    width, height = size
    channels = len(pixels) // (width * height)
    picture = Image.frombytes("RGB" if channels == 3 else "L", size, pixels)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)  # level 1 costs three quarters of the default's time
    return file.getvalue()

"""Files from raw pixels: a PNG of one picture, or one file of many."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from contracts.requests import ImageRequest

try:
    import fpng
except ImportError:  # it is in an extra, since not every machine has a wheel of it
    fpng = None

PNG_ENCODER = "pillow" if fpng is None else "fpng"  # the same pixels are other bytes


def encode_png(pixels: bytes, size: tuple[int, int]) -> bytes:
    """Raw uint8 pixels (height x width x 1 or 3 channels) of a `size` (width, height) picture as a PNG file."""
    return _png(_image(pixels, size))


def encode_file(request: ImageRequest, pictures: Sequence[bytes], size: tuple[int, int]) -> bytes:
    """The file of a request that asks for one of all its pictures."""
    if request.layout == "grid":
        return encode_grid(pictures, size)
    if request.layout == "array":
        return encode_npy(pictures, size)
    encode = encode_gif if request.output_format == "gif" else encode_webp
    return encode(pictures, size, request.frame_milliseconds)


def encode_grid(pictures: Sequence[bytes], size: tuple[int, int]) -> bytes:
    """Row by row in the smallest square that holds them, as one PNG file; places that are left over are black."""
    images = [_image(pixels, size) for pixels in pictures]
    (width, height), columns = size, math.isqrt(len(images) - 1) + 1
    sheet = Image.new(images[0].mode, (columns * width, -(-len(images) // columns) * height))
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return _png(sheet)


def encode_gif(pictures: Sequence[bytes], size: tuple[int, int], frame_milliseconds: int) -> bytes:
    """An endless GIF. A frame in colour has 256 of its own, by octree: a twentieth of the median cut's time."""
    images = [_image(pixels, size) for pixels in pictures]
    frames = [image if image.mode == "L" else image.quantize(256, Image.Quantize.FASTOCTREE) for image in images]
    return _animation(frames, "GIF", frame_milliseconds)


def encode_webp(pictures: Sequence[bytes], size: tuple[int, int], frame_milliseconds: int) -> bytes:
    """An endless lossless WebP."""
    frames = [_image(pixels, size) for pixels in pictures]
    return _animation(frames, "WEBP", frame_milliseconds, lossless=True, quality=0, method=0)  # lossless at any quality


def encode_npy(pictures: Sequence[bytes], size: tuple[int, int]) -> bytes:
    """NumPy's file of a uint8 array (pictures, height, width, channels)."""
    width, height = size
    file = io.BytesIO()
    array = np.frombuffer(b"".join(pictures), np.uint8).reshape(len(pictures), height, width, -1)
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _image(pixels: bytes, size: tuple[int, int]) -> Image.Image:
    width, height = size
    return Image.frombytes("RGB" if len(pixels) == 3 * width * height else "L", size, pixels)


def _png(image: Image.Image) -> bytes:
    if image.mode == "RGB" and fpng is not None:
        content: bytes = fpng.from_bytes(image.tobytes(), image.width, image.height, 3)
        return content
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # level 1 costs three quarters of the default's time
    return file.getvalue()


def _animation(frames: list[Image.Image], kind: str, frame_milliseconds: int, **options: bool | int) -> bytes:
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=frame_milliseconds, loop=0, **options)
    return file.getvalue()

"""PNG files are read without an image library."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.png_pixels import MOST_PIXELS, png_pixels
from workers.pictures import encode_png


def smooth(width, height, channels, seed):
    """Pixels for which encoders choose every filter there is."""
    noise = np.random.default_rng(seed).integers(-9, 9, (height, width, channels))
    return (np.cumsum(np.cumsum(noise, axis=0), axis=1) & 255).astype(np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 9), st.booleans())
def test_the_pixels_of_a_workers_file_are_read(width, height, channels, seed, through_pillow):
    pixels = smooth(width, height, channels, seed)
    if through_pillow:  # which chooses a filter for each line
        file = io.BytesIO()
        Image.fromarray(pixels if channels == 3 else pixels[:, :, 0]).save(file, "PNG", compress_level=9)
        content = file.getvalue()
    else:
        content = encode_png(pixels.tobytes(), (width, height))
    assert png_pixels(content) == ((width, height, channels), pixels.tobytes())


@given(data=st.data())
def test_what_is_no_such_file_is_none(data, damaged):
    content = encode_png(smooth(6, 5, 3, 1).tobytes(), (6, 5))
    found = png_pixels(data.draw(damaged(content)))
    assert found is None or (len(found[1]) == found[0][0] * found[0][1] * found[0][2] <= 3 * MOST_PIXELS)


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16"])
def test_other_kinds_of_png_are_none(mode):
    file = io.BytesIO()
    Image.new(mode, (4, 4)).save(file, "PNG")
    assert png_pixels(file.getvalue()) is None


def test_a_large_one_is_none():
    assert png_pixels(encode_png(bytes(300 * 300), (300, 300))) is None

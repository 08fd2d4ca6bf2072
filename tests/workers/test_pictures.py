"""Files of pictures hold the pixels that they were made of, in the right order and places."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from contracts.requests import ImageRequest, Target
from workers.pictures import encode_file, encode_gif, encode_grid, encode_npy, encode_png, encode_webp

SIZE = (6, 4)  # width, height


def pictures_of(count, channels, size=SIZE):
    shape = (count, size[1], size[0], channels)
    return np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)


def raw(pictures):
    return [picture.tobytes() for picture in pictures]


def pixels_of(image, channels):
    return np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(image.height, image.width, channels)


def frames_of(file, channels):
    with Image.open(io.BytesIO(file)) as image:
        return [pixels_of(frame, channels) for frame in ImageSequence.Iterator(image)]


def test_where_fpng_is_not_installed_pillow_writes(monkeypatch):
    monkeypatch.setattr("workers.pictures.fpng", None)
    (picture,) = pictures_of(1, 3)
    with Image.open(io.BytesIO(encode_png(picture.tobytes(), SIZE))) as image:
        assert (pixels_of(image, 3) == picture).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), SIZE, (8, 8), (17, 5), (64, 64), (128, 128)])
@pytest.mark.parametrize("colours", [1, 2, 7, 255])
def test_a_png_holds_every_pixel(channels, size, colours):
    """Encoders take other ways for flat pictures, for runs, and for noise, which does not pack."""
    (picture,) = pictures_of(1, channels, size) % colours
    file = encode_png(picture.tobytes(), size)
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB" if channels == 3 else "L")
        assert (pixels_of(image, channels) == picture).all()
    assert file == encode_png(picture.tobytes(), size), "always the same bytes"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2), (9, 3, 3), (10, 4, 3)]
)
def test_a_grid_is_the_smallest_square_filled_row_by_row(channels, count, columns, rows):
    pictures = pictures_of(count, channels)
    with Image.open(io.BytesIO(encode_grid(raw(pictures), SIZE))) as image:
        sheet = pixels_of(image, channels)
    assert sheet.shape == (rows * SIZE[1], columns * SIZE[0], channels)
    tiles = sheet.reshape(rows, SIZE[1], columns, SIZE[0], channels).swapaxes(1, 2).reshape(-1, *pictures.shape[1:])
    assert (tiles[:count] == pictures).all()
    assert not tiles[count:].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gif_of_few_colours_holds_every_pixel_for_as_long_as_asked(channels):
    pictures = pictures_of(5, channels)
    file = encode_gif(raw(pictures), SIZE, 250)
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.size) == ("GIF", SIZE)
        assert (image.info["duration"], image.info["loop"]) == (250, 0)
    for frame, picture in zip(frames_of(file, channels), pictures, strict=True):
        assert np.abs(frame.astype(int) - picture).max() <= (0 if channels == 1 else 24)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_webp_holds_every_pixel_for_as_long_as_asked(channels):
    pictures = pictures_of(5, channels)
    file = encode_webp(raw(pictures), SIZE, 250)
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.size, image.info["loop"]) == ("WEBP", SIZE, 0)
        image.load()
        assert image.info["duration"] == 250
    assert (np.stack(frames_of(file, channels)) == pictures).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_is_all_pixels_by_picture_row_column_and_channel(channels):
    pictures = pictures_of(5, channels)
    loaded = np.load(io.BytesIO(encode_npy(raw(pictures), SIZE)), allow_pickle=False)
    assert loaded.dtype == np.uint8
    assert (loaded == pictures).all()


@pytest.mark.parametrize(
    ("layout", "output_format", "beginning"),
    [
        ("grid", "png", b"\x89PNG"),
        ("animation", "gif", b"GIF89a"),
        ("animation", "webp", b"RIFF"),
        ("array", "npy", b"\x93NUMPY"),
    ],
)
def test_the_largest_files_stay_below_four_mebibytes(layout, output_format, beginning):
    """Noise is what packs worst."""
    target = Target(model="m", version=1, variant="v")
    for count, size in ((64, (128, 128)), (1024, (32, 32)), (1, (1024, 1024))):
        request = ImageRequest(target=target, seed=0, count=count, layout=layout, output_format=output_format)
        request.check_file(size)
        file = encode_file(request, raw(pictures_of(count, 3, size)), size)
        assert file.startswith(beginning)
        assert len(file) <= 4 << 20

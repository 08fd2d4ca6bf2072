"""Pictures of a folder: any format and size, what is broken is named, in memory or read ahead."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from contracts.errors import StoreError
from training.demo_faces import draw_faces
from training.pictures import CachedPictures, PictureFolder, ReadPictures, read_picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def three_stripes(width=90, height=30):
    """Red, green and blue from left to right."""
    image = Image.new("RGB", (width, height))
    for place, colour in enumerate((RED, GREEN, BLUE)):
        image.paste(colour, (place * width // 3, 0, (place + 1) * width // 3, height))
    return image


def folder_of(path, faces, **options):
    path.mkdir(exist_ok=True)
    for place, face in enumerate(faces):
        Image.fromarray(face).save(path / f"{place:03}.png")
    return PictureFolder(path, 32, show_progress=False, **options)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
def test_the_middle_square_of_any_format_is_taken(ending, tmp_path):
    three_stripes().save(tmp_path / f"stripes.{ending}")
    pixels = read_picture(tmp_path / f"stripes.{ending}", 8)
    assert pixels.shape == (8, 8, 3)
    assert abs(pixels[:, 1:7].astype(int) - GREEN).max() < 12


def test_tall_tiny_and_huge_pictures_become_squares_too(tmp_path):
    for name, (width, height) in {"tall": (3, 99), "dot": (1, 1), "large": (2000, 1500)}.items():
        Image.new("RGB", (width, height), BLUE).save(tmp_path / f"{name}.jpg", quality=100)
    folder = PictureFolder(tmp_path, 16, show_progress=False)
    assert isinstance(folder.pictures, CachedPictures)
    assert folder.pictures.pixels.shape == (3, 16, 16, 3)
    assert abs(folder.pictures.pixels.astype(int) - BLUE).max() < 8


def test_what_shows_through_is_white_and_greys_are_grey(tmp_path):
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "palette.gif", transparency=1)
    Image.new("L", (9, 9), 77).save(tmp_path / "grey.png")
    Image.fromarray(np.full((9, 9), 200 << 8, np.uint16)).save(tmp_path / "sixteen.png")
    Image.new("CMYK", (9, 9), (0, 0, 0, 0)).save(tmp_path / "print.jpg")
    shown = {name: tuple(read_picture(tmp_path / name, 4)[2, 2].tolist()) for name in ("clear.png", "palette.gif")}
    assert shown == {"clear.png": WHITE, "palette.gif": WHITE}
    assert read_picture(tmp_path / "grey.png", 4)[2, 2].tolist() == [77] * 3
    assert read_picture(tmp_path / "sixteen.png", 4)[2, 2].tolist() == [200] * 3
    assert read_picture(tmp_path / "print.jpg", 4)[2, 2].min() > 250


def test_a_photograph_that_was_held_sideways_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture = Image.new("RGB", (40, 40), RED)
    picture.paste(BLUE, (0, 0, 40, 20))  # the upper half, which becomes the right one
    picture.save(tmp_path / "turned.png", exif=exif)
    pixels = read_picture(tmp_path / "turned.png", 8)
    assert (tuple(pixels[4, 1].tolist()), tuple(pixels[4, 6].tolist())) == (RED, BLUE)


def test_files_that_are_no_pictures_are_named_and_skipped_and_hidden_ones_are_not_looked_at(tmp_path, capsys):
    faces = draw_faces(3, 32)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "notes.txt").write_text("not a picture")
    Image.fromarray(faces[0]).save(tmp_path / "deep" / "er" / "a.png")
    whole = io.BytesIO()
    Image.fromarray(faces[1]).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:-400])
    folder = PictureFolder(tmp_path, 32)
    assert [path.name for path in folder.paths] == ["a.png"]
    assert folder.broken.keys() == {"cut.jpg", "notes.txt"}
    said = capsys.readouterr().out
    assert "1 pictures; 2 skipped: cut.jpg (" in said
    assert "notes.txt (no picture)" in said


def test_a_folder_without_pictures_and_what_is_no_folder_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a picture")
    with pytest.raises(StoreError, match=r"holds no picture that can be read; 1 skipped: notes\.txt \(no picture\)"):
        PictureFolder(tmp_path, 32, show_progress=False)
    with pytest.raises(StoreError, match=r"notes\.txt is no folder; give one with pictures"):
        PictureFolder(tmp_path / "notes.txt", 32, show_progress=False)


def test_pictures_that_do_not_fit_into_memory_are_read_again_and_are_the_same(tmp_path):
    faces = draw_faces(20, 32)
    cached, read = folder_of(tmp_path / "a", faces), folder_of(tmp_path / "a", faces, cached_bytes=20 * 32 * 32 * 3 - 1)
    assert isinstance(cached.pictures, CachedPictures)
    assert isinstance(read.pictures, ReadPictures)
    order = [[3, 1], [19, 0], *([n, n + 1] for n in range(17))]
    batches, again = list(cached.pictures.batches(order)), list(read.pictures.batches(order))
    assert len(batches) == len(again) == len(order)
    assert all(torch.equal(one, other) for one, other in zip(batches, again, strict=True))
    assert torch.equal(batches[0][0], torch.from_numpy(faces[3]).permute(2, 0, 1))
    first = next(iter(read.pictures.batches(order)))  # and the rest is never asked for
    assert torch.equal(first, batches[0])


def test_a_picture_that_has_gone_since_is_named(tmp_path):
    folder = folder_of(tmp_path / "a", draw_faces(4, 32), cached_bytes=0)
    (tmp_path / "a" / "002.png").unlink()
    with pytest.raises(StoreError, match=r"002\.png could be read when training began, and cannot now"):
        list(folder.pictures.batches([[0, 1], [2, 3]]))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_pictures_are_read_or_skipped(kind, data, damaged, tmp_path):
    whole = io.BytesIO()
    three_stripes(12, 9).save(whole, kind)
    (tmp_path / "a.bin").write_bytes(data.draw(damaged(whole.getvalue())))
    Image.new("RGB", (9, 9), RED).save(tmp_path / "b.png")
    folder = PictureFolder(tmp_path, 8, show_progress=False)
    assert len(folder.paths) + len(folder.broken) == 2

"""Grids and animations."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from training.grids import MOST_FRAMES, grid, write_animations, write_png


def plain(value, size=4):
    return np.full((size, size, 3), value, np.uint8)


def frames(folder, count):
    files = [folder / f"epoch-{number:03}.png" for number in range(count)]
    for number, file in enumerate(files):
        write_png(plain(number, 8), file)
    return files


def shown(path):
    """The grey of each frame, and how long it is seen."""
    with Image.open(path) as animation:
        found = []
        for number in range(getattr(animation, "n_frames", 1)):
            animation.seek(number)
            grey = animation.convert("RGB").getpixel((4, 4))
            found.append((grey[0] if isinstance(grey, tuple) else grey, animation.info["duration"]))
        return found


def test_pictures_stand_row_by_row_with_white_between_them():
    sheet = grid(np.stack([plain(value) for value in (10, 20, 30)]), columns=2)
    assert sheet.shape == (2 + 6 + 6, 2 + 6 + 6, 3)
    assert (sheet[2:6, 2:6] == 10).all()
    assert (sheet[2:6, 8:12] == 20).all()
    assert (sheet[8:12, 2:6] == 30).all()
    assert (sheet[8:12, 8:12] == 255).all()
    assert (sheet[:2] == 255).all()


def test_the_animation_shows_every_epoch_and_rests_on_the_last(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert write_animations(frames(tmp_path, 5), tmp_path) == [tmp_path / "animation.gif"]
    assert shown(tmp_path / "animation.gif") == [(0, 300), (1, 300), (2, 300), (3, 300), (4, 2000)]
    assert not (tmp_path / "animation.mp4").exists()


def test_of_very_many_epochs_some_are_shown_with_the_first_and_the_last(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    write_animations(frames(tmp_path, 2 * MOST_FRAMES), tmp_path)
    values = [value for value, _ in shown(tmp_path / "animation.gif")]
    assert len(values) == MOST_FRAMES
    assert (values[0], values[-1]) == (0, 2 * MOST_FRAMES - 1)
    assert values == sorted(values)


def test_without_a_grid_there_is_no_animation(tmp_path):
    assert write_animations([], tmp_path) == []


@pytest.mark.parametrize("works", [True, False])
def test_where_ffmpeg_is_on_the_path_there_is_a_video_too(works, tmp_path, monkeypatch):
    """A program of that name stands in for it: it keeps the frames that it is given."""
    programs = tmp_path / "bin"
    programs.mkdir()
    keep = 'for last; do :; done; echo "$@" > "$last.said"; cat > "$last"'
    (programs / "ffmpeg").write_text(f"#!/bin/sh\n{keep}\nexit {0 if works else 1}\n")
    (programs / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    written = write_animations(frames(tmp_path, 3), tmp_path)
    assert [path.name for path in written] == ["animation.gif", *(["animation.mp4"] if works else [])]
    assert (tmp_path / "animation.mp4").exists() == works
    if works:
        raw = np.frombuffer((tmp_path / "animation.mp4").read_bytes(), np.uint8).reshape(-1, 8, 8, 3)
        assert raw[:4, 0, 0, 0].tolist() == [0, 1, 2, 2]
        assert "-s 8x8" in (tmp_path / "animation.mp4.said").read_text()

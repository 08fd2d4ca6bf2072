"""Many pictures as one, and one after the other: what a generator draws of the same latents, epoch by epoch."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ANIMATION, VIDEO = "animation.gif", "animation.mp4"
MOST_FRAMES = 100  # of an animation, evenly apart; a GIF keeps each of them whole
FRAME_MILLISECONDS = 300
LAST_FRAME_MILLISECONDS = 2000
_GAP = 2  # pixels between pictures; sides stay even, which videos need


def grid(pixels: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Pictures (count, size, size, 3) row by row on white: (height, width, 3)."""
    count, size = len(pixels), pixels.shape[1]
    rows, pitch = -(-count // columns), size + _GAP
    sheet = np.full((rows * pitch + _GAP, columns * pitch + _GAP, 3), 255, np.uint8)
    for place, picture in enumerate(pixels):
        top, left = (_GAP + place // columns * pitch, _GAP + place % columns * pitch)
        sheet[top : top + size, left : left + size] = picture
    return sheet


def write_png(sheet: NDArray[np.uint8], path: Path) -> None:
    incoming = path.with_name(f".incoming-{path.name}")
    Image.fromarray(sheet).save(incoming, "PNG")
    incoming.replace(path)


def write_animations(files: Sequence[Path], folder: Path) -> list[Path]:
    """A GIF of PNG files of one size and, where ffmpeg is on the PATH, a video; what was written."""
    frames = [_read(file) for file in _evenly(files)]
    if not frames:
        return []
    first, *others = (Image.fromarray(frame) for frame in frames)
    milliseconds = [FRAME_MILLISECONDS] * len(others) + [LAST_FRAME_MILLISECONDS]
    incoming = folder / f".incoming-{ANIMATION}"
    first.save(incoming, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    incoming.replace(folder / ANIMATION)
    written = [folder / ANIMATION]
    if (ffmpeg := shutil.which("ffmpeg")) and _write_video(ffmpeg, frames, folder / VIDEO):
        written.append(folder / VIDEO)
    return written


def _evenly(files: Sequence[Path]) -> list[Path]:
    """The first, the last and others between them."""
    if len(files) <= MOST_FRAMES:
        return list(files)
    return [files[round(place * (len(files) - 1) / (MOST_FRAMES - 1))] for place in range(MOST_FRAMES)]


def _read(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _write_video(ffmpeg: str, frames: Sequence[NDArray[np.uint8]], path: Path) -> bool:
    """Whether ffmpeg could: some are built without an encoder."""
    height, width, _ = frames[0].shape
    last = [frames[-1]] * (LAST_FRAME_MILLISECONDS // FRAME_MILLISECONDS)
    taken = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{1000 / FRAME_MILLISECONDS:g}"]
    command = [ffmpeg, "-y", "-loglevel", "error", *taken, "-i", "-", "-pix_fmt", "yuv420p", str(path)]
    raw = b"".join(frame.tobytes() for frame in [*frames, *last])
    done = subprocess.run(command, input=raw, capture_output=True, check=False)  # noqa: S603 - ffmpeg of the PATH, no shell
    if done.returncode:
        path.unlink(missing_ok=True)
    return done.returncode == 0

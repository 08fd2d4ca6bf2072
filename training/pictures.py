"""Pictures of a folder, of any format and size, as training and evaluation take them: RGB squares of one size."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from contracts.errors import StoreError
from training.progress import progress_bar

MOST_CACHED_BYTES = 4 << 30  # 349,525 pictures of 64x64; more are read from the disk again in every epoch
THREADS = min(8, os.cpu_count() or 1)  # that decode; libraries of pictures let go of Python's lock
BATCHES_AHEAD = 4  # of the one that is learnt
MOST_NAMED = 5  # files that are no pictures

Pixels = NDArray[np.uint8]


class Pictures(Protocol):
    def __len__(self) -> int: ...

    def batches(self, order: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        """A batch uint8 (count, 3, size, size) for each list of places."""


class CachedPictures:
    """Decoded once, and kept in memory."""

    def __init__(self, pixels: Pixels) -> None:
        """(count, size, size, 3)."""
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, order: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        for places in order:
            yield _tensor(self.pixels[np.asarray(places)])


class ReadPictures:
    """Decoded whenever they are asked for, some batches ahead."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self._paths, self._size = paths, size

    def __len__(self) -> int:
        return len(self._paths)

    def batches(self, order: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        """Raises StoreError for a picture that is there no more."""
        pool = ThreadPoolExecutor(THREADS)
        ahead: deque[Iterator[Pixels]] = deque()
        try:
            for places in order:
                ahead.append(pool.map(self._read, places))
                if len(ahead) > BATCHES_AHEAD:
                    yield _tensor(np.stack(list(ahead.popleft())))
            while ahead:
                yield _tensor(np.stack(list(ahead.popleft())))
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, place: int) -> Pixels:
        path = self._paths[place]
        try:
            return read_picture(path, self._size)
        except _BROKEN as error:
            raise StoreError(f"{path} could be read when training began, and cannot now: {_reason(error)}") from None


class PictureFolder:
    """The pictures of a folder, and what was left out."""

    def __init__(
        self, path: Path, size: int, *, cached_bytes: int = MOST_CACHED_BYTES, show_progress: bool = True
    ) -> None:
        """All files are decoded once. Raises StoreError for what is no folder, and for one without a picture."""
        if not path.is_dir():
            raise StoreError(f"{path} is no folder; give one with pictures")
        files = files_below(path)
        cached = len(files) * size * size * 3 <= cached_bytes
        self.broken: dict[str, str] = {}  # file -> reason
        self.paths: list[Path] = []
        kept = np.empty((len(files) if cached else 0, size, size, 3), np.uint8)
        bar = progress_bar(len(files), f"pictures of {path.name}", show=show_progress, unit="picture")
        with ThreadPoolExecutor(THREADS) as pool, bar:
            for file, (pixels, reason) in zip(files, pool.map(lambda file: _tried(file, size), files), strict=True):
                bar.update()
                if pixels is None:
                    self.broken[str(file.relative_to(path))] = reason
                    continue
                if cached:
                    kept[len(self.paths)] = pixels
                self.paths.append(file)
        if not self.paths:
            raise StoreError(f"{path} holds no picture that can be read{self._named()}")
        found = len(self.paths)
        self.pictures: Pictures = CachedPictures(kept[:found]) if cached else ReadPictures(self.paths, size)
        if show_progress:
            tqdm.write(f"{path}: {len(self.paths):,} pictures{self._named()}")

    def _named(self) -> str:
        """Some of the files that were left out, each with its reason."""
        if not self.broken:
            return ""
        named = [f"{file} ({reason})" for file, reason in list(self.broken.items())[:MOST_NAMED]]
        more = [f"{len(self.broken) - MOST_NAMED:,} more"] if len(self.broken) > MOST_NAMED else []
        return f"; {len(self.broken):,} skipped: {', '.join(named + more)}"


def files_below(folder: Path) -> list[Path]:
    """All files but hidden ones, sorted by name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def read_picture(path: Path, size: int) -> Pixels:
    """The middle square, resized: RGB (size, size, 3). What shows through is white. Raises what is in _BROKEN."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * size, 2 * size))  # a large JPEG is decoded no larger than it is needed
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # scientific greys, which Pillow would cut at 255
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.has_transparency_data:
            seen = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
        return np.asarray(ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC))


# What Pillow raises for files that it cannot read, or that would take all memory.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def _tried(path: Path, size: int) -> tuple[Pixels | None, str]:
    """The picture, or why there is none."""
    try:
        return read_picture(path, size), ""
    except _BROKEN as error:
        return None, _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no picture"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)

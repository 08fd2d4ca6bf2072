"""Small files that others wrote."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from contracts.errors import StoreError

MOST_BYTES = 64 << 20  # of a manifest, a config or a tokenizer; GPT-2's tokenizer has 2 MB


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file, whole or not at all: readers see what was there or all of this. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:  # a full disk should not fill with halves, nor should Ctrl-C leave one
        Path(temporary).unlink(missing_ok=True)
        raise


def read_small(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a file that is not there for its size. Raises OSError, and StoreError for one of more bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, most) + 1)  # this much is allocated, and a device never ends
    if len(content) > most:
        raise StoreError(f"{path} has more than {most} bytes; no file of its kind is so large")
    return content

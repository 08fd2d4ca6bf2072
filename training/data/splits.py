"""Which part of the data a record belongs to: by its title, so that nothing is tested whose title was trained on."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Literal

Split = Literal["train", "validation"]


def split_of(title: str, validation_share: float, seed: int = 0) -> Split:
    """The same title is always in the same part, whatever else there is. Case, spaces and accents do not matter."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().casefold()
    words = " ".join(plain.split()) or title.strip()
    digest = hashlib.sha256(f"{seed}:{words}".encode()).digest()
    return "validation" if int.from_bytes(digest[:8], "big") < validation_share * 2**64 else "train"

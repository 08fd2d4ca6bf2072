"""Similarity of meaning: the cosine of the angle between the vectors that a sentence encoder gives two texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from contracts.errors import StoreError
from training.evaluation.similarity import Matrix, block_rows

BATCH_TEXTS = 64


class Encoder:
    """A sentence-transformers model of a folder or, by its name, of the hub."""

    def __init__(self, place: str, device: str = "cpu") -> None:
        """Raises StoreError."""
        self.name = Path(place).name if Path(place).is_dir() else place
        self._model = _load(place, device)

    def encode(self, texts: Sequence[str], *, description: str = "", show_progress: bool = False) -> Matrix:
        """Vectors of length 1, fp32 (texts, width). Of a text that is too long for the model, its beginning counts.

        Raises StoreError where they are not numbers.
        """
        vectors = []
        with tqdm(total=len(texts), desc=description, unit="text", disable=None if show_progress else True) as bar:
            for begin in range(0, len(texts), BATCH_TEXTS):
                batch = list(texts[begin : begin + BATCH_TEXTS])
                vectors.append(self._model.encode(batch, normalize_embeddings=True, show_progress_bar=False))
                bar.update(len(batch))
        found = np.concatenate(vectors).astype(np.float32, copy=False)
        if not np.isfinite(found).all():
            raise StoreError(f"the encoder {self.name} gives vectors that are not numbers; its weights are spoiled")
        return found


def embedding_blocks(
    encoder: Encoder, generated: Sequence[str], training: Sequence[str], *, show_progress: bool = False
) -> Iterator[Matrix]:
    """Similarities (rows, len(training)) of the generated texts, block by block, from -1 to 1."""
    if not generated:
        return
    known = encoder.encode(training, description="meaning of training texts", show_progress=show_progress)
    ours = encoder.encode(generated, description="meaning of generated texts", show_progress=show_progress)
    size = block_rows(len(training))
    for begin in range(0, len(ours), size):
        yield ours[begin : begin + size] @ known.T


def _load(place: str, device: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise StoreError(
            "similarity of meaning needs sentence-transformers; install it with: pip install 'kamishibai[evaluate]'"
        ) from None
    try:
        return SentenceTransformer(place, device=device)
    except Exception as error:  # it raises whatever the library that it met first does
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise StoreError(
            f"{place} cannot be used as an encoder: {reason}; give --encoder the folder of a sentence-transformers"
            " model, or the name of one on the hub such as sentence-transformers/all-MiniLM-L6-v2"
        ) from None

"""What the tokenizers of the `tokenizers` library have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import tokenizers

from contracts.errors import InvalidRequest, StoreError

MAX_TOKENS = 1 << 20  # the largest vocabularies have a quarter of that


class LibraryTokenizer:
    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Raises StoreError for ids that no model has rows for."""
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if not 0 <= largest < MAX_TOKENS:
            raise StoreError(f"its largest token id is {largest}; ids from 0 to {MAX_TOKENS - 1} can be used")
        # Ids may have gaps; what counts is the largest.
        self.vocabulary_size: int = largest + 1
        self._tokenizer = tokenizer

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """From a `tokenizer.json` of the library. Raises StoreError."""
        try:
            return cls(tokenizers.Tokenizer.from_buffer(content))
        except Exception as error:  # the library raises nothing more special
            raise StoreError(str(error)) from None

    def write(self, path: Path) -> None:
        self._tokenizer.save(str(path))

    def _ids(self, text: str, *, special: bool) -> list[int]:
        """Token ids, with the special ones around them or without. Raises InvalidRequest for text without UTF-8."""
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        except TypeError:  # the library's word for half a surrogate pair
            raise InvalidRequest("The text holds bytes that are not UTF-8; leave them out.") from None
        return ids

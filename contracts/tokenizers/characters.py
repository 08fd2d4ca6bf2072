"""One token per character."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from contracts.tokenizers.tokenizer import WriterKind
from contracts.tokenizers.vocabulary import UnknownPolicy, Vocabulary


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    characters: str
    unknown: UnknownPolicy
    unknown_token: str | None = None


class CharacterTokenizer:
    """A token's id is its position in `characters`.

    `unknown` says what becomes of characters outside of them: "skip" leaves them out, "replace" reads each as the
    character `unknown_token`, "error" refuses the text.
    """

    kind: ClassVar[WriterKind] = "characters"
    end_token = None

    def __init__(self, characters: str, unknown: UnknownPolicy = "skip", unknown_token: str | None = None) -> None:
        """Raises StoreError where these are no characters to read with."""
        self.characters = characters
        self._vocabulary = Vocabulary("characters", characters, unknown, unknown_token)
        self._bytes = [character.encode() for character in characters]

    @classmethod
    def parse(cls, content: bytes) -> CharacterTokenizer:
        """From what `write` wrote. Raises StoreError, ValidationError."""
        file = _File.model_validate_json(content)
        return cls(file.characters, file.unknown, file.unknown_token)

    @property
    def vocabulary_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        return self._vocabulary.ids(text)

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def drops_space_after(self, token: int | None) -> bool:
        return False

    def marked_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def token_text(self, token: int) -> str:
        return self.characters[token]

    def write(self, path: Path) -> None:
        known = self._vocabulary
        file = _File(characters=self.characters, unknown=known.unknown, unknown_token=known.unknown_token)
        path.write_text(file.model_dump_json(exclude_none=True), encoding="utf-8")

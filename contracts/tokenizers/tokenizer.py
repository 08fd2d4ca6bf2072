"""What every tokenizer of a model that writes text can do."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Protocol

WriterKind = Literal["characters", "words", "bpe"]
EncoderKind = Literal["wordpiece", "roberta"]  # of models that only read: contracts.tokenizers.encoders
TokenizerKind = WriterKind | EncoderKind


class Tokenizer(Protocol):
    kind: ClassVar[WriterKind]

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def end_token(self) -> int | None: ...

    def encode(self, text: str) -> list[int]:
        """Token ids. Raises InvalidRequest where the text holds something the model cannot read and may not skip."""

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes (perhaps a part of a character) that a token stands for; none for the end token."""

    def drops_space_after(self, token: int | None) -> bool:
        """Whether a text has no space behind this token, or at its beginning (None), though the next brings one."""

    def marked_bytes(self, token: int) -> bytes:
        """As `token_bytes`, but special tokens stand for their names: the markers of prompt fields."""

    def token_text(self, token: int) -> str:
        """A token as people read it: `bytes:\\xe3` where it is a part of a character, its name if it is special."""

    def write(self, path: Path) -> None: ...

"""Byte-level BPE, GPT-2's kind, through the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import tokenizers

from contracts.errors import StoreError
from contracts.tokenizers.library import LibraryTokenizer
from contracts.tokenizers.tokenizer import WriterKind


class BpeTokenizer(LibraryTokenizer):
    """GPT-2's kind: byte-level BPE. `end_token` ends a text and stands for no characters of it."""

    kind: ClassVar[WriterKind] = "bpe"

    def __init__(self, tokenizer: tokenizers.Tokenizer, end_token: str = "<|endoftext|>") -> None:  # noqa: S107 - not a password
        if not (
            isinstance(tokenizer.decoder, tokenizers.decoders.ByteLevel)
            and isinstance(tokenizer.model, tokenizers.models.BPE)
        ):
            raise StoreError("only byte-level BPE tokenizers (GPT-2's kind) can be used")
        super().__init__(tokenizer)
        self.end_token: int | None = tokenizer.token_to_id(end_token)
        added = tokenizer.get_added_tokens_decoder()
        self._bytes = [b""] * self.vocabulary_size
        byte_of = _byte_of_character()
        for piece, token in tokenizer.get_vocab().items():
            if token in added:
                self._bytes[token] = b"" if added[token].special else added[token].content.encode()
            else:
                self._bytes[token] = bytes(byte_of[character] for character in piece)

    def with_special_tokens(self, tokens: Sequence[str]) -> BpeTokenizer:
        """The same tokenizer with these tokens, which stand for no characters; those that it has keep their ids."""
        extended = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        extended.add_special_tokens([token for token in tokens if token])
        end = None if self.end_token is None else extended.id_to_token(self.end_token)
        return BpeTokenizer(extended, end or "<|endoftext|>")

    def encode(self, text: str) -> list[int]:
        return self._ids(text, special=False)

    def token_bytes(self, token: int) -> bytes:
        # A model may have more rows than its tokenizer has tokens (padded vocabularies); those stand for nothing.
        return self._bytes[token] if token < len(self._bytes) else b""

    def drops_space_after(self, token: int | None) -> bool:
        return False

    def marked_bytes(self, token: int) -> bytes:
        return self.token_bytes(token) or (self._tokenizer.id_to_token(token) or "").encode()

    def token_text(self, token: int) -> str:
        content = self.token_bytes(token)
        if not content:
            return self._tokenizer.id_to_token(token) or ""
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the other 68 are moved behind U+0100 in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(moved)}

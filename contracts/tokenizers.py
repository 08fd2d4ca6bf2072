"""Tokenizers of bundles: characters, and byte-level BPE through the `tokenizers` library.

Each says for a token which bytes it stands for, so that text can be put together token by token (`Detokenizer`) without
ever cutting a character in two.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Literal, Protocol, get_args

import tokenizers

from contracts.errors import InvalidRequest, StoreError

UnknownPolicy = Literal["skip", "error"]


class Tokenizer(Protocol):
    @property
    def vocabulary_size(self) -> int: ...

    @property
    def end_token(self) -> int | None: ...

    def encode(self, text: str) -> list[int]:
        """Token ids. Raises InvalidRequest where the text holds something the model cannot read and may not skip."""

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes (perhaps a part of a character) that a token stands for; none for the end token."""

    def marked_bytes(self, token: int) -> bytes:
        """The same, but special tokens stand for their names: the markers of prompt fields."""

    def token_text(self, token: int) -> str:
        """A token as people read it: `bytes:\\xe3` where it is a part of a character, its name if it is special."""

    def write(self, path: Path) -> None: ...


class CharacterTokenizer:
    """One token per character; the index is the position in `characters`.

    `unknown` says what becomes of characters outside of them: left out, or an error that names them.
    """

    end_token = None

    def __init__(self, characters: str, unknown: UnknownPolicy = "skip") -> None:
        if not isinstance(characters, str) or len(set(characters)) != len(characters) or not characters:
            raise StoreError("a character tokenizer needs a string of different characters")
        if unknown not in get_args(UnknownPolicy):
            raise StoreError(f"a character tokenizer's 'unknown' is 'skip' or 'error', not {unknown!r}")
        self.characters = characters
        self.unknown = unknown
        self._index = {character: index for index, character in enumerate(characters)}
        self._bytes = [character.encode() for character in characters]

    @property
    def vocabulary_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        unknown = sorted(set(text) - self._index.keys())
        if unknown and self.unknown == "error":
            raise InvalidRequest(f"This model does not know the characters {''.join(unknown[:20])!r}; leave them out.")
        return [self._index[character] for character in text if character in self._index]

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def marked_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def token_text(self, token: int) -> str:
        return self.characters[token]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"characters": self.characters, "unknown": self.unknown}), encoding="utf-8")


class BpeTokenizer:
    """GPT-2's kind: byte-level BPE. `end_token` ends a text and stands for no characters of it."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, end_token: str = "<|endoftext|>") -> None:  # noqa: S107 - not a password
        if not isinstance(tokenizer.decoder, tokenizers.decoders.ByteLevel):
            raise StoreError("only byte-level BPE tokenizers (GPT-2's kind) can be used")
        self._tokenizer = tokenizer
        self.end_token: int | None = tokenizer.token_to_id(end_token)
        # Ids may have gaps; what counts is the largest.
        self.vocabulary_size: int = max(tokenizer.get_vocab().values(), default=-1) + 1
        added = tokenizer.get_added_tokens_decoder()
        self._bytes = [b""] * (max(tokenizer.get_vocab().values()) + 1)
        byte_of = _byte_of_character()
        for piece, token in tokenizer.get_vocab().items():
            if token in added:
                self._bytes[token] = b"" if added[token].special else added[token].content.encode()
            else:
                self._bytes[token] = bytes(byte_of[character] for character in piece)

    def encode(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except TypeError:  # the library's word for half a surrogate pair
            raise InvalidRequest("The text holds bytes that are not UTF-8; leave them out.") from None
        return ids

    def token_bytes(self, token: int) -> bytes:
        # A model may have more rows than its tokenizer has tokens (padded vocabularies); those stand for nothing.
        return self._bytes[token] if token < len(self._bytes) else b""

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

    def write(self, path: Path) -> None:
        self._tokenizer.save(str(path))


class Detokenizer:
    """Puts text together token by token; what it returns is always whole characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The characters that this token completes."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that never came whole."""
        return self._decoder.decode(b"", final=True)


def read_tokenizer(kind: Literal["characters", "bpe"], path: Path) -> Tokenizer:
    """The tokenizer in a bundle or run folder. Raises StoreError for a file that holds none."""
    try:
        content = path.read_bytes()
        if kind == "bpe":
            return BpeTokenizer(_parse_bpe(content))
        fields = json.loads(content)
        return CharacterTokenizer(fields["characters"], fields["unknown"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, StoreError) as error:
        raise StoreError(f"{path} is not a tokenizer of kind {kind!r}: {error}") from None


def _parse_bpe(content: bytes) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing more special
        raise ValueError(error) from None


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the other 68 are moved behind U+0100 in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(moved)}

"""Words and punctuation marks as tokens.

A word is a run of anything but whitespace and marks; apostrophes and hyphens inside it belong to it ("don't",
"well-known"), and so do `.`, `,` and `:` between digits ("3.14", "10:30"). Every other mark is a token by itself.
Whitespace only separates, but a newline is a token where the vocabulary has it.

Text is put back together by fixed rules: a token brings a space before it, unless it is a mark that stands close to
what is before (".", ")"). At the beginning of a text or line and behind a mark that stands close to what follows ("(")
that space is dropped. So tokens that were written read back as the same tokens; a test tries to find others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from contracts.errors import StoreError
from contracts.tokenizers.tokenizer import WriterKind
from contracts.tokenizers.vocabulary import UnknownPolicy, Vocabulary

_MARKS = r"!-/:-@\[-`{-~¡«»¿\u2010-\u2027\u2030-\u205e"  # ASCII's, Latin's and General Punctuation
_RUN = rf"[^\s{_MARKS}]+"
_WORD = rf"{_RUN}(?:(?:['’-]|(?<=\d)[.,:](?=\d)){_RUN})*"
_PIECE = re.compile(rf"{_WORD}|[{_MARKS}]|\n")
# Never "<" or ">": they keep their spaces, so that no words and marks side by side can look like a special token.
_CLOSE_TO_LEFT = frozenset(".,!?;:)]}%'’…»”\n")
_CLOSE_TO_RIGHT = frozenset("([{¿¡«“‘$#\n")
_CONTRACTION = re.compile(r"['’]\w+|n['’]t", re.IGNORECASE)  # pieces that other tokenizers make of "it's", "don't"
_SPECIAL = re.compile(r"<[^\s<>]+>")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    words: list[str]
    lowercase: bool
    unknown: UnknownPolicy
    unknown_token: str | None = None
    end_token: str | None = None
    written_only: list[str] = []


class WordTokenizer:
    """A token's id is its position in `words`: words, marks, perhaps a newline, and the special tokens.

    `unknown` says what becomes of words outside of them: "skip" leaves them out, "replace" reads each as
    `unknown_token`, "error" refuses the text. Special tokens are written `<name>` and are read where a text holds them.
    The unknown token stands for its name in texts, the end token for nothing. Words in `written_only` are pieces of
    somebody else's tokenizer, which texts are not cut into here.
    """

    kind: ClassVar[WriterKind] = "words"

    def __init__(
        self,
        words: Sequence[str],
        unknown: UnknownPolicy = "skip",
        *,
        lowercase: bool = True,
        unknown_token: str | None = None,
        end_token: str | None = None,
        written_only: Sequence[str] = (),
    ) -> None:
        """Raises StoreError where these are no words to read with."""
        self._vocabulary = Vocabulary("words", words, unknown, unknown_token)
        self._lowercase = lowercase
        self._end = end_token
        self._written_only = frozenset(written_only)
        self._special = [token for token in (unknown_token, end_token) if token is not None]
        newline = [r"\n"] if "\n" in self._vocabulary.index else []
        self._piece = re.compile("|".join([*map(re.escape, self._special), _WORD, f"[{_MARKS}]", *newline]))
        self._check()
        self._bytes = [self._shown(word) for word in words]

    @classmethod
    def of_foreign(
        cls, words: Sequence[str], *, unknown_token: str | None = None, lowercase: bool = True
    ) -> WordTokenizer:
        """For the vocabulary of another tokenizer: words that are read otherwise here are only written. Raises
        StoreError where there are no words to read with."""
        plain = cls(words, lowercase=lowercase, written_only=words)
        special = [] if unknown_token is None else [unknown_token]
        written_only = [
            word
            for word in words
            if word not in special and (plain._split(word) != [word] or _CONTRACTION.fullmatch(word))
        ]
        unknown: UnknownPolicy = "skip" if unknown_token is None else "replace"
        return cls(words, unknown, lowercase=lowercase, unknown_token=unknown_token, written_only=written_only)

    @staticmethod
    def pieces(text: str) -> list[str]:
        """The lower-case words, marks and line ends of a text: what a vocabulary for it is made of."""
        return [piece.lower() for piece in _PIECE.findall(text)]

    def some_word(self) -> str:
        """The first word that can be read. Raises StoreError if there is none."""
        readable = (word for word in self._vocabulary.tokens if word not in self._written_only and word.isalpha())
        if (found := next(readable, None)) is None:
            raise StoreError("there is no word among the words that a text could hold")
        return found

    @classmethod
    def parse(cls, content: bytes) -> WordTokenizer:
        """From what `write` wrote. Raises StoreError, ValidationError."""
        file = _File.model_validate_json(content)
        return cls(
            file.words,
            file.unknown,
            lowercase=file.lowercase,
            unknown_token=file.unknown_token,
            end_token=file.end_token,
            written_only=file.written_only,
        )

    @property
    def vocabulary_size(self) -> int:
        return len(self._bytes)

    @property
    def end_token(self) -> int | None:
        return None if self._end is None else self._vocabulary.index[self._end]

    def encode(self, text: str) -> list[int]:
        return self._vocabulary.ids(self._split(text))

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def drops_space_after(self, token: int | None) -> bool:
        return token is None or self._vocabulary.tokens[token] in _CLOSE_TO_RIGHT

    def marked_bytes(self, token: int) -> bytes:
        return self._bytes[token] or self._vocabulary.tokens[token].encode()

    def token_text(self, token: int) -> str:
        return self.marked_bytes(token).decode()

    def write(self, path: Path) -> None:
        known = self._vocabulary
        file = _File(
            words=list(known.tokens),
            lowercase=self._lowercase,
            unknown=known.unknown,
            unknown_token=known.unknown_token,
            end_token=self._end,
            written_only=sorted(self._written_only),
        )
        path.write_text(file.model_dump_json(exclude_none=True), encoding="utf-8")

    def _split(self, text: str) -> list[str]:
        pieces: list[str] = self._piece.findall(text)
        return [piece.lower() if self._lowercase and piece not in self._special else piece for piece in pieces]

    def _shown(self, word: str) -> bytes:
        if word == self._end:
            return b""
        close = word in _CLOSE_TO_LEFT or (word in self._written_only and _CONTRACTION.fullmatch(word))
        return (word if close else f" {word}").encode()

    def _check(self) -> None:
        if self._end is not None and self._end not in self._vocabulary.index:
            raise StoreError(f"'end_token' is {self._end!r}, which is not among the words")
        if len(set(self._special)) < len(self._special):
            raise StoreError(f"'end_token' and 'unknown_token' are both {self._end!r}; one token cannot be both")
        for token in self._special:
            if not _SPECIAL.fullmatch(token):
                raise StoreError(f"the special token {token!r} is not written as '<name>', without spaces")
        if strange := self._written_only.difference(self._vocabulary.tokens):
            raise StoreError(f"'written_only' names {min(strange)!r}, which is not among the words")
        for word in self._vocabulary.tokens:
            if word not in self._written_only and (read := self._split(word)) != [word]:
                raise StoreError(f"{word!r} is no word: in a text it would be read as {read or 'nothing'}")

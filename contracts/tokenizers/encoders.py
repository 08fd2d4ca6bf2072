"""Tokenizers of encoders (BERT, RoBERTa), through the `tokenizers` library: text in, framed tokens out, never back."""

from __future__ import annotations

from typing import ClassVar

import tokenizers

from contracts.errors import StoreError
from contracts.tokenizers.library import LibraryTokenizer
from contracts.tokenizers.tokenizer import EncoderKind

FRAME = 2  # special tokens around every text


class EncoderTokenizer(LibraryTokenizer):
    """Reads a text between the two special tokens that its model was trained with, as [CLS] and [SEP]."""

    kind: ClassVar[EncoderKind]
    _model: ClassVar[type[tokenizers.models.Model]]
    _mask: ClassVar[str]

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Raises StoreError for a tokenizer of another kind, and for one that would not read every text."""
        # Settings of somebody's training, which would cut and fill texts.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if not isinstance(tokenizer.model, self._model):
            name = self._model.__name__
            raise StoreError(f"its model is {type(tokenizer.model).__name__}; one of kind {self.kind!r} has {name}")
        super().__init__(tokenizer)
        unknown = getattr(tokenizer.model, "unk_token", None)
        if unknown is not None and tokenizer.model.token_to_id(unknown) is None:
            raise StoreError(f"its unknown token {unknown!r} is not among its tokens")
        self._check_frame()

    def encode(self, text: str) -> list[int]:
        """Token ids, special ones around them. Raises InvalidRequest for text that has no UTF-8."""
        return self._ids(text, special=True)

    @property
    def mask(self) -> int | None:
        """The token that stands for one that is not shown, in training of language; None where there is none."""
        token: int | None = self._tokenizer.token_to_id(self._mask)
        return token

    def cut(self, tokens: list[int], most: int) -> list[int]:
        """The beginning of an encoded text, `most` tokens of it with the special ones."""
        return tokens if len(tokens) <= most else tokens[: most - 1] + tokens[-1:]

    @staticmethod
    def windows(tokens: list[int], most: int) -> list[list[int]]:
        """The whole of an encoded text in windows of at most `most` tokens, framed as a text is. They overlap by half,
        so that what stands at the edge of one is amid another, and the last one ends with the text."""
        if len(tokens) <= most:
            return [tokens]
        first, inner, last = tokens[:1], tokens[1:-1], tokens[-1:]
        room = most - FRAME
        starts = [*range(0, len(inner) - room, max(1, room // 2)), len(inner) - room]
        return [first + inner[start : start + room] + last for start in starts]

    def _check_frame(self) -> None:
        framed = self._tokenizer.encode("a")
        specials = framed.special_tokens_mask
        if len(specials) < FRAME or specials != [1, *[0] * (len(specials) - FRAME), 1]:
            raise StoreError("it does not put one special token before and one behind a text, as [CLS] and [SEP]")
        if strange := [token for token in (framed.ids[0], framed.ids[-1]) if token >= self.vocabulary_size]:
            raise StoreError(f"the token {strange[0]}, which it puts around texts, is not among its tokens")


class WordPieceTokenizer(EncoderTokenizer):
    """BERT's: words cut into the longest known pieces."""

    kind = "wordpiece"
    _model = tokenizers.models.WordPiece
    _mask = "[MASK]"


class RobertaTokenizer(EncoderTokenizer):
    """RoBERTa's: GPT-2's byte-level BPE between <s> and </s>."""

    kind = "roberta"
    _model = tokenizers.models.BPE
    _mask = "<mask>"

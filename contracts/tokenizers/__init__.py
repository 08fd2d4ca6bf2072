"""Tokenizers of bundles: characters, words, and byte-level BPE through the `tokenizers` library; and those of encoders.

A tokenizer of a model that writes says for a token which bytes it stands for, so that text can be put together token by
token (`Detokenizer`) without ever cutting a character in two. One of an encoder only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from contracts.errors import StoreError
from contracts.files import read_small
from contracts.requests import describe
from contracts.tokenizers.bpe import BpeTokenizer
from contracts.tokenizers.characters import CharacterTokenizer
from contracts.tokenizers.detokenizer import Detokenizer
from contracts.tokenizers.encoders import EncoderTokenizer, RobertaTokenizer, WordPieceTokenizer
from contracts.tokenizers.tokenizer import EncoderKind, Tokenizer, TokenizerKind, WriterKind
from contracts.tokenizers.vocabulary import UnknownPolicy
from contracts.tokenizers.words import WordTokenizer

__all__ = [
    "BpeTokenizer",
    "CharacterTokenizer",
    "Detokenizer",
    "EncoderTokenizer",
    "RobertaTokenizer",
    "Tokenizer",
    "TokenizerKind",
    "UnknownPolicy",
    "WordPieceTokenizer",
    "WordTokenizer",
    "read_any_tokenizer",
    "read_encoder_tokenizer",
    "read_tokenizer",
    "vocabulary_faults",
]

AnyTokenizer = TypeVar("AnyTokenizer", bound=Tokenizer | EncoderTokenizer)

_WRITERS: dict[WriterKind, Callable[[bytes], Tokenizer]] = {
    kind.kind: kind.parse for kind in (CharacterTokenizer, WordTokenizer, BpeTokenizer)
}
_ENCODERS: dict[EncoderKind, Callable[[bytes], EncoderTokenizer]] = {
    kind.kind: kind.parse for kind in (WordPieceTokenizer, RobertaTokenizer)
}


def read_tokenizer(kind: TokenizerKind, path: Path) -> Tokenizer:
    """The tokenizer in a bundle or run folder. Raises StoreError for a file that holds none, or one of an encoder."""
    return _read(_WRITERS, kind, path)


def read_encoder_tokenizer(kind: TokenizerKind, path: Path) -> EncoderTokenizer:
    """The same for a model that only reads."""
    return _read(_ENCODERS, kind, path)


def _read(known: Mapping[Any, Callable[[bytes], AnyTokenizer]], kind: TokenizerKind, path: Path) -> AnyTokenizer:
    if kind not in known:
        raise StoreError(f"{path} is a tokenizer of kind {kind!r}; such a model needs one of {', '.join(known)}")
    try:
        return known[kind](read_small(path))
    except ValidationError as error:
        fault = describe(error)
    except (OSError, StoreError) as error:
        fault = str(error)
    raise StoreError(f"{path} is not a tokenizer of kind {kind!r}: {fault}")


def read_any_tokenizer(kind: TokenizerKind, path: Path) -> Tokenizer | EncoderTokenizer:
    """Of whatever kind. Raises StoreError as the others do."""
    return read_encoder_tokenizer(kind, path) if kind in _ENCODERS else read_tokenizer(kind, path)


def vocabulary_faults(tokenizer: Tokenizer | EncoderTokenizer, rows: int) -> list[str]:
    """Whether a tokenizer fits a model with this many outputs: each token that is drawn must stand for something.

    GPT-2s and BERTs exist with padded vocabularies; a character or word model has one output per token.
    """
    tokens = tokenizer.vocabulary_size
    if tokens == rows or (tokens < rows and isinstance(tokenizer, BpeTokenizer | EncoderTokenizer)):
        return []
    return [f"the tokenizer has {tokens} tokens, but the model {rows}"]

"""Tokenizers of bundles: characters, words, and byte-level BPE through the `tokenizers` library.

Each says for a token which bytes it stands for, so that text can be put together token by token (`Detokenizer`) without
ever cutting a character in two.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from contracts.errors import StoreError
from contracts.files import read_small
from contracts.requests import describe
from contracts.tokenizers.bpe import BpeTokenizer
from contracts.tokenizers.characters import CharacterTokenizer
from contracts.tokenizers.detokenizer import Detokenizer
from contracts.tokenizers.tokenizer import Tokenizer, TokenizerKind
from contracts.tokenizers.vocabulary import UnknownPolicy
from contracts.tokenizers.words import WordTokenizer

__all__ = [
    "BpeTokenizer",
    "CharacterTokenizer",
    "Detokenizer",
    "Tokenizer",
    "TokenizerKind",
    "UnknownPolicy",
    "WordTokenizer",
    "read_tokenizer",
    "vocabulary_faults",
]

_KINDS = {kind.kind: kind for kind in (CharacterTokenizer, WordTokenizer, BpeTokenizer)}


def read_tokenizer(kind: TokenizerKind, path: Path) -> Tokenizer:
    """The tokenizer in a bundle or run folder. Raises StoreError for a file that holds none."""
    try:
        return _KINDS[kind].parse(read_small(path))
    except ValidationError as error:
        fault = describe(error)
    except (OSError, StoreError) as error:
        fault = str(error)
    raise StoreError(f"{path} is not a tokenizer of kind {kind!r}: {fault}")


def vocabulary_faults(tokenizer: Tokenizer, rows: int) -> list[str]:
    """Whether a tokenizer fits a model with this many outputs: each token that is drawn must stand for something.

    GPT-2s exist with padded vocabularies; a character or word model has one output per token.
    """
    tokens = tokenizer.vocabulary_size
    if tokens == rows or (tokens < rows and isinstance(tokenizer, BpeTokenizer)):
        return []
    return [f"the tokenizer has {tokens} tokens, but the model {rows}"]

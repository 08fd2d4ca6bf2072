"""Tokenizers: text to tokens and back, token by token, never cutting a character in two."""

from __future__ import annotations

import json
import re
from typing import get_args

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidRequest, StoreError
from contracts.tokenizers import BpeTokenizer, CharacterTokenizer, Detokenizer, UnknownPolicy, read_tokenizer

SPECIAL = ["<|endoftext|>", "<|title|>"]


def library_bpe() -> tokenizers.Tokenizer:
    """All bytes, some merges, also of parts of characters; two special tokens and one added that is not special."""
    bpe = tokenizers.ByteLevelBPETokenizer()
    text = ["the quick brown fox " * 9, "日本語日本語 日本", "höher schöner ä ö ü " * 3, "🎭🎪🎨🎭🎪"]
    bpe.train_from_iterator(text, vocab_size=330, min_frequency=1, special_tokens=SPECIAL, show_progress=False)
    bpe.add_tokens(["Kamishibai 紙芝居"])
    return bpe._tokenizer


LIBRARY = library_bpe()
BPE = BpeTokenizer(LIBRARY)
CHARACTERS = CharacterTokenizer("ab \nä日🎭")


def token_of(word: str) -> int:
    token = LIBRARY.token_to_id(word)
    assert token is not None
    return token


def pieces_of(tokenizer, tokens):
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.feed(token) for token in tokens]
    return [*pieces, detokenizer.finish()]


texts = (
    st.text() | st.text("the quick日本ö🎭 ") | st.lists(st.sampled_from(["Kamishibai 紙芝居", "日", "x"])).map("".join)
)


@settings(max_examples=300)
@given(texts.filter(lambda text: not any(word in text for word in SPECIAL)))
@example("\x00\ufffd\U0010ffff\u200d👩‍🚀")
def test_any_text_comes_back_from_bpe_token_by_token(text):
    pieces = pieces_of(BPE, BPE.encode(text))
    assert "".join(pieces) == text
    assert pieces[-1] == ""
    for piece in pieces:
        piece.encode()  # every piece is whole characters


@settings(max_examples=500)
@given(st.lists(st.integers(0, LIBRARY.get_vocab_size() - 1), max_size=40))
def test_any_tokens_give_the_text_that_the_library_gives(tokens):
    assert "".join(pieces_of(BPE, tokens)) == LIBRARY.decode(tokens, skip_special_tokens=True)


def test_every_token_alone_gives_the_text_that_the_library_gives():
    for token in range(LIBRARY.get_vocab_size()):
        assert "".join(pieces_of(BPE, [token])) == LIBRARY.decode([token], skip_special_tokens=True)


def test_a_character_is_shown_when_its_last_byte_comes_and_never_in_part():
    single = {BPE.token_bytes(token): token for token in range(BPE.vocabulary_size) if len(BPE.token_bytes(token)) == 1}
    tokens = [single[bytes([byte])] for byte in "a🎭b".encode()]
    assert pieces_of(BPE, tokens) == ["a", "", "", "", "🎭", "b", ""]
    assert pieces_of(BPE, tokens[:3]) == ["a", "", "", "\ufffd"]


def test_special_tokens_are_read_but_stand_for_no_text():
    end, title = (token_of(word) for word in SPECIAL)
    assert BPE.end_token == end
    assert BPE.encode("a<|title|>b") == [*BPE.encode("a"), title, *BPE.encode("b")]
    assert [BPE.token_bytes(token) for token in (end, title)] == [b"", b""]
    assert BPE.token_bytes(token_of("Kamishibai 紙芝居")) == "Kamishibai 紙芝居".encode()


def test_rows_of_a_padded_vocabulary_stand_for_nothing():
    assert BPE.token_bytes(BPE.vocabulary_size + 100) == b""


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        BPE.encode("a\udcff")


@pytest.mark.parametrize(
    "decoder",
    [None, tokenizers.decoders.WordPiece(), tokenizers.decoders.Metaspace(), tokenizers.decoders.BPEDecoder()],
)
def test_only_byte_level_tokenizers_are_taken(decoder):
    other = tokenizers.Tokenizer(tokenizers.models.BPE())
    if decoder is not None:
        other.decoder = decoder
    with pytest.raises(StoreError, match="byte-level"):
        BpeTokenizer(other)


@given(st.text("ab \nä日🎭"))
def test_known_characters_come_back_one_token_each(text):
    tokens = CHARACTERS.encode(text)
    assert tokens == [CHARACTERS.characters.index(character) for character in text]
    assert pieces_of(CHARACTERS, tokens) == [*text, ""]


def test_unknown_characters_are_skipped_replaced_or_named():
    assert CHARACTERS.encode("aXb?Xa") == CHARACTERS.encode("aba")
    assert CharacterTokenizer("ab", "replace", "b").encode("aXb?X\ud800a") == [0, 1, 1, 1, 1, 1, 0]
    strict = CharacterTokenizer("ab", unknown="error")
    assert strict.encode("abba") == [0, 1, 1, 0]
    with pytest.raises(InvalidRequest, match=re.escape("the characters 'X', '?'; leave them out")):
        strict.encode("aXb?Xa")


@pytest.mark.parametrize("unknown", get_args(UnknownPolicy))
@given(text=st.text(st.characters(codec=None)) | st.text("abäX\ud800"))
def test_any_text_is_read_in_known_characters_or_refused(unknown, text):
    tokenizer = CharacterTokenizer("abä\n ", unknown, "b")
    try:
        tokens = tokenizer.encode(text)
    except InvalidRequest:
        assert unknown == "error"
        return
    pieces = pieces_of(tokenizer, tokens)
    assert tokenizer.encode("".join(pieces)) == tokens


def test_a_long_list_of_unknown_characters_is_cut():
    with pytest.raises(InvalidRequest) as caught:
        CharacterTokenizer("a", unknown="error").encode("".join(map(chr, range(0x4E00, 0x5E00))))
    assert "'一', '丁'" in caught.value.message
    assert "and 4076 more" in caught.value.message
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(
    "tokenizer",
    [CHARACTERS, CharacterTokenizer("xyz", "error"), CharacterTokenizer("aX", "replace", "X"), BPE],
    ids=["skip", "error", "replace", "bpe"],
)
def test_a_written_tokenizer_reads_the_same(tmp_path, tokenizer):
    tokenizer.write(tmp_path / "t.json")
    again = read_tokenizer(tokenizer.kind, tmp_path / "t.json")
    assert (again.vocabulary_size, again.end_token) == (tokenizer.vocabulary_size, tokenizer.end_token)
    assert [again.token_bytes(t) for t in range(again.vocabulary_size)] == [
        tokenizer.token_bytes(t) for t in range(again.vocabulary_size)
    ]
    if tokenizer is BPE or tokenizer.vocabulary_size != 3:
        assert again.encode("abX") == tokenizer.encode("abX")
    else:
        with pytest.raises(InvalidRequest):
            again.encode("abX")


BAD_CHARACTERS = [
    {"characters": "aa", "unknown": "skip"},
    {"characters": "", "unknown": "skip"},
    {"characters": ["ab"], "unknown": "skip"},
    {"characters": [1, 2], "unknown": "skip"},
    {"characters": {"a": 1}, "unknown": "skip"},
    {"characters": "ab", "unknown": "maybe"},
    {"characters": "ab", "unknown": "replace"},
    {"characters": "ab", "unknown": "replace", "unknown_token": "c"},
    {"characters": "ab", "unknown": "replace", "unknown_token": "ab"},
    {"characters": "ab", "unknown": "skip", "colour": "red"},
    {"characters": "ab"},
    {"characters": "\ud800", "unknown": "skip"},
    [],
    None,
]


@pytest.mark.parametrize("content", [*map(json.dumps, BAD_CHARACTERS), "", "{", "[" * 100_000], ids=lambda c: c[:40])
@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_a_file_that_holds_no_tokenizer_is_refused_by_name(tmp_path, kind, content):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(StoreError, match=rf"t\.json is not a tokenizer of kind '{kind}'"):
        read_tokenizer(kind, tmp_path / "t.json")


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_a_missing_tokenizer_is_refused_by_name(tmp_path, kind):
    with pytest.raises(StoreError, match=r"none\.json"):
        read_tokenizer(kind, tmp_path / "none.json")

"""Text from tokens: what is shown is never taken back, and ends before the first stop string."""

from __future__ import annotations

import codecs
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.tokenizers import CharacterTokenizer, Tokenizer
from workers.assembler import TextAssembler


class PieceTokenizer:
    """Tokens of any bytes: whole characters, several, parts of one, or nothing."""

    PIECES = (
        b"a",
        b"b",
        b"ab",
        b"ba",
        b"aab",
        b"",
        *[bytes([byte]) for byte in "日ä🎭".encode()],
        "日".encode(),
        b"\n\xff",
    )
    end_token = 5

    def token_bytes(self, token):
        return self.PIECES[token]

    def drops_space_after(self, token):
        return False


PIECES = PieceTokenizer()
TOKENIZER = cast(Tokenizer, PIECES)  # nothing else of it is asked for
TOKENS = st.lists(st.integers(0, len(PIECES.PIECES) - 1), max_size=40)
ABC = st.lists(st.integers(0, 4), max_size=40)  # few characters, so that stop strings are met
STOPS = st.lists(st.text("ab日ä🎭\ufffd\n", min_size=1, max_size=6), max_size=4).map(tuple)
AB_STOPS = st.lists(st.text("ab", min_size=1, max_size=7), max_size=4).map(tuple)


def reference(tokens: list[int], stops: tuple[str, ...]) -> tuple[str, int, bool]:
    """Text, tokens read, stopped: cut before the first stop string, at the earliest token that brings one."""
    data = b""
    for count, token in enumerate(tokens, 1):
        data += TOKENIZER.token_bytes(token)
        if (cut := first_stop(complete(data), stops)) is not None:
            return complete(data)[:cut], count, True
    text = data.decode(errors="replace")
    cut = first_stop(text, stops)
    return text[:cut], len(tokens), cut is not None


def complete(data: bytes) -> str:
    """Decoded up to the last whole character."""
    return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(data)


def first_stop(text: str, stops: tuple[str, ...]) -> int | None:
    return min((text.index(stop) for stop in stops if stop in text), default=None)


def run(tokens, stops, sizes):
    """Feed tokens in parts of the given sizes. Returns the assembler and what it showed after each part."""
    assembler = TextAssembler(TOKENIZER, stops, frozenset())
    shown: list[str] = []
    position = 0
    while position < len(tokens):
        size = sizes[len(shown) % len(sizes)] if sizes else 1
        shown.append(assembler.feed(tokens[position : position + size]))
        assert assembler.text == "".join(shown)
        position += size
    shown.append(assembler.finish())
    return assembler, shown


@settings(max_examples=600)
@given(
    case=st.tuples(TOKENS, STOPS) | st.tuples(ABC, AB_STOPS),
    sizes=st.lists(st.integers(1, 7), max_size=5),
)
@example(([0, 0, 1], ("aab", "ab")), [])
@example(([2, 2, 2], ("bab",)), [])
@example(([0, 0, 0, 1], ("aaa", "aab")), [2])
@example(([0, 6], ("a\ufffd",)), [])
def test_what_is_shown_is_the_text_before_the_first_stop_string(case, sizes):
    tokens, stops = case
    assembler, shown = run(tokens, stops, sizes)
    text, count, stopped = reference(tokens, stops)
    assert "".join(shown) == assembler.text == text
    assert assembler.stopped == stopped
    assert assembler.tokens == count
    assert not any(stop in assembler.text for stop in stops)


@given(case=st.tuples(TOKENS, STOPS) | st.tuples(ABC, AB_STOPS))
def test_how_tokens_are_grouped_into_calls_changes_nothing(case):
    tokens, stops = case
    one_by_one, _ = run(tokens, stops, [1])
    at_once, _ = run(tokens, stops, [len(tokens) or 1])
    assert (one_by_one.text, one_by_one.tokens) == (at_once.text, at_once.tokens)


@given(tokens=ABC, stops=AB_STOPS)
def test_text_is_held_back_only_while_it_may_begin_a_stop_string(tokens, stops):
    assembler = TextAssembler(TOKENIZER, stops, frozenset())
    read = ""
    for token in tokens:
        assembler.feed([token])
        if assembler.stopped:
            break
        read += TOKENIZER.token_bytes(token).decode()
        held = read[len(assembler.text) :]
        assert read.startswith(assembler.text)
        assert not held or any(stop.startswith(held) for stop in stops)


def test_a_stop_string_over_several_tokens_is_never_shown():
    assembler = TextAssembler(CharacterTokenizer("The nd."), ("End", " end."), frozenset())
    shown = [assembler.feed(CharacterTokenizer("The nd.").encode(part)) for part in ("The e", "n", "d", ".", " The")]
    assert shown == ["The", "", "", "", ""]
    assert (assembler.finish(), assembler.text, assembler.tokens) == ("", "The", 8)


def test_what_was_held_back_is_shown_at_the_end():
    assembler = TextAssembler(TOKENIZER, ("abb",), frozenset())
    assert [assembler.feed([0]), assembler.feed([1]), assembler.finish()] == ["", "", "ab"]


@pytest.mark.parametrize("after", ["feed", "finish"])
def test_after_a_stop_nothing_more_comes(after):
    assembler = TextAssembler(TOKENIZER, ("b",), frozenset())
    assert assembler.feed([0, 1, 0]) == "a"
    assert (assembler.feed([0]) if after == "feed" else assembler.finish()) == ""
    assert assembler.tokens == 2


def test_an_ending_token_is_counted_and_not_shown():
    assembler = TextAssembler(TOKENIZER, (), frozenset({1}))
    assert (assembler.feed([0, 2, 1]), assembler.finish(), assembler.tokens) == ("aab", "", 3)


@given(tokens=TOKENS, stops=STOPS)
def test_offsets_say_where_each_token_begins(tokens, stops):
    assembler, _ = run(tokens, stops, [])
    data = b""
    for token, offset in zip(assembler.token_ids, assembler.offsets, strict=True):
        assert offset == len(complete(data))
        data += TOKENIZER.token_bytes(token)

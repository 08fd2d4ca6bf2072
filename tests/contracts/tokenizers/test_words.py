"""Words: text to tokens and back, whatever the text; unknown words as the vocabulary says."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidRequest, StoreError
from contracts.tokenizers import Detokenizer, WordTokenizer, read_tokenizer

MARKS = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡«»¿—‘’“”…")
KNOWN = ["the", "shinigami", "isn't", "well-known", "3.14", "10:30", "1,000", "3", "14", "é", "日本", "हिन्दी", "unk"]
WORDS = [*KNOWN, *MARKS, "\n", "<unk>", "<|end|>"]
SKIP = WordTokenizer(WORDS, "skip", unknown_token="<unk>", end_token="<|end|>")
REPLACE = WordTokenizer(WORDS, "replace", unknown_token="<unk>", end_token="<|end|>")
ERROR = WordTokenizer(WORDS, "error", unknown_token="<unk>", end_token="<|end|>")
PLAIN = WordTokenizer(["a", "the", "."])
END = WORDS.index("<|end|>")

texts = (
    st.text(st.characters(codec=None))  # half surrogate pairs included
    | st.lists(st.sampled_from([*WORDS, *"aX 'é-.,:19Σ\u0307\ud800", "  ", "The", "İ"])).map("".join)
)
ids = st.lists(st.integers(0, len(WORDS) - 1).filter(lambda token: token != END), max_size=40)


def pieces_of(tokenizer, tokens, after=()):
    detokenizer = Detokenizer(tokenizer, after)
    return [*map(detokenizer.feed, tokens), detokenizer.finish()]


def text_of(tokenizer, tokens, after=()):
    return "".join(pieces_of(tokenizer, tokens, after))


def words_of(tokenizer, text):
    return [WORDS[token] for token in tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The shinigami isn't well-known.", ["the", "shinigami", "isn't", "well-known", "."]),
        ("THE\tthe  \r\n the", ["the", "the", "\n", "the"]),
        ("3.14 3. 14 1,000, 10:30:", ["3.14", "3", ".", "14", "1,000", ",", "10:30", ":"]),
        ("'the' -the- the'", ["'", "the", "'", "-", "the", "-", "the", "'"]),
        ("the...the_the", ["the", ".", ".", ".", "the", "_", "the"]),
        ("<the <unk>the<|end|>>", ["<", "the", "<unk>", "the", "<|end|>", ">"]),
        ("(日本)—हिन्दी“é”", ["(", "日本", ")", "—", "हिन्दी", "“", "é", "”"]),
        ("", []),
    ],
)
def test_words_and_marks_are_told_apart(text, words):
    assert words_of(ERROR, text) == words


@pytest.mark.parametrize(
    "text",
    [
        "the well-known (3) shinigami, isn't it: “the 14”. 3%! the",
        "the.\nthe shinigami\n\n(the) — the",
        "the <unk> shinigami",
        "the a. the a.",
    ],
)
def test_text_is_put_together_as_people_write_it(text):
    tokenizer = WordTokenizer([*WORDS, "it", "a"], unknown_token="<unk>", end_token="<|end|>")
    assert text_of(tokenizer, tokenizer.encode(text)) == text


def test_a_text_behind_others_begins_with_the_space_between_them():
    shinigami = SKIP.encode("shinigami")
    assert text_of(SKIP, shinigami, after=SKIP.encode("the")) == " shinigami"
    assert text_of(SKIP, shinigami, after=[END]) == "shinigami", "nothing stands before it"
    assert text_of(SKIP, shinigami, after=SKIP.encode("the (")) == "shinigami"
    assert text_of(SKIP, [END, *shinigami], after=SKIP.encode("the\n")) == "shinigami"


@pytest.mark.parametrize("tokenizer", [SKIP, REPLACE, PLAIN], ids=["skip", "replace", "plain"])
@settings(max_examples=300)
@given(text=texts)
@example(text="\ud800the\udfff the")
@example(text="<" * 50 + "1.," * 50)
def test_any_text_can_be_read_and_read_again(tokenizer, text):
    tokens = [token for token in tokenizer.encode(text) if token != tokenizer.end_token]
    assert tokenizer.encode(text_of(tokenizer, tokens)) == tokens


@settings(max_examples=1000)
@given(ids)
def test_any_written_tokens_read_back_as_the_same(tokens):
    assert ERROR.encode(text_of(ERROR, tokens)) == tokens
    cut = len(tokens) // 2
    assert text_of(ERROR, tokens[:cut]) + text_of(ERROR, tokens[cut:], after=tokens[:cut]) == text_of(ERROR, tokens)


@given(texts)
def test_a_text_is_read_or_refused_where_unknown_words_are_errors(text):
    known = SKIP.encode(text)
    if known == REPLACE.encode(text):
        assert ERROR.encode(text) == known
    else:
        with pytest.raises(InvalidRequest, match="know the words") as caught:
            ERROR.encode(text)
        assert caught.value.message.isprintable()


@settings(max_examples=300)
@given(ids)
def test_pieces_of_text_are_the_text_and_whole_characters(tokens):
    pieces = pieces_of(SKIP, [*tokens, END])
    assert pieces[-2:] == ["", ""]
    brought = b"".join(map(SKIP.token_bytes, tokens)).decode()
    assert "".join(pieces).replace(" ", "") == brought.replace(" ", "")


def test_every_letter_is_lower_cased_once_and_for_all():
    for character in map(chr, range(sys.maxunicode + 1)):
        once = SKIP._split(character)
        assert [again for word in once for again in SKIP._split(word)] == once


def test_unknown_words_are_skipped_replaced_or_named():
    text = "The Nanako isn't an Hollow."
    assert words_of(SKIP, text) == ["the", "isn't", "."]
    assert words_of(REPLACE, text) == ["the", "<unk>", "isn't", "<unk>", "<unk>", "."]
    with pytest.raises(InvalidRequest) as caught:
        ERROR.encode(text + " nanako")
    assert caught.value.message == ("This model does not know the words 'nanako', 'an', 'hollow'; leave them out.")


def test_at_most_twenty_unknown_words_are_named_and_none_at_length():
    with pytest.raises(InvalidRequest) as caught:
        ERROR.encode(" ".join(["x" * 10_000, *map(str, range(100, 150))]))
    assert "'118' and 31 more" in caught.value.message
    assert len(caught.value.message) < 400


def test_the_unknown_token_stands_for_its_name_and_the_end_token_for_nothing():
    unknown = WORDS.index("<unk>")
    assert (SKIP.token_bytes(unknown), SKIP.token_text(unknown)) == (b" <unk>", " <unk>")
    assert (SKIP.token_bytes(END), SKIP.token_text(END), SKIP.marked_bytes(END)) == (b"", "<|end|>", b"<|end|>")
    assert SKIP.end_token == END
    assert PLAIN.end_token is None


def test_a_newline_separates_where_it_is_no_token():
    assert PLAIN.encode("a\nthe\n") == PLAIN.encode("a the")


def test_case_counts_where_words_are_not_lower_cased():
    cased = WordTokenizer(["The", "the"], "error", lowercase=False)
    assert cased.encode("the The") == [1, 0]
    with pytest.raises(InvalidRequest, match="'THE'"):
        cased.encode("THE")


@pytest.mark.parametrize("tokenizer", [SKIP, REPLACE, PLAIN, WordTokenizer(["The"], lowercase=False)])
def test_a_written_tokenizer_reads_the_same(tmp_path, tokenizer):
    tokenizer.write(tmp_path / "t.json")
    again = read_tokenizer("words", tmp_path / "t.json")
    assert (again.kind, again.vocabulary_size, again.end_token) == (
        "words",
        tokenizer.vocabulary_size,
        tokenizer.end_token,
    )
    text = "The The nanako <|end|>\nisn't."
    assert again.encode(text) == tokenizer.encode(text)
    for token in range(again.vocabulary_size):
        assert again.token_bytes(token) == tokenizer.token_bytes(token)
        assert again.drops_space_after(token) == tokenizer.drops_space_after(token)


GOOD = {"words": ["a", "b", "<unk>", "<end>"], "lowercase": True, "unknown": "skip"}
FAULTS = {
    "no words": ({"words": []}, "there are no words"),
    "not a list": ({"words": "abc"}, "'words' is 'abc'"),
    "a number": ({"words": ["a", 5]}, "'words.1' is 5"),
    "twice": ({"words": ["a", "b", "a"]}, "'a' stand twice"),
    "empty word": ({"words": ["a", ""]}, "'' is no word: in a text it would be read as nothing"),
    "two words": ({"words": ["the end"]}, r"'the end' is no word: in a text it would be read as \['the', 'end'\]"),
    "capital": ({"words": ["The"]}, r"'The' is no word: in a text it would be read as \['the'\]"),
    "unnamed special": ({}, "'<unk>' is no word"),
    "surrogate": ({"words": ["a", "\ud800"]}, "invalid JSON"),
    "policy": ({"unknown": "guess"}, "'unknown' is 'guess'"),
    "replace with nothing": ({"words": ["a"], "unknown": "replace"}, "no 'unknown_token' is named"),
    "strange unknown": ({"words": ["a"], "unknown_token": "<x>"}, "'unknown_token' is '<x>', which is not among"),
    "strange end": ({"words": ["a"], "end_token": "<x>"}, "'end_token' is '<x>', which is not among"),
    "both": ({"unknown_token": "<unk>", "end_token": "<unk>"}, "one token cannot be both"),
    "plain special": ({"end_token": "a", "unknown_token": "<unk>"}, "'a' is not written as '<name>'"),
    "flag": ({"lowercase": 1}, "'lowercase' is 1"),
    "colour": ({"colour": "red"}, "'colour' is not a field"),
}


@pytest.mark.parametrize(("change", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_a_file_that_holds_no_words_is_refused_by_its_fault(tmp_path, change, fault):
    (tmp_path / "t.json").write_text(json.dumps(GOOD | change))
    with pytest.raises(StoreError, match=rf"t\.json is not a tokenizer of kind 'words': .*{fault}"):
        read_tokenizer("words", tmp_path / "t.json")


def test_half_a_surrogate_pair_is_no_word():
    with pytest.raises(StoreError, match=r"the words hold '\\ud800', which has no UTF-8"):
        WordTokenizer(["a", "b\ud800"])


@pytest.mark.parametrize("missing", ["words", "lowercase", "unknown"])
def test_a_missing_field_is_named(tmp_path, missing):
    (tmp_path / "t.json").write_text(json.dumps({name: value for name, value in GOOD.items() if name != missing}))
    with pytest.raises(StoreError, match=f"'{missing}' is missing"):
        read_tokenizer("words", tmp_path / "t.json")

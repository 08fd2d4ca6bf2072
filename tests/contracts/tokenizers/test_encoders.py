"""Tokenizers of encoders give the tokens that transformers' give, and refuse what would not read every text."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import tokenizers
import transformers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidRequest, StoreError
from contracts.tokenizers import RobertaTokenizer, WordPieceTokenizer, read_encoder_tokenizer, read_tokenizer
from contracts.tokenizers.library import MAX_TOKENS

KINDS = {"wordpiece": WordPieceTokenizer, "roberta": RobertaTokenizer}
TEXTS = [
    "",
    " ",
    "a",
    "The quick brown fox!",
    "Höher — schöner 日本 🎭",
    "[SEP] <s> [MASK]<mask> x",
    "\0\x1b",
    "x" * 300,
]


@pytest.fixture(scope="module", params=["wordpiece", "roberta"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def document(kind, encoder_tokenizer):
    return json.loads(encoder_tokenizer("bert" if kind == "wordpiece" else "roberta").to_str())


@pytest.fixture
def parse(kind):
    return lambda document: KINDS[kind].parse(json.dumps(document).encode())


@pytest.fixture(scope="module")
def theirs(kind, document):
    library = tokenizers.Tokenizer.from_str(json.dumps(document))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=library)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.text("the quick brown fox[SEP]<s>") | st.sampled_from(TEXTS), st.integers(2, 12))
@example("the quick brown fox jumps over", 4)
def test_tokens_are_those_of_transformers_also_when_cut(parse, document, theirs, text, most):
    ours = parse(document)
    tokens = ours.encode(text)
    assert tokens == theirs(text)["input_ids"]
    assert ours.cut(tokens, most) == theirs(text, truncation=True, max_length=most)["input_ids"]


def test_a_tokenizer_is_the_same_after_its_way_to_disk(parse, document, kind, tmp_path):
    parse(document).write(tmp_path / "tokenizer.json")
    again = read_encoder_tokenizer(kind, tmp_path / "tokenizer.json")
    assert [again.encode(text) for text in TEXTS] == [parse(document).encode(text) for text in TEXTS]


def test_settings_of_somebodys_training_cut_and_fill_no_text(parse, document):
    cutting = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    filling = {
        "strategy": {"Fixed": 20},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    plain = parse(document).encode(TEXTS[3])
    assert parse(document | {"truncation": cutting, "padding": filling}).encode(TEXTS[3]) == plain


def test_half_a_surrogate_pair_is_no_text(parse, document):
    with pytest.raises(InvalidRequest, match="UTF-8"):
        parse(document).encode("a\ud800")


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_a_spoiled_tokenizer_reads_any_text_or_is_refused_in_one_line(tmp_path, spoiled, kind, document, data):
    (tmp_path / "tokenizer.json").write_bytes(data.draw(spoiled(document)))
    try:
        tokenizer = read_encoder_tokenizer(kind, tmp_path / "tokenizer.json")
    except StoreError as refusal:
        assert_one_line(str(refusal))
        return
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        assert len(tokens) >= 2
        assert all(0 <= token < tokenizer.vocabulary_size for token in tokens)
        assert len(tokenizer.cut(tokens, 2)) == 2


def assert_one_line(refusal: str) -> None:
    assert len(refusal.splitlines()) == 1


def _frame(single, ids):
    specials = {token: {"id": token, "ids": [place], "tokens": [token]} for token, place in ids.items()}
    pieces = [
        {"Sequence": {"id": "A", "type_id": 0}} if piece == "$A" else {"SpecialToken": {"id": piece, "type_id": 0}}
        for piece in single.split()
    ]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": specials}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"post_processor": None}, "one special token before and one behind"),
        ({"post_processor": _frame("$A C S", {"C": 0, "S": 1})}, "one special token before and one behind"),
        ({"post_processor": _frame("C C $A S", {"C": 0, "S": 1})}, "one special token before and one behind"),
        ({"post_processor": _frame("C $A S", {"C": 0, "S": 1 << 31})}, f"the token {1 << 31}"),
    ],
)
def test_a_tokenizer_that_frames_texts_in_another_way_is_refused(parse, document, changes, fault):
    with pytest.raises(StoreError, match=fault):
        parse(document | changes)


def test_a_vocabulary_with_a_hole_of_gigabytes_is_refused(parse, document):
    model = document["model"] | {"vocab": document["model"]["vocab"] | {"z": MAX_TOKENS}}
    with pytest.raises(StoreError, match=f"its largest token id is {MAX_TOKENS}"):
        parse(document | {"model": model})


def test_words_that_it_could_not_read_are_no_surprise_later(parse, document):
    with pytest.raises(StoreError, match="its unknown token 'nope'"):
        parse(document | {"model": document["model"] | {"unk_token": "nope"}})


def test_a_model_of_another_kind_is_refused(kind, parse, encoder_tokenizer):
    other = encoder_tokenizer("roberta" if kind == "wordpiece" else "bert")
    with pytest.raises(StoreError, match="one of kind"):
        parse(json.loads(other.to_str()))


def test_readers_and_writers_are_told_apart(kind, document, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="such a model needs one of characters, words, bpe"):
        read_tokenizer(kind, path)
    with pytest.raises(StoreError, match="such a model needs one of wordpiece, roberta"):
        read_encoder_tokenizer("bpe", path)


@given(st.integers(0, 60), st.integers(4, 20))
def test_windows_hold_the_whole_text_framed_and_overlapping_by_half(length, most):
    inner = list(range(100, 100 + length))
    tokens = [7, *inner, 8]
    windows = WordPieceTokenizer.windows(tokens, most)
    assert all(len(window) <= most and (window[0], window[-1]) == (7, 8) for window in windows)
    assert sorted({token for window in windows for token in window[1:-1]}) == inner
    if len(tokens) <= most:
        assert windows == [tokens]
    else:
        assert windows[-1][1:-1] == inner[-(most - 2) :]
        for window, following in pairwise(windows):
            assert window[1] < following[1] <= window[1] + max(1, (most - 2) // 2)

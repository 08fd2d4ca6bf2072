"""Prompt fields: composing what is given, parsing what was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidRequest, StoreError
from contracts.prompt_fields import PromptFields

TITLED = PromptFields.from_format("genre<|endofgenre|>title<|endoftitle|>plot<|endoftext|>")
PLAIN = PromptFields.from_format("<|startoftext|>genre<|endofgenre|>plot<|endoftext|>")


@pytest.mark.parametrize(
    ("fields", "given_fields", "prompt"),
    [
        (TITLED, {}, ""),
        (TITLED, {"genre": "action"}, "action<|endofgenre|>"),
        (TITLED, {"genre": "action", "title": "Run"}, "action<|endofgenre|>Run<|endoftitle|>"),
        (TITLED, {"genre": "a", "title": "b", "prefix": "In"}, "a<|endofgenre|>b<|endoftitle|>In"),
        (PLAIN, {}, "<|startoftext|>"),
        (PLAIN, {"genre": "war", "prefix": "It"}, "<|startoftext|>war<|endofgenre|>It"),
    ],
)
def test_what_is_given_becomes_the_prompt_and_the_rest_is_the_models(fields, given_fields, prompt):
    assert fields.compose(given_fields) == prompt


@pytest.mark.parametrize(
    ("given_fields", "named"),
    [
        ({"title": "Run"}, "'fields.genre' is missing"),
        ({"genre": "a", "prefix": "In"}, "'fields.title' is missing"),
        ({"year": "1999"}, "'fields.year' is not a field of this model; it has genre, title, prefix"),
        ({"genre": "a<|endofgenre|>"}, "'fields.genre' holds a marker"),
    ],
)
def test_what_the_order_of_the_format_does_not_allow_is_named(given_fields, named):
    with pytest.raises(InvalidRequest, match=named):
        TITLED.compose(given_fields)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "war<|endofgenre|>Run <|endoftitle|>They run.<|endoftext|>",
            {"genre": "war", "title": "Run", "plot": "They run."},
        ),
        ("war<|endofgenre|>Run", {"genre": "war", "title": "Run"}),
        ("war", {"genre": "war"}),
        (
            "war<|endofgenre|>a<|endoftitle|>b<|endoftitle|>c",
            {"genre": "war", "title": "a", "plot": "b<|endoftitle|>c"},
        ),
    ],
)
def test_parts_are_parsed_also_where_markers_are_missing_or_doubled(text, parts):
    assert TITLED.parse(text) == parts


WORDS = st.text("abc ", min_size=1).map(str.strip)


@given(genre=WORDS, title=WORDS, prefix=WORDS)
def test_what_was_composed_is_parsed_back(genre, title, prefix):
    parts = {"genre": genre, "title": title, "prefix": prefix}
    assert TITLED.parse(TITLED.compose(parts)) == {"genre": genre, "title": title, "plot": prefix}


@given(st.text())
def test_parsing_never_fails(text):
    assert set(PLAIN.parse(text)) <= {"genre", "plot"}


@pytest.mark.parametrize("text", ["", "genre", "<|a|>", "genre<|a|>genre<|b|>", "Genre<|a|>", "a<|b|>c", "a b<|c|>"])
def test_a_format_that_is_none_is_refused_with_the_form(text):
    with pytest.raises(StoreError, match="write it like"):
        PromptFields.from_format(text)


@pytest.mark.data
def test_real_dumps_have_their_parts(data_folder):
    """Outputs of the original plot models: at temperature 0.7 nearly all are complete."""
    for folder, fields in (("with-titles", TITLED), ("without-titles", PLAIN)):
        for path in sorted((data_folder / "movie_plot_dumps" / folder).glob("*0_7*")):
            lines = path.read_text(encoding="utf-8").splitlines()
            parsed = [fields.parse(line) for line in lines]
            complete = [parts for parts in parsed if len(parts) == len(fields.fields)]
            assert len(complete) > 0.95 * len(lines)
            assert all("<|" not in parts["genre"] for parts in complete)

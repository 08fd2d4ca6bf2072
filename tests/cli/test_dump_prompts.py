"""How the texts of a dump begin: lists, files, records, prompts."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.dump_plan import WritingModel
from cli.dump_prompts import Beginnings
from contracts.errors import InvalidRequest, StoreError
from contracts.prompt_fields import PromptFields

TITLED = PromptFields.from_format("genre<|endofgenre|>title<|endoftitle|>plot<|endoftext|>")
UNTITLED = PromptFields.from_format("<|startoftext|>genre<|endofgenre|>plot<|endoftext|>")


def prompts(fields=TITLED, *, genres=None, field=(), records=None, prompts=None):
    model = WritingModel("movies@1", fields, None)
    return Beginnings.read(genres, tuple(field), records, prompts).of(model)


def test_each_value_of_a_field_is_a_beginning():
    assert prompts(genres="action, drama,,action") == ("action<|endofgenre|>", "drama<|endofgenre|>")
    assert prompts(UNTITLED, field=["genre=action"]) == ("<|startoftext|>action<|endofgenre|>",)


def test_of_several_fields_every_combination_is_one():
    assert prompts(field=["genre=a,b", "title=X,Y"]) == tuple(
        f"{genre}<|endofgenre|>{title}<|endoftitle|>" for genre in "ab" for title in "XY"
    )


def test_values_may_be_the_lines_of_a_file(tmp_path):
    (tmp_path / "genres.txt").write_bytes("\ufeffaction\r\n\n  sci-fi, maybe \naction\n".encode())
    assert prompts(genres=tmp_path / "genres.txt") == ("action<|endofgenre|>", "sci-fi, maybe<|endofgenre|>")


def test_a_list_may_be_longer_than_a_files_name():
    genres = [f"genre-{number}" for number in range(400)]
    assert len(prompts(genres=",".join(genres))) == 400


@pytest.mark.parametrize("key", ["genre", "genres"])
def test_values_may_be_those_of_records(tmp_path, key):
    path = tmp_path / "plots.jsonl"
    rows = [{key: ["war", " drama "]}, {key: "Action"}, {key: ["Drama"], "title": "X"}, {"other": 1}, {key: None}, [1]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert prompts(records=path) == ("action<|endofgenre|>", "drama<|endofgenre|>", "war<|endofgenre|>")


def test_records_without_such_a_value_are_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "plots.jsonl"
    path.write_text('{"title": "X"}\n')
    with pytest.raises(InvalidRequest, match="no record with 'genre' or 'genres'; give values with --field genre="):
        prompts(records=path)
    path.write_text("{broken\n")
    with pytest.raises(StoreError, match="line 1 is not JSON"):
        prompts(records=path)


def test_prompts_are_lines_as_they_are(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("A young \r\n\n In the year\u2028x\nA young \n".encode())
    expected = ("A young ", " In the year\u2028x", "A young ")
    for fields in (None, TITLED):
        assert prompts(fields, prompts=tmp_path / "prompts.txt") == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "by one of --genres or --field, --from and --prompts"),
        ({"genres": "a", "records": "x"}, "by one of"),
        ({"field": ["genre"]}, "--field is 'genre', which has no values; write it like genre=action,drama"),
        ({"field": ["genre="]}, "'' holds no value; give some with commas"),
        ({"genres": " , "}, "' , ' holds no value"),
        ({"genres": "a", "field": ["genre=b"]}, "the field 'genre' is given twice"),
        ({"field": ["year=1999"]}, "'fields.year' is not a field of this model; it has genre, title, prefix"),
        ({"field": ["title=X"]}, "'fields.genre' is missing"),
        ({"genres": "a<|endofgenre|>"}, "holds a marker"),
    ],
)
def test_what_cannot_be_a_beginning_is_named_with_the_remedy(given, said):
    with pytest.raises(InvalidRequest, match=re.escape(said)):
        prompts(**given)


def test_a_model_without_fields_asks_for_prompts():
    with pytest.raises(InvalidRequest, match="movies@1 has no fields; give it the beginnings of its texts with --pro"):
        prompts(None, genres="action")


def test_a_file_that_is_no_text_or_empty_is_named(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"a\n\xff")
    with pytest.raises(InvalidRequest, match=r"prompts\.txt is not UTF-8"):
        prompts(None, prompts=tmp_path / "prompts.txt")
    (tmp_path / "prompts.txt").write_bytes(b"\n \n")
    with pytest.raises(InvalidRequest, match=r"prompts\.txt is empty"):
        prompts(None, prompts=tmp_path / "prompts.txt")


@given(st.text(max_size=400))
def test_any_list_of_genres_is_read_or_refused_in_one_line(text):
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if words:
        assert [TITLED.parse(prompt)["genre"] for prompt in prompts(genres=text)] == words
    else:
        with pytest.raises(InvalidRequest, match="holds no value") as refused:
            prompts(genres=text)
        assert refused.value.message.isprintable()

"""Tables that are broken, records in both formats, splits, and corpora from folders."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import StoreError
from training.data.corpus import clean, gather
from training.data.genres import listed
from training.data.records import PlotRecord, SynopsisRecord, read_records, write_records
from training.data.splits import split_of
from training.data.tables import Table


def synopsis(number: int) -> SynopsisRecord:
    return SynopsisRecord(title=f"t{number}", text="x", genres=["a", "b"][: number % 3], split="train")


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_a_table_is_read_whatever_is_between_its_cells(tmp_path, delimiter):
    path = tmp_path / "table.csv"
    path.write_text(delimiter.join(["\ufefftitle", "plot"]) + f'\n"a{delimiter}b"{delimiter}"two\nlines"\n', "utf-8")
    assert list(Table(path)) == [{"title": f"a{delimiter}b", "plot": "two\nlines"}]


def test_broken_rows_are_skipped_counted_and_named(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_bytes(b"title\tplot\na\tb\nonly one\n\nx\ty\tz\nc\t\xff\n")
    table = Table(path)
    assert [row["title"] for row in table] == ["a", "c"]
    assert (table.rows, table.broken) == (4, 2)
    assert table.faults == ["line 3 has 1 cells instead of 2", "line 5 has 3 cells instead of 2"]


@pytest.mark.parametrize("content", [b"", b"one column\nx\n", b"\0\0\0"])
def test_what_is_no_table_is_refused_by_name(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"table\.csv"):
        list(Table(path))


@given(st.text(max_size=40))
def test_any_cell_is_a_list_of_genres(cell):
    assert all(name.strip() == name and name for name in listed(cell))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_records_come_back_as_they_were_written(tmp_path, suffix):
    path = tmp_path / "deep" / f"records{suffix}"
    records = [synopsis(number) for number in range(3000)]
    assert write_records(path, iter(records)) == 3000
    assert list(read_records(path, SynopsisRecord)) == records
    plot = PlotRecord(title="t", plot="p", genres=["War"], primary="t", year=1999, split="validation")
    write_records(path, [plot])
    assert list(read_records(path, PlotRecord)) == [plot]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_of_records_appears_whole_or_not_at_all(tmp_path, suffix):
    def fail():
        yield synopsis(1)
        raise RuntimeError("midway")

    with pytest.raises(RuntimeError):
        write_records(tmp_path / f"records{suffix}", fail())
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_record_is_refused_with_its_place(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(synopsis(1).model_dump_json() + '\n{"title": "x"}\n', encoding="utf-8")
    with pytest.raises(StoreError, match="record 2: 'text' is missing"):
        list(read_records(path, SynopsisRecord))
    path.write_text("not json\n", encoding="utf-8")
    with pytest.raises(StoreError, match="line 1 is not JSON"):
        list(read_records(path, SynopsisRecord))
    with pytest.raises(StoreError, match="must end in"):
        write_records(tmp_path / "records.csv", [])


def test_a_title_is_always_in_the_same_split_however_it_is_written():
    splits = {title: split_of(title, 0.5) for title in map(str, range(200))}
    assert splits == {title: split_of(title, 0.5) for title in map(str, range(200))}
    assert 60 < sum(split == "validation" for split in splits.values()) < 140
    assert split_of("Pok\u00e9mon  the Movie", 0.5) == split_of("POKEMON the movie", 0.5)
    assert any(split_of(title, 0.5) != split_of(title, 0.5, seed=1) for title in splits)
    assert {split_of(title, 0.0) for title in splits} == {"train"}


def test_more_to_validate_takes_nothing_that_was_validated_back():
    for title in map(str, range(200)):
        if split_of(title, 0.1) == "validation":
            assert split_of(title, 0.3) == "validation"


def test_a_corpus_is_gathered_from_texts_pages_and_exports(tmp_path):
    page = "<html><head><title>no</title></head><body><p>Hello <b>big</b>\n world</p><script>x()</script><p>A &amp; B"
    chat = {"messages": [{"id": 1, "text": "one"}, {"text": ["see ", {"type": "link", "text": "this"}]}, {"text": ""}]}
    blog = [{"post": {"title": "t", "content": "a post", "comments": [{"body": "a comment"}]}}]
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_bytes("\ufeffplain\r\ntext  \n\n\n\nend\x00".encode())
    (tmp_path / "b.html").write_text(page, encoding="utf-8")
    (tmp_path / "sub" / "c.json").write_text(json.dumps(chat), encoding="utf-8")
    (tmp_path / "sub" / "d.jsonl").write_text("\n".join(map(json.dumps, blog)), encoding="utf-8")
    (tmp_path / "e.json").write_text("{", encoding="utf-8")
    (tmp_path / "f.png").write_bytes(b"x")
    pieces: list[str] = []
    found = list(gather(tmp_path, pieces.append))
    texts = ["plain\ntext\n\nend", "Hello big world\nA & B", "one\nsee this", "a post\na comment", ""]
    assert "".join(pieces) == "\n\n".join(texts)
    assert [(each.path.name, each.fault is None) for each in found] == [
        ("a.txt", True),
        ("b.html", True),
        ("e.json", False),
        ("c.json", True),
        ("d.jsonl", True),
    ]


@given(st.text(max_size=80))
def test_clean_text_has_no_control_characters_and_is_clean(text):
    once = clean(text)
    assert not {"\r", "\0"} & set(once)
    assert "\n\n\n" not in once
    assert clean(once) == once

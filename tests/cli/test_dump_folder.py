"""The folder of a dump: whole files or none."""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress

import pytest

from cli.dump_folder import DumpFolder, plain_line
from contracts.errors import InvalidRequest


def contents(count):
    return [{"text": f"text {number} 日本\nsecond line", "seed": number} for number in range(count)]


def test_a_file_appears_when_its_last_line_does_in_the_order_of_its_lines(tmp_path):
    path = tmp_path / "new" / "dump"
    places = list(enumerate(contents(20), start=1))
    random.Random(1).shuffle(places)
    with DumpFolder(path, 20, plain=False) as folder:
        for number, content in places:
            assert list(path.iterdir()) == []
            folder.put("temp_1_topp_0", number, content)
    assert [file.name for file in path.iterdir()] == ["temp_1_topp_0.jsonl"]
    lines = (path / "temp_1_topp_0.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == contents(20)
    assert lines[-1] == ""


def test_what_ends_a_dump_leaves_whole_files_alone(tmp_path):
    with suppress(KeyboardInterrupt), DumpFolder(tmp_path / "dump", 2, plain=True) as folder:
        for file, number in (("a", 1), ("b", 2), ("a", 2), ("b", 2)):
            folder.put(file, number, {"text": f"{file}{number}"})
        raise KeyboardInterrupt
    assert {file.name: file.read_text() for file in (tmp_path / "dump").iterdir()} == {"a.txt": "a1\na2\n"}


def test_without_a_whole_file_no_folder_is_left(tmp_path):
    with suppress(ZeroDivisionError), DumpFolder(tmp_path / "dump", 2, plain=False) as folder:
        folder.put("a", 1, {"text": "a"})
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_a_file_is_written_leaves_nothing_of_it(tmp_path, monkeypatch):
    def interrupt(_descriptor):
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt), DumpFolder(tmp_path / "dump", 1, plain=False) as folder:
        folder.put("a", 1, {"text": "a"})
        monkeypatch.setattr(os, "fsync", interrupt)
        folder.put("b", 1, {"text": "b"})
    assert [file.name for file in (tmp_path / "dump").iterdir()] == ["a.jsonl"]


def test_a_folder_that_is_there_is_refused_and_left_alone(tmp_path):
    with pytest.raises(InvalidRequest, match="is there already; name another folder with --output, or remove it"):
        DumpFolder(tmp_path, 1, plain=False).__enter__()
    assert tmp_path.is_dir()


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_plain_text_is_one_line_for_every_reader(tmp_path, end):
    (tmp_path / "file").write_text(plain_line(f"a{end}b\u2028c{end}") + "\n", encoding="utf-8", newline="")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "a b\u2028c \n"

"""Lines of dumps come apart into their parts, whatever is broken in them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import StoreError
from contracts.prompt_fields import PromptFields
from training.evaluation.dumps import FORMATS, read_dumps, setting_of
from training.evaluation.parsing import parse_line
from training.evaluation.report import Setting

TITLED, PLAIN = FORMATS
WHOLE = "war<|endofgenre|>Run (1999)<|endoftitle|>They run.<|endoftext|>"


@pytest.mark.parametrize(
    ("line", "faults", "text"),
    [
        (WHOLE, (), "They run."),
        ("war<|endofgenre|>Run They run.<|endoftext|>", ("missing <|endoftitle|>",), ""),
        ("war<|endofgenre|>Run<|endoftitle|>They run.", ("missing <|endoftext|>",), "They run."),
        ("Run<|endoftitle|>They run.<|endoftext|>", ("missing <|endofgenre|>",), ""),
        (
            "war<|endofgenre|>Run<|endoftitle|>They<|endoftitle|>run.<|endoftext|>",
            ("doubled <|endoftitle|>",),
            "They run.",
        ),
        (f"{WHOLE}<|endoftext|>", ("doubled <|endoftext|>",), "They run."),
        ("war<|endoftitle|>Run<|endofgenre|>They run.<|endoftext|>", ("markers in another order",), ""),
        ("war<|endofgenre|>Run<|pad|><|endoftitle|>They run.<|endoftext|>", ("unknown marker",), "They run."),
        (f"{WHOLE} and more", ("text after the end",), "They run."),
        ("war<|endofgenre|>Run<|endoftitle|> <|endoftext|>", ("no plot",), ""),
        ("They run.", ("no markers",), ""),
    ],
)
def test_every_kind_of_fault_is_named_and_the_text_is_read_where_it_can_be(line, faults, text):
    parsed = parse_line(TITLED, line)
    assert (parsed.faults, parsed.text) == (faults, text)


def test_a_missing_start_is_a_fault_of_a_line_but_not_of_what_a_model_has_written():
    written = "war<|endofgenre|>They run."
    assert parse_line(PLAIN, written).faults == ("missing <|startoftext|>", "missing <|endoftext|>")
    assert parse_line(PLAIN, written, is_whole=False).faults == ()
    assert parse_line(PLAIN, written, is_whole=False).text == "They run."


PARTS = st.text(max_size=30).filter(lambda part: "<|" not in part and "\n" not in part).map(str.strip)


@given(genre=PARTS, title=PARTS, plot=PARTS.filter(bool))
def test_parts_that_were_composed_come_apart_without_a_fault(genre, title, plot):
    line = TITLED.compose({"genre": genre, "title": title, "prefix": plot}) + "<|endoftext|>"
    parsed = parse_line(TITLED, line)
    assert (parsed.text, parsed.parts, parsed.faults) == (plot, {"genre": genre, "title": title}, ())


MARKERS = st.sampled_from([*TITLED.markers, *PLAIN.markers, "<|pad|>", "<|", "|>"])


@given(st.lists(MARKERS | st.text(max_size=9), max_size=12).map("".join), st.sampled_from(FORMATS), st.booleans())
def test_any_line_is_read_and_no_part_keeps_a_marker(line, fields, is_whole):
    parsed = parse_line(fields, line, is_whole=is_whole)
    assert parsed.text or parsed.faults
    for part in (parsed.text, *parsed.parts.values()):
        assert not any(marker in part for marker in fields.markers)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("temp_0_7_topp_0_9.txt", Setting(temperature=0.7, top_p=0.9)),
        ("temp_1_topp_0.txt", Setting(temperature=1, top_p=None)),
        ("temp_1_3_topp_1.txt", Setting(temperature=1.3, top_p=None)),
        ("temp_0_topp_0_95.txt", Setting(temperature=0, top_p=0.95)),
    ],
)
def test_a_files_name_says_how_its_texts_were_drawn(name, setting):
    assert setting_of(name) == setting


@pytest.mark.parametrize("name", ["dump.txt", "temp_1.txt", "temp_x_topp_0.txt", "temp_1_topp_7.txt"])
def test_a_name_that_says_no_setting_is_refused_with_the_form(name):
    with pytest.raises(StoreError, match=f"{name} says no sampling setting; name the file like temp_0_7_topp_0_9.txt"):
        setting_of(name)


def test_each_file_is_read_in_the_format_that_fits_most_of_its_lines(tmp_path):
    for source, line in (("with", WHOLE), ("without", "<|startoftext|>war<|endofgenre|>They run.<|endoftext|>")):
        (tmp_path / source).mkdir()
        (tmp_path / source / "temp_1_topp_0.txt").write_text(f"{line}\n\n{line}\nbroken\n")
    lines = read_dumps([tmp_path])
    assert [(line.source, line.place, line.text, line.genre, line.title) for line in lines] == [
        ("with", "temp_1_topp_0.txt:1", "They run.", "war", "Run (1999)"),
        ("with", "temp_1_topp_0.txt:3", "They run.", "war", "Run (1999)"),
        ("with", "temp_1_topp_0.txt:4", "", "broken", None),
        ("without", "temp_1_topp_0.txt:1", "They run.", "war", None),
        ("without", "temp_1_topp_0.txt:3", "They run.", "war", None),
        ("without", "temp_1_topp_0.txt:4", "", "broken", None),
    ]


def test_characters_that_python_takes_for_line_ends_end_no_line(tmp_path):
    (tmp_path / "temp_1_topp_0.txt").write_text(WHOLE.replace("They ", "They\u2028\x0b\x85") + "\n", encoding="utf-8")
    (line,) = read_dumps([tmp_path / "temp_1_topp_0.txt"])
    assert (line.text, line.parsed.faults) == ("They\u2028\x0b\x85run.", ())


def test_another_format_can_be_given(tmp_path):
    (tmp_path / "temp_1_topp_0.txt").write_text("1999<|year|>They run.<|end|>\n")
    (line,) = read_dumps([tmp_path], [PromptFields.from_format("year<|year|>story<|end|>")])
    assert (line.text, line.parsed.parts, line.parsed.faults) == ("They run.", {"year": "1999"}, ())


def test_a_file_that_no_format_fits_is_refused_with_the_formats(tmp_path):
    (tmp_path / "temp_1_topp_0.txt").write_text("They run.\n")
    with pytest.raises(StoreError, match=r"has the form genre<\|endofgenre\|>title.*--format"):
        read_dumps([tmp_path])


def record(**changes):
    fields = {"genre": "war", "title": "Run", "plot": "They run."}
    settings = {"temperature": 0.7, "top_p": None, "max_tokens": 256}
    known = {
        "text": WHOLE,
        "fields": fields,
        "settings": settings,
        "model": "plots",
        "seed": 3,
        "finish_reason": "stop",
    }
    return json.dumps(known | changes)


@pytest.mark.parametrize(
    ("changes", "text", "parts", "faults"),
    [
        ({}, "They run.", {"genre": "war", "title": "Run"}, ()),
        ({"text": "They run."}, "They run.", {"genre": "war", "title": "Run"}, ()),
        ({"fields": None}, "They run.", {"genre": "war", "title": "Run (1999)"}, ()),
        ({"fields": {}, "text": "KING: run"}, "KING: run", {}, ()),
        ({"fields": {}, "text": " "}, "", {}, ("no text",)),
        ({"fields": {"genre": "war", "title": "Run"}, "text": "a"}, "Run", {"genre": "war"}, ()),
        (
            {"fields": None, "text": "war<|endofgenre|>Run<|endoftitle|>a<|endoftitle|>b"},
            "a b",
            {"genre": "war", "title": "Run"},
            ("doubled <|endoftitle|>",),
        ),
    ],
)
def test_records_of_dump_are_read_with_their_parts(tmp_path, changes, text, parts, faults):
    (tmp_path / "dump.jsonl").write_text(record(**changes) + "\n")
    (line,) = read_dumps([tmp_path])
    assert (line.source, line.setting) == ("plots", Setting(temperature=0.7))
    assert (line.parsed.text, line.parsed.parts, line.parsed.faults) == (text, parts, faults)


def test_lines_that_are_no_records_are_counted_where_they_stand(tmp_path):
    other = record(settings={"temperature": 1.3, "top_p": 0.9})
    (tmp_path / "dump.jsonl").write_text(f'{{"text":\n{record()}\n{{"model": "plots"}}\n{other}\nnull\n')
    lines = read_dumps([tmp_path])
    assert [(line.setting.temperature, line.parsed.faults) for line in lines] == [
        (0.7, ("not JSON",)),
        (0.7, ()),
        (0.7, ("not a record of a dump",)),
        (1.3, ()),
        (1.3, ("not a record of a dump",)),
    ]


@given(st.data())
def test_any_content_is_read_or_refused(tmp_path_factory, spoiled, data):
    path = tmp_path_factory.mktemp("spoiled") / "dump.jsonl"
    path.write_bytes(data.draw(spoiled(json.loads(record()))) + b"\n" + data.draw(st.binary(max_size=20)))
    try:
        lines = read_dumps([path])
    except StoreError:
        return
    assert all(line.text or line.parsed.faults for line in lines)


def test_a_folder_without_dumps_and_a_file_without_records_are_refused(tmp_path):
    with pytest.raises(StoreError, match=r"no dumps; files are known by their endings: \.txt, \.jsonl"):
        read_dumps([tmp_path])
    (tmp_path / "dump.jsonl").write_text("{}\n")
    with pytest.raises(StoreError, match=r"dump\.jsonl has no line that `kamishibai dump` could have written"):
        read_dumps([tmp_path])


@pytest.mark.data
def test_the_broken_lines_of_the_public_dumps_are_told_by_kind(data_folder):
    lines = read_dumps([data_folder / "movie_plot_dumps"])
    assert len(lines) == 6 * 280 + 6 * 270
    hottest = [line for line in lines if line.source == "with-titles" and line.setting == Setting(temperature=1.3)]
    kinds = [fault for line in hottest for fault in line.parsed.faults]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "missing <|endoftitle|>": 48,
        "doubled <|endoftitle|>": 9,
        "doubled <|endofgenre|>": 4,
    }
    assert sum(bool(line.text) for line in hottest) == 280 - 48
    assert sum(bool(line.parsed.faults) for line in lines if line.source == "without-titles") == 2

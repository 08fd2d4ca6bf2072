"""`kamishibai evaluate text`: from dumps to a report, and one line where it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples import examples, missing

LINE = "war<|endofgenre|>Front (1999)<|endoftitle|>Two soldiers hide in the mud of the front.<|endoftext|>\n"
BASH = shutil.which("bash") or "/bin/bash"
EXAMPLES = examples((Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path):
    """With dumps and training texts of the names that the documentation gives them."""
    (tmp_path / "dumps").mkdir()
    for name in ("temp_0_7_topp_0_9.txt", "temp_1_topp_0.txt"):
        (tmp_path / "dumps" / name).write_text(LINE + LINE.replace("soldiers", "pilots") + "broken\n")
    record = {"title": "Sea", "plot": "Two pilots love the sea.", "genres": ["War"], "primary": "Sea", "split": "train"}
    (tmp_path / "plots.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path


@pytest.fixture
def evaluate(kamishibai, folder):
    def run(*options, dumps=folder / "dumps"):
        files = ("--against", folder / "plots.jsonl", "--output", folder / "report")
        return kamishibai("evaluate", "text", dumps, *files, *options)

    return run


def test_a_report_is_written_and_summed_up_in_a_table(evaluate, folder):
    ended = evaluate()
    assert ended.status == 0, ended.err
    rows = [line.split() for line in ended.out.splitlines()]
    assert rows[0][:6] == ["SOURCE", "TEMPERATURE", "TOP-P", "TEXTS", "BROKEN", "WORDS"]
    assert [row[:5] for row in rows[1:3]] == [
        ["dumps", "0.7", "0.9", "2", "33.3%"],
        ["dumps", "1", "off", "2", "33.3%"],
    ]
    assert "mean highest similarity (jaccard): 0." in ended.out
    assert "--encoder" in ended.err
    assert sorted(path.name for path in (folder / "report").iterdir()) == ["figures", "report.html", "report.json"]
    assert json.loads((folder / "report" / "report.json").read_text())["training"] == {
        "file": "plots.jsonl",
        "texts": 1,
    }


def test_perplexity_of_a_model_is_measured_where_it_is_asked_for(evaluate, folder, store):
    (folder / "held_out.txt").write_text("A young pilot loves the sea. " * 9)
    ended = evaluate("--model", "lstm", "--store", store.root, "--text", folder / "held_out.txt", "--device", "cpu")
    assert ended.status == 0, ended.err
    assert "perplexity of lstm@1: " in ended.out
    found = json.loads((folder / "report" / "report.json").read_text())["perplexity"]
    assert (found["model"], found["tokens"]) == ("lstm@1", 29 * 9 - 1)
    assert "Perplexity" in (folder / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model", "lstm"], "needs both --model and --text"),
        (["--format", "plot"], "'plot' is not a format of fields"),
        (["--format", "a<|b|>c<|d|>"], "give the form of its lines with --format"),
        (["--encoder", "/nowhere/encoder"], "/nowhere/encoder cannot be used as an encoder"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_no_report(evaluate, folder, options, named, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ended = evaluate(*options)
    assert ended.status == 1
    assert named in ended.err
    assert "Traceback" not in ended.err
    assert not (folder / "report").exists()


def test_a_folder_with_other_things_is_refused_before_anything_is_computed(evaluate, folder):
    (folder / "report").mkdir()
    (folder / "report" / "thesis.txt").write_text("ten years")
    (folder / "plots.jsonl").write_text("not read")
    ended = evaluate()
    assert (ended.status, ended.out) == (1, "")
    assert "'thesis.txt', which is of no report" in ended.err


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_of_the_documentation_runs(example, folder):
    if example.reason:
        pytest.skip(example.reason)
    command = folder / "bin" / "kamishibai"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m cli.main "$@"\n')
    command.chmod(0o755)
    shell = [BASH, "-euo", "pipefail", "-c", example.code]
    done = subprocess.run(
        [sys.executable, "-c", example.code] if example.language == "python" else shell,
        cwd=folder,
        env=os.environ | {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert missing(example, done.stdout) == [], done.stdout
    assert (folder / "report" / "report.html").exists()

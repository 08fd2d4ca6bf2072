"""`kamishibai dump` with an engine in this process: its files, and one line where it cannot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contracts.requests import TextRequest
from workers.local import LocalModel

GENRES = ("action", "日本", "drama")


@pytest.fixture
def dump(kamishibai, dump_store, tmp_path, monkeypatch):
    """Run the command; it writes into `tmp_path / "dump"` unless told otherwise."""
    monkeypatch.delenv("KAMISHIBAI_API_KEY", raising=False)

    def run(model, *options, output=tmp_path / "dump"):
        return kamishibai("dump", model, "--output", output, "--store", dump_store.root, "--device", "cpu", *options)

    return run


def records(folder: Path) -> dict[str, list[dict]]:
    files = sorted(folder.iterdir())
    return {file.name: [json.loads(line) for line in file.read_text("utf-8").splitlines()] for file in files}


def test_there_is_a_file_for_each_setting_and_a_line_for_each_text(dump, tmp_path, dump_store):
    ended = dump("movies", "--genres", ",".join(GENRES), "--samples", 2, "--max-tokens", 20)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(f"{tmp_path / 'dump'}: 6 files of 6 texts each by movies@1, ")
    fields = dump_store.open("movies").manifest.prompt_fields
    found = records(tmp_path / "dump")
    assert list(found) == sorted(
        f"temp_{temperature}_topp_{top_p}.jsonl" for temperature in ("0_7", "1", "1_3") for top_p in ("0", "0_9")
    )
    for name, lines in found.items():
        assert [line["fields"]["genre"] for line in lines] == [genre for genre in GENRES for _ in range(2)]
        for line in lines:
            assert set(line) == {"text", "fields", "settings", "model", "fingerprint", "seed", "finish_reason"}
            assert line["fields"] == fields.parse(line["text"])
            assert line["model"] == "movies@1"
            assert line["fingerprint"].startswith("fp_")
            assert line["finish_reason"] in ("stop", "length")
            temperature, top_p = line["settings"]["temperature"], line["settings"]["top_p"]
            assert name == f"temp_{temperature:g}_topp_{top_p or 0:g}".replace(".", "_") + ".jsonl"
    lines = [line for file in found.values() for line in file]
    assert len({line["seed"] for line in lines}) == len(lines)
    assert len({line["text"] for line in lines}) > len(lines) // 2
    assert any("<|endoftitle|>" in line["text"] for line in lines)
    assert any(line["text"].endswith("<|endoftext|>") for line in lines if line["finish_reason"] == "stop")


def test_every_text_is_the_one_that_its_request_gets_alone(dump, tmp_path, dump_store):
    assert dump("movies", "--genres", ",".join(GENRES), "--samples", 30, "--max-tokens", 30).status == 0
    local = LocalModel(dump_store.open("movies"))
    beginnings = {genre: len(local.bundle.tokenizer().encode(f"{genre}<|endofgenre|>")) for genre in GENRES}
    for lines in records(tmp_path / "dump").values():
        for line in lines[::7]:
            tokens_of(local, line, beginnings[line["fields"]["genre"]] + 30)


def test_the_same_command_gives_the_same_files_and_another_seed_others(dump, tmp_path):
    common = ("movies", "--genres", "war", "--samples", 3, "--max-tokens", 10, "--temperatures", "1")
    contents = []
    for seed, name in ((42, "a"), (42, "b"), (43, "c")):
        assert dump(*common, "--seed", seed, output=tmp_path / name).status == 0
        contents.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert contents[0].keys() == contents[2].keys()
    assert not set(contents[0].values()) & set(contents[2].values())


@pytest.mark.parametrize("model", ["lstm", "gpt2"])
def test_models_without_fields_go_on_from_prompts(dump, tmp_path, model):
    (tmp_path / "prompts.txt").write_text("A story \nthe quick brown\n")
    options = ("--prompts", tmp_path / "prompts.txt", "--samples", 2, "--temperatures", "1", "--top-p", "off")
    assert dump(model, *options, "--max-tokens", 12).status == 0
    (lines,) = records(tmp_path / "dump").values()
    beginnings = ["A story ", "A story ", "the quick brown", "the quick brown"]
    assert [line["text"][: len(beginning)] for line, beginning in zip(lines, beginnings, strict=True)] == beginnings
    assert all(line["text"] not in beginnings and line["fields"] == {} for line in lines)
    assert len({line["text"] for line in lines}) == 4


def test_a_model_whose_context_is_short_fills_it_by_default(dump, tmp_path, dump_store):
    assert dump("movies", "--genres", "war", "--samples", 8, "--temperatures", "1").status == 0
    local = LocalModel(dump_store.open("movies"))
    lengths = [tokens_of(local, line, max_tokens=64) for lines in records(tmp_path / "dump").values() for line in lines]
    assert max(lengths) == 64
    assert min(lengths) < 64


def tokens_of(local, line, max_tokens):
    """Tokens of a text of the dump, its beginning included, written again from its seed."""
    prompt = tuple(local.bundle.tokenizer().encode(f"{line['fields']['genre']}<|endofgenre|>"))
    request = TextRequest(
        target=local.bundle.target(),
        seed=line["seed"],
        prompt_tokens=prompt,
        temperature=line["settings"]["temperature"],
        top_p=line["settings"]["top_p"] or 1.0,
        max_tokens=max_tokens - len(prompt),
        with_fields=True,
    )
    (choice,) = local.text(request).choices
    assert (line["text"], line["finish_reason"]) == (choice.marked_text, choice.finish_reason)
    return len(prompt) + choice.tokens


def test_a_prompt_may_go_as_far_as_it_likes_into_the_format(dump, tmp_path):
    (tmp_path / "prompts.txt").write_text("war<|endofgenre|>The sea<|endoftitle|>A pilot\n")
    assert dump("movies", "--prompts", tmp_path / "prompts.txt", "--max-tokens", 9, "--samples", 1).status == 0
    for (line,) in records(tmp_path / "dump").values():
        assert line["text"].startswith("war<|endofgenre|>The sea<|endoftitle|>A pilot")
        assert line["fields"].items() >= {"genre": "war", "title": "The sea"}.items()
        assert line["fields"]["plot"].startswith("A pilot")


def test_plain_files_hold_the_same_texts_a_line_each(dump, tmp_path):
    common = ("lstm", "--prompts", tmp_path / "prompts.txt", "--samples", 5, "--max-tokens", 80)
    (tmp_path / "prompts.txt").write_text("A story\n")
    assert dump(*common).status == 0
    assert dump(*common, "--plain", output=tmp_path / "plain").status == 0
    found = records(tmp_path / "dump")
    assert any("\n" in line["text"] for lines in found.values() for line in lines)
    for name, lines in found.items():
        plain = (tmp_path / "plain" / name.replace(".jsonl", ".txt")).read_text(encoding="utf-8")
        assert plain.split("\n") == [*(line["text"].replace("\n", " ") for line in lines), ""]


def test_genres_may_come_from_records(dump, tmp_path):
    (tmp_path / "plots.jsonl").write_text('{"genres": ["war", "drama"]}\n{"genres": ["action"]}\n')
    assert dump("movies", "--from", tmp_path / "plots.jsonl", "--samples", 1, "--max-tokens", 5).status == 0
    for lines in records(tmp_path / "dump").values():
        assert [line["fields"]["genre"] for line in lines] == ["action", "drama", "war"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope", "--genres", "a"], "has no model nope"),
        (["faces", "--genres", "a"], "faces is for image and writes no texts; `kamishibai models` lists"),
        (["lstm", "--genres", "a"], "lstm@1 has no fields; give it the beginnings of its texts with --prompts FILE"),
        (["movies", "--field", "year=1999"], "'fields.year' is not a field of this model; it has genre, title, prefix"),
        (["movies"], "by one of --genres or --field, --from and --prompts"),
        (["movies", "--genres", "a", "--temperatures", "hot"], "--temperatures holds 'hot'"),
        (["movies", "--genres", "a", "--top-p", "2"], "--top-p holds '2'"),
        (["movies", "--genres", "a" * 200], "shorten it, or lower --max-tokens"),
        (["movies", "--genres", "a\udcff"], "'prompt' is "),
        (["movies", "--genres", "a", "--variant", "onnx:int4"], "has no variant 'onnx:int4'"),
        (
            ["lstm", "--prompts", "PROMPTS", "--max-tokens", 5000],
            "'max_tokens' is 5000, but the model writes at most 4096",
        ),
        (["lstm", "--prompts", "UNREADABLE"], "holds nothing that lstm@1 can read"),
    ],
)
def test_what_cannot_be_dumped_is_one_line_and_leaves_nothing(dump, tmp_path, words, said):
    files = {"PROMPTS": "A story\n", "UNREADABLE": "♞♞\n"}
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    ended = dump(*(tmp_path / word if word in files else word for word in words))
    assert (ended.status, ended.out) == (1, "")
    assert len(ended.err.splitlines()) == 1
    assert said in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_a_folder_that_is_there_is_refused_before_anything_else(dump, tmp_path):
    ended = dump("nope", output=tmp_path)
    assert (ended.status, f"{tmp_path} is there already; name another folder with --output" in ended.err) == (1, True)


def test_ctrl_c_leaves_whole_files_alone(dump_store, tmp_path):
    (tmp_path / "prompts.txt").write_text("A story\n")
    command = [sys.executable, "-P", "-m", "cli.main", "dump", "lstm", "--store", str(dump_store.root)]
    places = ["--prompts", str(tmp_path / "prompts.txt"), "--output", str(tmp_path / "dump")]
    temperatures = ",".join(f"0.{number}" for number in range(100, 500))
    process = subprocess.Popen(
        [*command, *places, "--device", "cpu", "--samples", "100", "--temperatures", temperatures],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_take_ctrl_c,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("dump/*.jsonl")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    files = list((tmp_path / "dump").iterdir())
    assert f"stopped: {len(files)} of 800 files have been written, each whole" in said
    assert 0 < len(files) < 800
    assert [file.name for file in files if file.suffix != ".jsonl"] == []
    for lines in records(tmp_path / "dump").values():
        assert len(lines) == 100


def _take_ctrl_c():
    """Where the tests run in the background, it is ignored, and whoever they start would ignore it, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

"""`kamishibai dump` through a running product: the files are those that it writes alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import TypeAdapter

from server import answers

SMALL = ("--samples", "4", "--temperatures", "0.7,1.3", "--max-tokens", "40")


@pytest.fixture(scope="module")
def root(dump_store, tmp_path_factory):
    return shutil.copytree(dump_store.root, tmp_path_factory.mktemp("product") / "store")


@pytest.fixture
def start_own(start_product, dump_store, tmp_path):
    """Start a product with settings of its own, on a store of its own."""

    def start(**settings):
        product = start_product(root=shutil.copytree(dump_store.root, tmp_path / "store"), settings=settings)
        product.wait_ready()
        return product

    return start


@pytest.fixture
def start_dump(tmp_path):
    """Start the command as a user does; it writes into a folder of this name."""

    def start(name, *options):
        command = [sys.executable, "-P", "-m", "cli.main", "dump", *map(str, options), "--output", str(tmp_path / name)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KAMISHIBAI_")}
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_take_ctrl_c,
        )

    return start


@pytest.fixture
def dump(start_dump, tmp_path):
    """Run it to its end; what it wrote, by file, and what it said."""

    def run(name, *options):
        process = start_dump(name, *options)
        out, err = process.communicate(timeout=120)
        folder = tmp_path / name
        files = {file.name: file.read_bytes() for file in folder.iterdir()} if folder.is_dir() else {}
        return process.returncode, files, out + err

    return run


def test_a_server_writes_the_same_files_as_this_process(shared_product, dump, root, tmp_path):
    (tmp_path / "prompts.txt").write_text("A story \nthe quick brown\n")
    for model, beginnings in (
        ("movies", ("--genres", "action,drama,日本")),
        ("lstm", ("--prompts", tmp_path / "prompts.txt")),
        ("gpt2@1", ("--prompts", tmp_path / "prompts.txt")),
    ):
        here = dump(f"{model} here", model, *beginnings, *SMALL, "--store", root, "--device", "cpu")
        there = dump(f"{model} there", model, *beginnings, *SMALL, "--server", shared_product.url)
        assert (here[0], there[0]) == (0, 0), here[2] + there[2]
        assert len(here[1]) == 4
        assert here[1] == there[1]


def test_several_dumps_at_once_share_the_server(shared_product, dump):
    options = ("movies", "--genres", "action,drama", *SMALL, "--server", f"{shared_product.url}/v1")
    with ThreadPoolExecutor() as pool:
        files = [ended[1] for ended in pool.map(lambda name: dump(name, *options), "abc")]
    assert len(files[0]) == 4
    assert files[0] == files[1] == files[2]


def test_a_server_that_takes_few_jobs_at_once_takes_them_all_in_the_end(start_own, dump, root):
    tight = start_own(KAMISHIBAI_MAX_QUEUED_JOBS="5")
    options = ("movies", "--genres", "a,b,c,d,e,f", *SMALL)
    here, there = dump("here", *options, "--store", root), dump("there", *options, "--server", tight.url)
    assert (there[0], there[1]) == (0, here[1]), there[2]


@pytest.mark.long
def test_a_server_that_takes_few_jobs_a_minute_is_asked_again_when_it_says(start_own, dump, root):
    slow = start_own(KAMISHIBAI_JOBS_PER_MINUTE="60")  # these at once, then one a second
    options = ("movies", "--genres", "a", "--samples", 63, "--temperatures", 1, "--top-p", "off", "--max-tokens", 3)
    here, there = dump("here", *options, "--store", root), dump("there", *options, "--server", slow.url)
    assert (there[0], there[1]) == (0, here[1]), there[2]


def test_a_key_opens_a_server_that_needs_one(start_own, dump, tmp_path):
    closed = start_own()
    options = ("movies", "--genres", "a", "--samples", 1, "--max-tokens", 5, "--server", closed.url)
    command = [sys.executable, "-P", "-m", "cli.main", "keys", "create", "dumper", "--store", str(tmp_path / "store")]
    key = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    deadline = time.monotonic() + 10
    while closed.get("/v1/models")[0] == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    status, files, said = dump("without", *options)
    assert (status, files) == (1, {})
    assert "needs an API key" in said
    assert "--api-key or KAMISHIBAI_API_KEY" in said
    status, files, said = dump("with", *options, "--api-key", key)
    assert (status, len(files)) == (0, 6), said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nope", "--genres", "a"], "nope"),
        (["faces", "--genres", "a"], "faces is for image and writes no texts"),
        (["lstm", "--genres", "a"], "lstm@1 has no fields; give it the beginnings of its texts with --prompts FILE"),
        (["movies", "--field", "year=1999"], "'fields.year' is not a field of this model; it has genre, title, prefix"),
        (["movies", "--genres", "a" * 200], "the server refuses the beginning 'aaaa"),
        (["movies", "--genres", "a", "--variant", "onnx:fp32"], "--variant is for a model that is run here"),
        (["movies/../faces", "--genres", "a"], "cannot name a model"),
    ],
)
def test_what_a_server_cannot_dump_is_one_line_and_leaves_nothing(shared_product, dump, options, said):
    status, files, words = dump("dump", *options, "--server", shared_product.url)
    assert (status, files) == (1, {})
    assert len(words.splitlines()) == 1
    assert said in words


def test_ctrl_c_gives_up_the_jobs_that_nobody_will_read(shared_product, start_dump, tmp_path):
    temperatures = ",".join(f"0.{number}" for number in range(100, 200))
    options = ("movies", "--genres", "a", "--samples", "50", "--temperatures", temperatures)
    process = start_dump("dump", *options, "--server", shared_product.url)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("dump/*.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    files = list((tmp_path / "dump").iterdir())
    assert f"stopped: {len(files)} of 200 files have been written, each whole" in said
    assert {len(file.read_text(encoding="utf-8").splitlines()) for file in files} == {50}
    newest = shared_product.get("/v1/jobs?limit=100")[1]["data"]
    assert {job["status"] for job in newest} == {"cancelled"}


def test_a_model_says_what_its_fields_are_and_its_texts_have_them_however_they_begin(shared_product):
    status, model = shared_product.get("/v1/models/movies")
    assert status == 200
    assert model["prompt_fields"] == {
        "start": "",
        "fields": [
            {"name": "genre", "end": "<|endofgenre|>"},
            {"name": "title", "end": "<|endoftitle|>"},
            {"name": "plot", "end": "<|endoftext|>"},
        ],
    }
    TypeAdapter(answers.Model).validate_json(json.dumps(model), strict=True, extra="forbid")
    assert "prompt_fields" not in shared_product.get("/v1/models/lstm")[1]
    choices = []
    for beginning in ({"fields": {"genre": "war"}}, {"prompt": "war<|endofgenre|>"}):
        body = {"model": "movies", "seed": 5, "max_tokens": 30, **beginning}
        status, answer = shared_product.post("/v1/completions", body)
        assert status == 200
        TypeAdapter(answers.Completion).validate_json(json.dumps(answer), strict=True, extra="forbid")
        choices.append(answer["choices"][0])
    assert choices[0] == choices[1]
    assert choices[0]["fields"]["genre"] == "war"
    assert choices[0]["marked_text"].startswith("war<|endofgenre|>")


def _take_ctrl_c():
    """Where the tests run in the background, it is ignored, and whoever they start would ignore it, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

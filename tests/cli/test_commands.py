"""`models`, `generate`, `import`, `worker`, `up`: what they do, and one line where they cannot."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from cli.devices import devices
from contracts.requests import ImageRequest, TextRequest
from workers.local import LocalModel

# models


def test_models_lists_every_version(kamishibai, store, tmp_path):
    shutil.copytree(store.root, tmp_path / "store")
    ended = kamishibai("models", "--store", tmp_path / "store")
    assert ended.status == 0
    rows = [line.split() for line in ended.out.splitlines()]
    assert rows[0][:4] == ["MODEL", "VERSION", "TASK", "FAMILY"]
    assert [row[:5] for row in rows[1:]] == [
        ["faces", "1", "(latest)", "image", "dcgan"],
        ["gpt2", "1", "(latest)", "text", "gpt2"],
        ["lstm", "1", "(latest)", "text", "lstm"],
    ]
    assert all("pytorch:fp32" in row for row in rows[1:])


def test_models_names_what_cannot_be_used_and_lists_the_rest(kamishibai, store, tmp_path):
    shutil.copytree(store.root, tmp_path / "store")
    (tmp_path / "store" / "gpt2" / "1" / "manifest.json").write_text("{")
    ended = kamishibai("models", "--store", tmp_path / "store")
    assert ended.status == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == ["MODEL", "faces", "lstm"]
    assert ended.err.startswith("gpt2@1 cannot be used: ")
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("make", [True, False])
def test_an_empty_or_missing_store_says_what_to_do(kamishibai, tmp_path, make):
    if make:
        (tmp_path / "store").mkdir()
    ended = kamishibai("models", "--store", tmp_path / "store")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"{tmp_path / 'store'} holds no model. `kamishibai demo` makes four small ones.\n"
    assert (tmp_path / "store").exists() == make


def test_the_store_can_come_from_the_environment(kamishibai, store, monkeypatch):
    monkeypatch.setenv("KAMISHIBAI_STORE", str(store.root))
    assert "faces" in kamishibai("models").out


# generate


@pytest.mark.parametrize("model", ["lstm", "gpt2"])
def test_text_goes_to_stdout_and_is_the_same_for_the_same_seed(kamishibai, store, model):
    def generate(*options):
        return kamishibai("generate", model, "--prompt", "the", "--max-tokens", 40, "--store", store.root, *options)

    first = generate("--seed", 5)
    assert first.status == 0
    assert first.out.startswith("the")
    assert len(first.out) > 10
    assert first.err == "seed 5\n"
    assert generate("--seed", 5).out == first.out
    assert generate("--seed", 6).out != first.out
    drawn = generate()
    seed = drawn.err.removeprefix("seed ").strip()
    assert generate("--seed", seed).out == drawn.out


def test_the_options_reach_the_model(kamishibai, store):
    def generate(*options):
        common = ("--prompt", "the", "--max-tokens", 30, "--store", store.root)
        return kamishibai("generate", "lstm", *common, *options).out.removeprefix("the").removesuffix("\n")

    greedy = generate("--temperature", 0, "--seed", 1)
    assert {generate("--temperature", 0, "--seed", 2), generate("--top-k", 1), generate("--top-p", 1e-9)} == {greedy}
    assert len(generate("--seed", 1)) == 30
    stop = generate("--seed", 1)[10:12]
    stopped = generate("--seed", 1, "--stop", stop, "--stop", "never")
    assert stopped == generate("--seed", 1).split(stop)[0]


def test_a_prompt_with_characters_that_the_model_skips_is_shown_as_given(kamishibai, store):
    def generate(prompt):
        return kamishibai("generate", "lstm", "--prompt", prompt, "--seed", 1, "--store", store.root).out

    known = generate("the").removeprefix("the")
    assert generate("th♞e") == "th♞e" + known
    assert generate("the\udcff") == "the?" + known, "a byte that is not UTF-8 cannot be written"


@pytest.mark.parametrize(
    ("option", "value", "temperature"),
    [
        ("min_p", 0.2, 1.0),
        ("repetition_penalty", 1.5, 0.0),
        ("presence_penalty", 2.0, 0.0),
        ("frequency_penalty", -2.0, 1.0),
        ("no_repeat_ngram_size", 2, 0.0),
        ("min_tokens", 40, 1.0),
    ],
)
def test_every_sampling_option_writes_what_its_field_of_a_request_writes(kamishibai, store, option, value, temperature):
    bundle = store.open("gpt2")
    model = LocalModel(bundle)
    tokens = tuple(bundle.tokenizer().encode("the"))

    def expected(seed, **fields):
        drawn = {"temperature": temperature, "max_tokens": 60, "seed": seed, "prompt_tokens": tokens} | fields
        return model.text(TextRequest(target=bundle.target(), **drawn)).choices[0].text

    seed = next(seed for seed in range(200) if expected(seed) != expected(seed, **{option: value}))
    words = ("--prompt", "the", "--max-tokens", 60, "--temperature", temperature, "--seed", seed)
    choice = (f"--{option.replace('_', '-')}", value)
    ended = kamishibai("generate", "gpt2", *words, *choice, "--store", store.root)
    assert ended.status == 0
    assert ended.out == "the" + expected(seed, **{option: value}) + "\n"


@pytest.mark.parametrize(("count", "size"), [(1, (16, 16)), (2, (32, 16)), (4, (32, 32)), (5, (48, 32))])
def test_pictures_are_tiled_into_one_png(kamishibai, store, tmp_path, count, size):
    out = tmp_path / "pictures.png"
    ended = kamishibai("generate", "faces", "--n", count, "--seed", 3, "--out", out, "--store", store.root)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"{out}: {count} picture{'s' * (count > 1)} of 16x16, seed 3\n"
    with Image.open(out) as sheet:
        assert (sheet.format, sheet.size) == ("PNG", size)
        columns, rows = size[0] // 16, size[1] // 16
        places = [(column * 16, row * 16) for row in range(rows) for column in range(columns)]
        tiles = [sheet.crop((x, y, x + 16, y + 16)).tobytes() for x, y in places]
    drawn, blank = tiles[:count], tiles[count:]
    assert len({*drawn}) == count
    assert all(len({*tile}) > 1 for tile in drawn), "there is something on each"
    assert all(set(tile) == {0} for tile in blank)
    kamishibai("generate", "faces", "--seed", 3, "--out", tmp_path / "one.png", "--store", store.root)
    with Image.open(tmp_path / "one.png") as one:
        assert one.tobytes() == drawn[0], "picture i does not depend on how many there are"


@pytest.mark.parametrize(("ending", "kind"), [(".gif", "GIF"), (".WEBP", "WEBP")])
def test_frames_between_two_seeds_become_an_animation(kamishibai, store, tmp_path, ending, kind):
    out = tmp_path / f"way{ending}"
    words = ("--seed", 3, "--to-seed", 4, "--frames", 5, "--truncation", 0.8, "--out", out, "--store", store.root)
    ended = kamishibai("generate", "faces", *words)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"{out}: 5 pictures of 16x16, from seed 3 to 4\n"
    with Image.open(out) as way:
        assert (way.format, way.size) == (kind, (16, 16))
        assert len(list(ImageSequence.Iterator(way))) == 5


def test_an_array_holds_the_pictures_of_a_seed_and_truncation_changes_them(kamishibai, store, tmp_path):
    local = LocalModel(store.open("faces"))
    for truncation in (1.0, 0.4):
        out = tmp_path / "pictures.npy"
        words = ("--seed", 3, "--n", 2, "--truncation", truncation, "--out", out, "--store", store.root)
        assert kamishibai("generate", "faces", *words).status == 0
        request = ImageRequest(target=local.bundle.target(), seed=3, count=2, truncation=truncation)
        drawn = [np.asarray(Image.open(io.BytesIO(file))) for file in local.pictures(request)]
        assert (np.load(out) == np.stack(drawn)).all()


def test_an_ending_that_no_picture_has_is_refused(kamishibai, store, tmp_path):
    ended = kamishibai("generate", "faces", "--out", tmp_path / "face.jpg", "--store", store.root)
    assert ended.status == 1
    assert "end it with .png, .gif, .webp, .npy" in ended.err
    assert not list(tmp_path.iterdir())


def test_the_default_file_names_model_and_seed(kamishibai, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kamishibai("generate", "faces", "--seed", 8, "--store", store.root).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["faces-8.png"]


# Errors


TEXT = ("generate", "lstm", "--prompt", "the")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("generate", "nope"), "has no model nope; it has faces, gpt2, lstm"),
        (("generate", "../x"), "'../x' cannot name a model"),
        (("generate", "lstm"), "with --prompt"),
        (("generate", "lstm", "--prompt", "♞"), "with --prompt"),
        (("generate", "gpt2", "--prompt", "a\udcff"), "not UTF-8"),
        (("generate", "gpt2", "--prompt", "the", "--max-tokens", "1000"), "context of 256"),
        ((*TEXT, "--seed", str(2**63)), "'seed' is 9223372036854775808: input should be less than"),
        ((*TEXT, "--temperature", "nan"), "'temperature' is nan: input should be a finite number"),
        ((*TEXT, "--temperature", "101"), "'temperature' is 101.0: input should be less than or equal to 100"),
        ((*TEXT, "--top-k", str(2**31)), "'top_k'"),
        ((*TEXT, "--min-p", "2"), "'min_p' is 2.0: input should be less than or equal to 1"),
        ((*TEXT, "--min-p", "nan"), "'min_p' is nan: input should be a finite number"),
        ((*TEXT, "--repetition-penalty", "0"), "'repetition_penalty' is 0.0: input should be greater than 0"),
        ((*TEXT, "--repetition-penalty", "inf"), "'repetition_penalty' is inf: input should be a finite number"),
        ((*TEXT, "--presence-penalty", "2.5"), "'presence_penalty' is 2.5: input should be less than or equal to 2"),
        ((*TEXT, "--frequency-penalty", "-3"), "'frequency_penalty' is -3.0: input should be greater than or equal to"),
        ((*TEXT, "--no-repeat-ngram-size", "65"), "'no_repeat_ngram_size' is 65: input should be less than"),
        ((*TEXT, "--min-tokens", "-1"), "'min_tokens' is -1: input should be greater than or equal to 0"),
        ((*TEXT, "--stop", ""), "'stop.0' is ''"),
        ((*TEXT, "--device", "cuda:99"), "cannot be run on cuda:99"),
        (("generate", "faces", "--seed", str(2**63)), "'seed'"),
        (("generate", "faces", "--out", "/nowhere/x.png"), "/nowhere/x.png"),
        (("import", "hf", "/nowhere", "--name", "x"), "'/nowhere' is neither a folder nor a name on the hub"),
        (("worker", "--models", "nope"), "has no model nope; it has faces, gpt2, lstm"),
        (("worker", "--kv-memory", "0"), "kv_bytes (KAMISHIBAI_KV_BYTES) is 0; it must be greater than 0"),
        (("worker", "--models", "lstm,"), "cannot name a model"),
        (("worker", "--redis-url", "http://x"), "redis://, rediss://, unix://"),
        (("up", "--port", "70000"), "port (KAMISHIBAI_PORT) is 70000; it must lie between 1 and 65535"),
        (("up", "--models", "lstm", "--redis-url", "unix:///x", "--port", "0"), "port (KAMISHIBAI_PORT) is 0"),
        (("serve", "--port", "-1"), "port (KAMISHIBAI_PORT) is -1"),
    ],
    ids=lambda value: " ".join(value)[:60].replace("\udcff", "?") if isinstance(value, tuple) else None,
)
def test_what_the_user_can_mend_is_one_line(kamishibai, store, tmp_path, arguments, named):
    root = store.root
    if arguments[0] == "up":
        shutil.copytree(store.root, root := tmp_path / "store")
    ended = kamishibai(*arguments, "--store", root)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("Error: ")
    assert len(ended.err.splitlines()) == 1, ended.err
    assert named in ended.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("dance",), "No such command 'dance'"),
        (("generate",), "Missing argument 'MODEL'"),
        ((*TEXT, "--max-tokens", "0"), "'--max-tokens'"),
        ((*TEXT, "--max-tokens", "many"), "'many' is not a valid integer"),
        ((*TEXT, "--temperature", "-1"), "'--temperature'"),
        ((*TEXT, "--top-p", "0"), "'--top-p'"),
        ((*TEXT, "--seed", "-1"), "'--seed'"),
        ((*TEXT, "--min-p", "little"), "'little' is not a valid float"),
        ((*TEXT, "--no-repeat-ngram-size", "1.5"), "'1.5' is not a valid integer"),
        (("worker", "--kv-memory", "lots"), "'--kv-memory': 'lots' is not an amount of memory; write it like 2GiB"),
        (("up", "--kv-memory", "-1GiB"), "'-1GiB' is not an amount of memory; write it like 2GiB, 500MB or 1073741824"),
        (("up", "--kv-memory", "2 GiBs"), "'2 GiBs' is not an amount of memory; write it like 2GiB"),
        (("worker", "--kv-memory", ""), "'' is not an amount of memory; write it like 2GiB"),
        (("worker", "--kv-memory", "9" * 400), "is not an amount of memory; write it like 2GiB"),
        ((*TEXT, "--device", "gpu"), "give auto, cpu, cuda or cuda:1"),
        (("worker", "--device", "cuda:"), "'--device'"),
        (("generate", "faces", "--n", "0"), "'--n'"),
        (("generate", "faces", "--out", "."), "'--out'"),
        (("models", "--store", __file__), "'--store'"),
        (("up", "--workers", "0"), "'--workers'"),
        (("import", "hf", "."), "Missing option '--name'"),
        (("import", "tfjs", ".", "--name", "x"), "Missing option '--corpus'"),
        (("export", "/nowhere", "--name", "x"), "'/nowhere' does not exist"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, tuple) else None,
)
def test_wrong_options_are_refused_by_name(kamishibai, arguments, named):
    ended = kamishibai(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("Usage: ")
    assert named in ended.err.splitlines()[-1]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"model_type": "bert"}', "[" * 100_000])
@pytest.mark.parametrize("command", ["hf", "tfjs", "export"])
def test_a_folder_that_cannot_be_imported_is_one_line_and_leaves_no_model(kamishibai, tmp_path, command, content):
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "corpus").write_text("abc")
    names = {"hf": "config.json", "tfjs": "model.json", "export": "run.json"}
    if content is not None:
        (source / names[command]).write_text(content)
    words = ["export"] if command == "export" else ["import", command]
    options = ["--corpus", tmp_path / "corpus"] if command == "tfjs" else []
    ended = kamishibai(*words, source, "--name", "x", *options, "--store", tmp_path / "store")
    assert (ended.status, ended.out) == (1, "")
    assert len(ended.err.splitlines()) == 1, ended.err
    assert str(source) in ended.err
    assert not list(tmp_path.glob("store/x/*"))


@pytest.mark.parametrize("command", [["worker"], ["generate", "x"]])
def test_an_empty_store_is_one_line(kamishibai, tmp_path, command):
    ended = kamishibai(*command, "--store", tmp_path)
    assert (ended.status, len(ended.err.splitlines())) == (1, 1)
    assert str(tmp_path) in ended.err


def test_a_worker_waits_for_a_redis_that_is_not_there_yet(store, tmp_path):
    command = [sys.executable, "-P", "-m", "cli.main", "worker", "--device", "cpu", "--store", str(store.root)]
    command += ["--redis-url", f"unix://secret:word@{tmp_path}/none.sock"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        line = next(line for line in worker.stderr if " runs as " not in line)
        time.sleep(1.2)
        assert worker.poll() is None
        asked_at = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        rest = worker.communicate(timeout=10)[1]
    assert "Redis cannot be reached" in line
    assert "Redis cannot be reached" not in rest, "it is said once"
    assert "word" not in line + rest
    assert "Traceback" not in rest
    assert time.monotonic() - asked_at < 5


# What the commands are made of


@pytest.mark.parametrize(
    ("wanted", "visible", "found"),
    [
        ("cpu", "0,1", ["cpu"]),
        ("cuda:3", "0", ["cuda:3"]),
        ("auto", "0,1", ["cuda:0", "cuda:1"]),
        ("auto", "GPU-8a,", ["cuda:0"]),
        ("auto", "", ["cpu"]),
        ("auto", "-1", ["cpu"]),
    ],
)
def test_devices(monkeypatch, wanted, visible, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices(wanted) == found


def test_auto_without_an_nvidia_driver_is_the_cpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    count = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    assert devices("auto") == ([f"cuda:{index}" for index in range(count)] or ["cpu"])

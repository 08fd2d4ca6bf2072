"""The store: bundles appear whole or not at all, and damaged ones are refused with all their faults."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contracts.bundle import MANIFEST, Bundle, Manifest
from contracts.errors import StoreError
from contracts.store import Store, check_name, split_name

FIELDS = {
    "family": "lstm",
    "task": "text",
    "config": {"vocabulary_size": 2},
    "limits": {"max_tokens": 16},
    "tokenizer": "characters",
    "variants": [{"format": "pytorch", "precision": "fp32", "files": ["weights.safetensors"]}],
    "example": {"prompt": "a"},
}


def fill(folder: Path, weights: bytes = b"weights") -> dict:
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text('{"characters": "ab", "unknown": "skip"}')
    return FIELDS


@pytest.fixture
def empty(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def written(empty) -> Bundle:
    return empty.write("m", fill)


def visible(store: Store) -> list[str]:
    return [f"{name}@{version}" for name in store.names() for version in store.versions(name)]


# Writing


def test_a_written_bundle_is_read_back(empty):
    bundle = empty.write("m", fill)
    again = empty.open("m")
    assert again.manifest == bundle.manifest
    assert again.path == empty.root / "m" / "1"
    assert again.tokenizer().encode("ba") == [1, 0]
    assert again.target().queue() == "m@1/pytorch-fp32/normal"
    assert again.digest == hashlib.sha256((again.path / MANIFEST).read_bytes()).hexdigest()


def test_versions_count_up_and_the_newest_is_opened(empty):
    for number in range(1, 12):
        assert empty.write("m", fill).manifest.version == number
    assert empty.versions("m") == list(range(1, 12))
    assert empty.open("m").manifest.version == 11
    assert empty.open("m", 2).manifest.version == 2


def test_nothing_is_visible_while_a_bundle_is_made_or_when_that_fails(empty):
    seen = []

    def failing(folder: Path) -> dict:
        fill(folder)
        seen.append((visible(empty), empty.names()))
        raise RuntimeError("no space left")

    with pytest.raises(RuntimeError, match="no space left"):
        empty.write("m", failing)
    assert seen == [([], [])]
    assert visible(empty) == []
    assert list(empty.root.iterdir()) == [], "nothing is left behind"
    assert empty.write("m", fill).manifest.version == 1


def test_a_bundle_whose_fields_are_wrong_leaves_nothing(empty):
    with pytest.raises(ValueError, match="family"):
        empty.write("m", lambda folder: fill(folder) | {"family": "markov"})
    assert visible(empty) == []
    assert not list(empty.root.glob(".incoming-*"))


# A writer in a process of its own: says "half" when half is written, then waits for a line before it goes on.
WRITER = """
import sys
from pathlib import Path
from contracts.store import Store
def fill(folder):
    (folder / "weights.safetensors").write_bytes(sys.argv[2].encode())
    print("half", flush=True)
    sys.stdin.readline()
    (folder / "tokenizer.json").write_text('{"characters": "ab", "unknown": "skip"}')
    return FIELDS
for _ in range(int(sys.argv[3])):
    print(Store(Path(sys.argv[1])).write("m", fill).manifest.version, flush=True)
""".replace("FIELDS", repr(FIELDS))


def start_writer(store: Store, weights: str, count: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(store.root), weights, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_nothing_that_can_be_seen(empty):
    with start_writer(empty, "w") as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        assert visible(empty) == []
        writer.send_signal(signal.SIGKILL)
    assert list(empty.root.glob(".incoming-*/weights.safetensors")), "it was killed midway"
    assert visible(empty) == []
    assert empty.write("m", fill).manifest.version == 1


def test_writers_of_the_same_model_get_different_versions(empty):
    count = 10
    with start_writer(empty, "first", count) as first, start_writer(empty, "second", count) as second:
        writers = {"first": first, "second": second}
        for writer in writers.values():
            assert writer.stdout is not None
            assert writer.stdout.readline() == "half\n"
        for writer in writers.values():
            assert writer.stdin is not None
            writer.stdin.write("\n" * count)
            writer.stdin.flush()
        versions = {
            name: [int(line) for line in writer.stdout or () if line != "half\n"] for name, writer in writers.items()
        }
    assert sorted(versions["first"] + versions["second"]) == list(range(1, 2 * count + 1))
    for name, numbers in versions.items():
        for number in numbers:
            assert (empty.open("m", number).path / "weights.safetensors").read_text() == name


# Damage


def change(bundle: Bundle, **fields) -> None:
    path = bundle.path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def entry(content: bytes = b"") -> dict:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def files_and(bundle: Bundle, **more) -> dict:
    return json.loads((bundle.path / MANIFEST).read_text())["files"] | more


def test_a_flipped_byte_is_found(empty, written):
    path = written.path / "weights.safetensors"
    path.write_bytes(b"weighTs")
    with pytest.raises(StoreError, match=r"weights\.safetensors was changed"):
        empty.open("m")


def test_a_file_is_only_read_where_it_is_asked_for(empty, written):
    (written.path / "weights.safetensors").write_bytes(b"weighTs")
    assert empty.open("m", only=("tokenizer.json",)).manifest == written.manifest


def test_all_faults_are_named_at_once(empty, written):
    (written.path / "weights.safetensors").write_bytes(b"short")
    (written.path / "tokenizer.json").unlink()
    variant = {"format": "pytorch", "precision": "fp32", "files": ["b.bin", "a.bin"]}
    change(written, variants=[variant], version=7)
    with pytest.raises(StoreError) as caught:
        empty.open("m")
    assert str(caught.value).split(": ", 1)[1].split("; ") == [
        "tokenizer.json cannot be read (No such file or directory)",
        "weights.safetensors has 5 bytes instead of 7",
        "a.bin is needed but not listed",
        "b.bin is needed but not listed",
        "its manifest is that of m@7",
    ]


def test_a_listed_name_that_is_a_folder_is_refused(empty, written):
    (written.path / "weights.safetensors").unlink()
    (written.path / "weights.safetensors").mkdir()
    with pytest.raises(StoreError, match=r"weights\.safetensors"):
        empty.open("m")


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/b", "", ".", "..", "manifest.json", "a/", "a\0b"])
def test_a_manifest_cannot_lead_out_of_its_folder(empty, written, name):
    (empty.root / "secret").write_bytes(b"")
    change(written, files=files_and(written, **{name: entry()}))
    with pytest.raises(StoreError, match="is not a plain file name"):
        empty.open("m")


def test_a_bundle_in_somebody_elses_place_is_refused(empty, written):
    shutil.copytree(written.path, empty.root / "other" / "1")
    with pytest.raises(StoreError, match="its manifest is that of m@1"):
        empty.open("other")
    shutil.copytree(written.path, empty.root / "m" / "2")
    with pytest.raises(StoreError, match="its manifest is that of m@1"):
        empty.open("m", 2)
    assert empty.open("m", 1).manifest == written.manifest


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "EOF"),
        (b"not json", "expected"),
        (b"\xff\xfe", "expected"),
        (b"[]", "'body' is []"),
        (b"{}", "'name' is missing; 'version' is missing; 'family' is missing"),
        (b"[" * 10_000, "recursion limit"),
    ],
)
def test_a_manifest_that_is_none_is_refused(empty, written, content, named):
    (written.path / MANIFEST).write_bytes(content)
    with pytest.raises(StoreError) as caught:
        empty.open("m")
    assert f"{MANIFEST} is not a manifest" in str(caught.value)
    assert named in str(caught.value)


def test_wrong_types_are_all_named(empty, written):
    change(written, version="one", family="markov", files=[], limits={"context_tokens": 1}, colour="red")
    with pytest.raises(StoreError) as caught:
        empty.open("m")
    for field in ("'version'", "'family'", "'files'", "'limits.context_tokens'", "'colour'"):
        assert field in str(caught.value)


def test_a_missing_manifest_is_refused(empty, written):
    (written.path / MANIFEST).unlink()
    with pytest.raises(StoreError, match=r"is not a bundle: its manifest\.json cannot be read \(No such file"):
        empty.open("m")


def test_a_bundle_without_variants_or_tokenizer_says_so(empty, written):
    change(written, variants=[], tokenizer=None)
    with pytest.raises(StoreError, match="no variant is listed"):
        empty.open("m")
    picture = empty.write("p", lambda folder: fill(folder) | {"tokenizer": None, "task": "image", "family": "dcgan"})
    with pytest.raises(StoreError, match="has no tokenizer: its task is image"):
        picture.tokenizer()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
GOOD = FIELDS | {"name": "m", "version": 1, "files": {"weights.safetensors": entry(b"w"), "tokenizer.json": entry()}}
ENTRIES = st.dictionaries(st.text(), st.just(entry()) | JSON, max_size=3)
NEARLY = st.fixed_dictionaries(
    {field: st.just(value) | JSON for field, value in GOOD.items()} | {"files": st.just(GOOD["files"]) | ENTRIES}
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary() | (JSON | NEARLY).map(lambda value: json.dumps(value).encode()))
@example(json.dumps(GOOD | {"files": {"x" * 300: entry()}}).encode())
@example(json.dumps(GOOD | {"files": {"\ud800": entry()}}).encode())
@example(json.dumps(GOOD | {"version": 10**40}).encode())
def test_whatever_a_manifest_holds_only_a_store_error_comes_of_it(tmp_path, content):
    path = tmp_path / "m" / "1"
    path.mkdir(parents=True, exist_ok=True)
    (path / MANIFEST).write_bytes(content)
    with pytest.raises(StoreError):  # a good one too: its files are not there
        Bundle.open(path)


def test_the_good_manifest_of_that_test_is_good():
    assert Manifest.model_validate_json(json.dumps(GOOD)).version == 1


# Names and folders


@pytest.mark.parametrize("name", ["a", "7b", "gpt2", "plot-v1.2_x", "a" * 64])
def test_good_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "A", "A B", "a b", "ä", "-a", ".a", "a:b", "a@1", "a" * 65, "a\n", "a\0"]
)
def test_bad_names_are_refused_before_anything_is_touched(empty, name):
    for attempt in (lambda: empty.write(name, fill), lambda: empty.open(name), lambda: empty.versions(name)):
        with pytest.raises(StoreError, match="cannot name a model: use 1 to 64 of"):
            attempt()
    assert not empty.root.exists()


def test_what_is_no_bundle_is_not_listed(empty, written):
    for folder in ("m/01", "m/0", "m/٣", "m/-1", "m/1.5", "m/draft", "Upper/1", ".redis/1", "hollow"):
        (empty.root / folder).mkdir(parents=True)
    (empty.root / "m" / "5").write_text("a file")
    (empty.root / "notes").write_text("a file")
    assert visible(empty) == ["m@1"]
    assert empty.open("m").manifest == written.manifest


@pytest.mark.parametrize(
    ("name", "version", "has"), [("n", None, "it has m$"), ("m", 2, "m@2; it has versions 1 of it$"), ("m", 0, "m@0")]
)
def test_a_missing_model_or_version_is_refused_with_what_there_is(empty, written, name, version, has):
    with pytest.raises(StoreError, match=has):
        empty.open(name, version)


def test_a_store_that_is_not_there_is_empty(empty):
    assert empty.names() == []
    with pytest.raises(StoreError, match="it has none"):
        empty.open("m")


# Versions


def test_the_last_version_that_was_written_is_the_latest(empty):
    assert empty.latest("m") is None
    empty.write("m", fill)
    empty.write("m", fill)
    assert empty.latest("m") == 2
    assert empty.open("m").manifest.version == 2


def test_after_a_roll_back_the_version_before_is_the_latest_until_another_is_written(empty):
    for _ in range(3):
        empty.write("m", fill)
    assert empty.roll_back("m") == (2, None)
    assert empty.open("m").manifest.version == 2
    assert empty.roll_back("m") == (1, None)
    with pytest.raises(StoreError, match="m@1 is the first version that is left"):
        empty.roll_back("m")
    assert empty.roll_back("m", 3) == (3, None)
    assert empty.roll_back("m", 1) == (1, None)
    assert empty.write("m", fill).manifest.version == 4
    assert empty.latest("m") == 4
    assert empty.roll_back("m") == (1, None), "what version 4 has replaced"


def test_a_candidate_is_not_the_latest_until_it_is_promoted_and_a_roll_back_undoes_that(empty):
    candidates = Store(empty.root, candidates=True)
    assert candidates.write("m", fill).manifest.version == 1
    assert empty.chosen("m") == (1, None), "the first version has nothing to wait for"
    assert candidates.write("m", fill).manifest.version == 2
    assert empty.chosen("m") == (1, None)
    empty.promote("m", 2, "pytorch:fp32")
    assert empty.chosen("m") == (2, "pytorch:fp32")
    assert empty.roll_back("m") == (1, None)
    with pytest.raises(StoreError, match="m@1 is the first version that is left"):
        empty.roll_back("m")
    empty.promote("m", 1, "pytorch:fp32")
    assert empty.roll_back("m") == (1, None), "the variant that workers choose"
    for version, variant in ((9, None), (2, "onnx:int8")):
        with pytest.raises(StoreError, match=r"has no (model m@9|variant 'onnx:int8')"):
            empty.promote("m", version, variant)


def test_an_older_version_can_be_promoted_and_that_undone(empty):
    for _ in range(3):
        empty.write("m", fill)
    empty.promote("m", 1, "pytorch:fp32")
    assert empty.roll_back("m") == (3, None)
    (empty.root / "m" / "latest").write_text("2\n3\n")  # as a roll back from 3 once left it
    assert empty.roll_back("m") == (1, None)


@pytest.mark.parametrize("pointer", ["", "7\n", "seven", "-1", "7\n2\n", "1_0", "\xff"])
def test_a_pointer_to_nothing_points_to_the_version_behind_it_or_the_newest(empty, pointer):
    for _ in range(2):
        empty.write("m", fill)
    (empty.root / "m" / "latest").write_text(pointer, encoding="latin-1")
    assert empty.latest("m") == 2


def test_a_writer_that_is_killed_before_its_version_is_in_place_leaves_the_one_that_was_rolled_back_to(empty):
    for _ in range(2):
        empty.write("m", fill)
    empty.roll_back("m")
    (empty.root / "m" / "latest").write_text("3\n1\n")
    assert empty.latest("m") == 1


def test_a_removed_version_is_gone_and_its_number_never_used_again(empty):
    for _ in range(3):
        empty.write("m", fill)
    empty.roll_back("m", 1)
    empty.remove("m", 3)
    assert visible(empty) == ["m@1", "m@2"]
    assert empty.write("m", fill).manifest.version == 4
    empty.remove("m", 1)
    empty.remove("m", 2)
    empty.remove("m", 4)
    assert empty.names() == []
    assert empty.write("m", fill).manifest.version == 5
    with pytest.raises(StoreError, match=r"no model m@4; it has versions 5 of it"):
        empty.remove("m", 4)


def test_the_latest_is_not_removed_while_there_are_others(empty):
    empty.write("m", fill)
    empty.write("m", fill)
    with pytest.raises(StoreError, match=r"m@2 is the latest, .*: kamishibai models rollback m --to 1$"):
        empty.remove("m", 2)
    assert visible(empty) == ["m@1", "m@2"]


@pytest.mark.parametrize("text", ["m@", "m@0", "m@x", "m@1@2", "@1", "M", "m@-1", "../m@1"])
def test_what_names_no_version_is_refused(text):
    with pytest.raises(StoreError):
        split_name(text)
    assert split_name("m@12") == ("m", 12)
    assert split_name("m") == ("m", None)


def test_what_a_killed_writer_left_is_swept_by_the_next_but_not_what_is_being_written(empty):
    empty.write("m", fill)
    abandoned = empty.root / ".incoming-abandoned"
    abandoned.mkdir()
    (abandoned / "weights.safetensors").write_bytes(b"half")
    fresh = empty.root / ".incoming-fresh"
    fresh.mkdir()
    os.utime(abandoned, (0, 0))

    def slow_fill(folder):
        os.utime(folder, (0, 0))
        empty.write("other", fill)
        return fill(folder)

    empty.write("m", slow_fill)
    assert visible(empty) == ["m@1", "m@2", "other@1"]
    assert not abandoned.exists()
    assert fresh.exists()

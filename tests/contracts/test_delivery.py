"""Bundles from another store: whole, as they were written, or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contracts import delivery
from contracts.bundle import MANIFEST, WEIGHTS, Bundle
from contracts.delivery import Offer, fetch
from contracts.errors import NotReady, StoreError
from contracts.store import Store
from tests.sources import PIECE, StoreSource

FIELDS = {
    "family": "lstm",
    "task": "text",
    "config": {},
    "limits": {"max_tokens": 16},
    "variants": [{"format": "pytorch", "precision": "fp32", "files": [WEIGHTS]}],
    "example": {"prompt": "a"},
}
SIZE = 100_000


def fill(folder: Path, seed: bytes = b"", **files: bytes) -> dict:
    (folder / WEIGHTS).write_bytes(hashlib.shake_256(b"weights" + seed).digest(SIZE))
    (folder / "empty.gif").write_bytes(b"")
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return FIELDS


@pytest.fixture
def there(tmp_path) -> Store:
    return Store(tmp_path / "there")


@pytest.fixture
def written(there) -> Bundle:
    return there.write("m", fill)


@pytest.fixture
def offer(there, written) -> Offer:
    return StoreSource(there).offers()[0]


@pytest.fixture
def here(tmp_path) -> Store:
    return Store(tmp_path / "here")


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(delivery, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 5.0)


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_bundle_comes_as_it_is_there_and_once(there, written, offer, here):
    source = StoreSource(there)
    bundle = fetch(source, offer, here)
    assert contents(bundle.path) == contents(written.path)
    assert here.open("m", 1).digest == offer.digest
    fetch(source, offer, here)
    assert source.asked == [(WEIGHTS, 0)]
    assert [path.name for path in here.root.iterdir()] == ["m"]


def test_what_breaks_off_goes_on_where_it_was(there, written, offer, here):
    source = StoreSource(there, breaks_after=3 * PIECE)
    came: list[int] = []
    bundle = fetch(source, offer, here, on_bytes=came.append)
    assert contents(bundle.path) == contents(written.path)
    assert source.asked == [(WEIGHTS, start) for start in range(0, SIZE, 3 * PIECE)]
    assert sum(came) == SIZE


def test_a_source_that_stays_away_is_given_up_and_what_came_is_there_for_the_next_one(
    there, written, offer, here, monkeypatch
):
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(NotReady, match="reset"):
        fetch(StoreSource(there, breaks_after=2 * PIECE), offer, here)
    assert here.names() == []
    source = StoreSource(there)
    fetch(source, offer, here)
    assert source.asked == [(WEIGHTS, 2 * PIECE)]


def test_a_part_that_has_suffered_is_fetched_anew(there, written, offer, here, monkeypatch):
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(NotReady):
        fetch(StoreSource(there, breaks_after=2 * PIECE), offer, here)
    (part,) = here.root.glob(f".pulling-*/{WEIGHTS}")
    part.write_bytes(bytes(2 * PIECE))
    source = StoreSource(there)
    assert contents(fetch(source, offer, here).path) == contents(written.path)
    assert source.asked == [(WEIGHTS, 2 * PIECE), (WEIGHTS, 0)]


@pytest.mark.parametrize("change", ["flipped", "longer"])
def test_a_changed_file_is_refused_with_its_name_and_both_hashes(there, written, offer, here, change):
    weights = bytearray((written.path / WEIGHTS).read_bytes())
    weights[SIZE // 2] ^= change == "flipped"
    changed = bytes(weights) + b"!" * (change == "longer")
    (written.path / WEIGHTS).write_bytes(changed)
    source = StoreSource(there)
    expected = written.manifest.files[WEIGHTS].sha256
    with pytest.raises(StoreError) as found:
        fetch(source, offer, here)
    for told in (WEIGHTS, "m@1", f"instead of {expected}", hashlib.sha256(changed).hexdigest()):
        assert told in str(found.value)
    assert here.names() == []
    assert list(here.root.glob(f".pulling-*/{WEIGHTS}")) == []


def test_several_who_want_the_same_bundle_take_one_download(there, written, offer, here):
    source = StoreSource(there)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fetch(source, offer, Store(here.root)), range(8)))
    assert source.asked == [(WEIGHTS, 0)]
    assert {bundle.path for bundle in found} == {here.root / "m" / "1"}
    assert [path.name for path in here.root.iterdir()] == ["m"]


def test_a_version_that_is_another_bundle_is_kept(there, written, offer, here):
    mine = here.write("m", lambda folder: fill(folder, b"mine"))
    before = contents(mine.path)
    with pytest.raises(StoreError, match=f"not {written.digest}.*never overwritten"):
        fetch(StoreSource(there), offer, here)
    assert contents(mine.path) == before


def test_programs_come_over_a_sound_connection_or_by_their_digest(there, here):
    there.write("m", lambda folder: fill(folder, fp32_torchscript=b"code"))
    source, exposed = StoreSource(there), StoreSource(there, secure=False)
    (offer,) = source.offers()
    with pytest.raises(StoreError, match="holds programs"):
        fetch(exposed, offer, here)
    assert (here.names(), exposed.asked) == ([], [])
    fetch(exposed, offer, here, pinned=True)
    shutil.rmtree(here.root)
    fetch(source, offer, here)
    assert here.names() == ["m"]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("files", {"../../escaped": {"sha256": "0" * 64, "bytes": 1}}, "plain file name"),
        ("name", "other", "that of other@1"),
        ("version", 2, "that of m@2"),
    ],
)
def test_a_manifest_that_is_not_what_was_offered_is_refused(there, written, offer, here, field, value, told):
    source = StoreSource(there)
    manifest = json.loads((written.path / MANIFEST).read_bytes())
    (written.path / MANIFEST).write_text(json.dumps(manifest | {field: value}))
    with pytest.raises(StoreError, match="SHA-256"):  # of which the digest of before still speaks
        fetch(source, offer, here)
    offer = offer.model_copy(update={"digest": hashlib.sha256((written.path / MANIFEST).read_bytes()).hexdigest()})
    with pytest.raises(StoreError, match=told):
        fetch(source, offer, here)
    assert here.names() == []
    assert not list(here.root.parent.rglob("escaped"))


@pytest.mark.parametrize("name", ["../x", "", "A", "a/b", ".x"])
def test_an_offer_cannot_name_a_folder_elsewhere(name):
    with pytest.raises(ValueError, match="cannot name a model"):
        Offer(model=name, version=1, digest="0" * 64, bytes=1, latest=True)

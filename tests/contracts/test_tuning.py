"""The record of what is fastest where: read back, kept per version and kind of device, refused when damaged."""

from __future__ import annotations

import pytest

from contracts.errors import StoreError
from contracts.store import Store
from contracts.tuning import TUNED, Choice, read_choice, write_choice
from tests.contracts.test_store import fill

FAST = Choice(variant="onnx:fp32", rates={"onnx:fp32": 200.0, "pytorch:fp32": 100.0}, measured_at=1)
PLAIN = Choice(variant="pytorch:fp32", rates={"pytorch:fp32": 100.0}, measured_at=2)


@pytest.fixture
def store(tmp_path) -> Store:
    made = Store(tmp_path)
    made.write("m", fill)
    made.write("m", fill)
    return made


def test_a_choice_is_for_one_version_on_one_kind_of_device(store):
    assert read_choice(store, "m", 1, "a") is None
    write_choice(store, "m", 1, "a", FAST)
    write_choice(store, "m", 1, "b", PLAIN)
    write_choice(store, "m", 2, "a", PLAIN)
    assert [read_choice(store, "m", *place) for place in ((1, "a"), (1, "b"), (2, "a"))] == [FAST, PLAIN, PLAIN]
    assert read_choice(store, "m", 2, "b") is None
    write_choice(store, "m", 1, "a", PLAIN)
    assert read_choice(store, "m", 1, "a") == PLAIN


def test_choices_of_removed_versions_are_dropped(store):
    write_choice(store, "m", 1, "a", FAST)
    store.remove("m", 1)
    write_choice(store, "m", 2, "a", PLAIN)
    assert "onnx" not in (store.root / "m" / TUNED).read_text()


def test_the_gain_is_over_the_default():
    assert FAST.gain == 2.0
    assert PLAIN.gain == 1.0
    assert Choice(variant="x", rates={"x": 1.0}, measured_at=0).gain is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"1": {"a": {"variant": "x"}}}', '{"1": {"a": 7}}', "\xff"])
def test_a_damaged_file_is_refused_with_the_remedy(store, content):
    (store.root / "m" / TUNED).write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match=r"is damaged .* remove it and run `kamishibai tune m`"):
        read_choice(store, "m", 1, "a")


def test_it_is_no_version(store):
    write_choice(store, "m", 1, "a", FAST)
    assert store.versions("m") == [1, 2]
    assert store.names() == ["m"]

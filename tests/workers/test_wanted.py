"""What a worker is to serve: the latest of each model, what can be loaded, and what accepted jobs still need."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from functools import partial

import pytest

from contracts import controls
from contracts.announcements import Announcement, ServedModel, announce
from contracts.bundle import MANIFEST
from contracts.errors import StoreError
from contracts.orders import Order
from contracts.requests import Target, TextRequest
from contracts.shadows import Shadow, Shadows
from contracts.store import Store
from contracts.tuning import TUNED, Choice, write_choice
from workers import wanted
from workers.wanted import WantedModels


@pytest.fixture
def versions(store: Store, tmp_path) -> Store:
    """A store of its own with `lstm` in versions 1 to 3, and `faces`."""
    made = Store(tmp_path / "versions")
    shutil.copytree(store.root / "faces", made.root / "faces")
    fields = store.open("lstm").manifest.model_dump(exclude={"name", "version", "files"})
    for _ in range(3):
        made.write("lstm", partial(copy, store.open("lstm"), fields))
    return made


def copy(bundle, fields, folder):
    for file in bundle.manifest.files:
        shutil.copy(bundle.path / file, folder)
    return fields


def lstm(version: int) -> Target:
    return Target(model="lstm", version=version, variant="pytorch:fp32")


ONNX = '{"format": "onnx", "precision": "fp32", "files": ["weights.safetensors"]},'
FACES = Target(model="faces", version=1, variant="pytorch:fp32")


@pytest.fixture
def models(versions, connection):
    def make(names=None, variant=None, store=versions):
        return WantedModels(store, names, variant, "Some CPU, 2 threads", connection, "me")

    return make


def test_the_latest_of_each_model_is_wanted(models, versions):
    assert set(models().first()) == set(models().now().models) == {FACES, lstm(3)}
    versions.roll_back("lstm")
    assert set(models().now().models) == {FACES, lstm(2)}


def test_a_variant_that_was_promoted_is_wanted_before_the_one_that_was_measured(models, versions):
    folder = versions.root / "lstm" / "3"
    manifest = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(manifest.replace('"variants": [', '"variants": [' + ONNX, 1))
    write_choice(versions, "lstm", 3, "Some CPU, 2 threads", Choice(variant="pytorch:fp32", rates={}, measured_at=1))
    assert lstm(3) in models().first()
    versions.promote("lstm", 3, "onnx:fp32")
    promoted = lstm(3).model_copy(update={"variant": "onnx:fp32"})
    found = models()
    assert set(found.first()) == {FACES, promoted}
    found.refuse(frozenset({promoted}))
    assert set(found.now().models) == {FACES, lstm(3)}, "it cannot be loaded here"
    assert set(models(variant="pytorch:fp32").first()) == {FACES, lstm(3)}, "it was asked for"


def test_copies_of_live_jobs_are_no_reason_to_load_a_candidate(models, versions, connection, jobs):
    copy = TextRequest(target=lstm(2), seed=1, prompt_tokens=(1,))
    order = Order(request=copy, priority="low", result_seconds=60, timeout_seconds=60)
    jobs.submit(order)
    Shadows(connection).begin(Shadow(live=lstm(3), candidate=lstm(2), share=0.5))
    assert set(models("lstm").now().models) == {lstm(3)}
    jobs.submit(replace(order, job_id="a-clients", priority="normal"))
    assert set(models("lstm").now().models) == {lstm(2), lstm(3)}


def test_only_what_was_asked_for_is_wanted(models):
    assert list(models(" lstm, faces").first()) == [lstm(3), FACES]
    assert list(models("lstm@1,lstm@2").now().models) == [lstm(1), lstm(2)]


def test_a_worker_that_would_have_nothing_to_serve_says_why(models, tmp_path):
    with pytest.raises(StoreError, match="kamishibai demo"):
        models(store=Store(tmp_path / "nothing")).first()
    with pytest.raises(StoreError, match="no model has the variant 'onnx:int4'; there is pytorch:fp32"):
        models(variant="onnx:int4").first()
    with pytest.raises(StoreError, match="has no model lstm@7; it has versions 1, 2, 3 of it"):
        models("lstm@7").first()


def test_the_version_before_one_that_could_not_be_loaded_is_wanted(models):
    found = models()
    found.refuse(frozenset({lstm(3)}))
    assert set(found.now().models) == {FACES, lstm(2)}
    found.refuse(frozenset({lstm(2), lstm(1)}))
    assert set(found.now().models) == {FACES}


def test_what_could_not_be_loaded_is_tried_again_later(models, monkeypatch):
    found = models()
    monkeypatch.setattr(wanted, "REFUSED_SECONDS", 0.05)
    found.refuse(frozenset({lstm(3)}))
    assert set(found.now().models) == {FACES, lstm(2)}
    time.sleep(0.06)
    assert set(found.now().models) == {FACES, lstm(3)}


def test_the_version_before_a_damaged_one_is_wanted_and_its_fault_told_once(models, versions, caplog):
    caplog.set_level("INFO")
    (versions.root / "lstm" / "3" / "manifest.json").write_text("{")
    found = models()
    assert set(found.now().models) == set(found.now().models) == {FACES, lstm(2)}
    assert caplog.text.count("lstm@3 is not served") == 1


def test_a_new_version_is_wanted_as_soon_as_it_is_in_the_store(models, versions, store):
    found = models("lstm")
    assert list(found.now().models) == [lstm(3)]
    fields = store.open("lstm").manifest.model_dump(exclude={"name", "version", "files"})
    versions.write("lstm", partial(copy, store.open("lstm"), fields))
    assert list(found.now().models) == [lstm(4)]


def test_an_old_version_is_wanted_while_it_has_jobs_that_nobody_else_runs(
    models, versions, jobs, request_of, connection, monkeypatch
):
    accepted = request_of(0).model_copy(update={"target": lstm(1)})
    job_id = jobs.submit(Order(request=accepted, result_seconds=60, timeout_seconds=60))
    found = models()
    assert set(found.now().models) == {FACES, lstm(3), lstm(1)}
    assert set(models("faces").now().models) == {FACES}, "it was not asked to serve lstm"
    served = ServedModel(target=lstm(1), task="text", digest="x")
    announce(connection, Announcement(worker="other", device="cpu", ready=True, models=(served,)))
    assert set(models().now().models) == {FACES, lstm(3)}
    announce(connection, Announcement(worker="other", device="cpu", ready=True, models=()))
    announce(connection, Announcement(worker="me", device="cpu", ready=True, models=(served,)))
    assert set(models().now().models) == {FACES, lstm(3), lstm(1)}
    jobs.cancel(job_id)
    assert set(found.now().models) == {FACES, lstm(3), lstm(1)}, "for a while"
    monkeypatch.setattr(wanted, "ORPHAN_SECONDS", 0.0)
    assert set(found.now().models) == {FACES, lstm(3)}


def test_jobs_for_what_the_store_does_not_hold_are_left_to_others(models, jobs, request_of, versions):
    for target in (lstm(9), lstm(1).model_copy(update={"variant": "onnx:int8"})):
        accepted = request_of(0).model_copy(update={"target": target})
        jobs.submit(Order(request=accepted, result_seconds=60, timeout_seconds=60))
    assert set(models().now().models) == {FACES, lstm(3)}


def test_a_model_runs_as_what_was_measured_to_be_fastest_on_such_a_device(models, versions, store, caplog):
    caplog.set_level("INFO")
    onnx = {"format": "onnx", "precision": "fp32", "files": ["weights.safetensors"]}
    fields = store.open("lstm").manifest.model_dump(exclude={"name", "version", "files"})
    fields["variants"] = [*fields["variants"], onnx]
    versions.write("lstm", partial(copy, store.open("lstm"), fields))
    plain, fast = lstm(4), Target(model="lstm", version=4, variant="onnx:fp32")
    found = models("lstm")
    assert list(found.now().models) == [plain]
    assert "lstm@4 runs as pytorch:fp32: the default; `kamishibai tune lstm` finds out" in caplog.text
    choice = Choice(variant="onnx:fp32", rates={"onnx:fp32": 3.0, "pytorch:fp32": 2.0}, measured_at=0)
    write_choice(versions, "lstm", 4, "Another CPU", choice)
    assert list(found.now().models) == [plain]
    write_choice(versions, "lstm", 4, "Some CPU, 2 threads", choice)
    assert list(found.now().models) == [fast]
    said = "lstm@4 runs as onnx:fp32: the fastest that was measured on Some CPU, 2 threads, 1.5 times as fast as"
    assert caplog.text.count(said) == 1
    assert list(models("lstm", variant="pytorch:fp32").now().models) == [plain]
    without = models("lstm")
    without.refuse(frozenset({fast}))
    assert list(without.now().models) == [plain], "this version in another variant, not another version"
    write_choice(versions, "lstm", 4, "Some CPU, 2 threads", choice.model_copy(update={"variant": "gone:fp32"}))
    assert list(found.now().models) == [plain]
    (versions.root / "lstm" / TUNED).write_text("{")
    assert list(found.now().models) == [plain]
    assert "the default, since" in caplog.text


def test_a_variant_that_was_forced_into_its_bundle_is_served_with_one_warning(models, versions, store, caplog):
    caplog.set_level("INFO")
    parity = {"max_difference": 0.5, "mean_difference": 0.1, "batch_invariant": True, "trained": True}
    rounded = {"format": "pytorch", "files": ["weights.safetensors"]}
    fields = store.open("lstm").manifest.model_dump(exclude={"name", "version", "files"})
    fields["variants"] = [
        *fields["variants"],
        {**rounded, "precision": "bf16", "parity": {**parity, "faults": ["it is far off", "and not alike"]}},
        {**rounded, "precision": "fp16", "parity": parity},
    ]
    versions.write("lstm", partial(copy, store.open("lstm"), fields))
    for variant in ("pytorch:bf16", "pytorch:fp16"):
        found = models("lstm", variant=variant)
        for _ in range(2):
            assert [target.variant for target in found.now().models] == [variant]
    said = "lstm@4 runs as pytorch:bf16: it was asked for, though it misses its bounds: it is far off; and not alike"
    assert [line.getMessage() for line in caplog.records if line.levelname == "WARNING"] == [said]


def test_an_unloaded_model_is_not_wanted_but_for_what_was_accepted_of_it(models, connection, jobs):
    found = models()
    accepted = TextRequest(target=lstm(3), seed=1, prompt_tokens=(1,))
    controls.unload(connection, "lstm")
    assert set(found.now().models) == {FACES}
    job_id = jobs.submit(Order(request=accepted, result_seconds=60, timeout_seconds=60))
    assert set(found.now().models) == {FACES, lstm(3)}
    jobs.cancel(job_id)
    controls.unload(connection, "faces")
    assert set(models().now().models) == set()
    controls.load(connection, "lstm")
    assert set(models().now().models) == {lstm(3)}


def test_a_model_that_is_to_be_read_anew_is_tried_again_and_counts_once(models, connection):
    controls.reload(connection, "lstm")
    found = models()
    assert found.now().reloads == 0, "it was before this worker"
    found.refuse(frozenset({lstm(3)}))
    assert set(found.now().models) == {FACES, lstm(2)}
    controls.reload(connection, "lstm")
    controls.reload(connection, "of somebody else")
    assert (set(found.now().models), found.now().reloads) == ({FACES, lstm(3)}, 1)


def test_a_drained_worker_knows_it(models, connection):
    found = models()
    controls.drain(connection, "another")
    assert not found.now().drained
    controls.drain(connection, "me")
    assert found.now().drained
    controls.resume(connection, "me")
    assert not found.now().drained


def test_a_store_that_shows_nothing_at_all_changes_nothing(models, versions, tmp_path):
    found = models()
    before = set(found.now().models)
    versions.root.rename(tmp_path / "away")
    versions.root.mkdir()
    assert set(found.now().models) == before

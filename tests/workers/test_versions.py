"""Versions come and go under a real worker with real work: nothing running is lost, nothing is served wrong."""

from __future__ import annotations

import shutil
import signal
import time
from functools import partial
from typing import Any

import psutil
import pytest

from contracts import controls
from contracts.announcements import read_announcements
from contracts.bundle import WEIGHTS
from contracts.orders import Order
from contracts.requests import TextRequest
from contracts.store import Store
from workers.local import LocalModel
from workers.wanted import ORPHAN_SECONDS

LIFETIMES: dict[str, Any] = {"result_seconds": 300, "timeout_seconds": 100}


@pytest.fixture
def versions(store: Store, tmp_path) -> Store:
    """A store of its own with one version of `lstm`."""
    made = Store(tmp_path / "versions")
    add_version(made, store)
    return made


def add_version(versions: Store, store: Store, weights: bytes | None = None):
    """Other versions have other bytes, and so another fingerprint, but the same weights unless some are given."""
    bundle = store.open("lstm")

    def fill(folder):
        for file in bundle.manifest.files:
            shutil.copy(bundle.path / file, folder)
        if weights is not None:
            (folder / WEIGHTS).write_bytes(weights)
        return bundle.manifest.model_dump(exclude={"name", "version", "files"})

    return versions.write("lstm", fill)


@pytest.fixture
def start(start_worker, versions):
    return partial(start_worker, "worker", "--store", str(versions.root), "--models", "lstm")


def request(bundle, seed, **changes):
    tokens = tuple(bundle.tokenizer().encode("once upon a time"))
    fields = {"max_tokens": 100, "temperature": 1.0} | changes
    return TextRequest(target=bundle.target(), seed=seed, prompt_tokens=tokens, **fields)


def wait_for(condition, fault, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, fault
        time.sleep(0.05)


def served_versions(connection):
    return [served.target.version for each in read_announcements(connection) for served in each.models]


def wait_for_version(connection, version):
    wait_for(lambda: served_versions(connection) == [version], f"version {version} is not served")


def assert_made_by(record, bundle):
    assert record.status == "succeeded", record.error
    assert record.result == LocalModel(bundle).run(record.request)


def test_a_new_version_takes_over_without_a_restart_and_the_old_one_ends_what_it_has(
    start, versions, store, jobs, connection, wait_ended
):
    worker = start()
    first = versions.open("lstm")
    old = [jobs.submit(Order(request=request(first, seed, max_tokens=2000), **LIFETIMES)) for seed in range(6)]
    (child,) = psutil.Process(worker.pid).children()
    second = add_version(versions, store)
    wait_for_version(connection, 2)
    late = [jobs.submit(Order(request=request(first, seed), **LIFETIMES)) for seed in (10, 11)]
    new = [jobs.submit(Order(request=request(second, seed), **LIFETIMES)) for seed in (20, 21)]
    for bundle, job_ids in ((first, old + late), (second, new)):
        for job_id in job_ids:
            assert_made_by(wait_ended(job_id), bundle)
    assert worker.poll() is None
    child.wait(30)
    assert len(psutil.Process(worker.pid).children()) == 1


def test_a_broken_version_is_refused_and_the_old_one_stays(start, versions, store, jobs, connection, wait_ended, capfd):
    start()
    first = versions.open("lstm")
    add_version(versions, store, weights=b"no weights")
    seen = ""
    deadline = time.monotonic() + 60
    while "lstm@2/pytorch-fp32 is given up; what was served before stays" not in seen:
        assert time.monotonic() < deadline, seen
        seen += capfd.readouterr().err
        time.sleep(0.2)
    wait_for_version(connection, 1)
    assert_made_by(wait_ended(jobs.submit(Order(request=request(first, 1), **LIFETIMES))), first)
    third = add_version(versions, store)
    wait_for_version(connection, 3)
    assert_made_by(wait_ended(jobs.submit(Order(request=request(third, 1), **LIFETIMES))), third)


def test_a_version_that_is_rolled_back_gives_way_to_the_one_before(
    start, versions, store, jobs, connection, wait_ended
):
    second = add_version(versions, store)
    start()
    wait_for_version(connection, 2)
    accepted = jobs.submit(Order(request=request(second, 1, max_tokens=1000), **LIFETIMES))
    versions.roll_back("lstm")
    wait_for_version(connection, 1)
    assert_made_by(wait_ended(accepted), second)


def test_jobs_of_an_old_version_that_were_queued_while_no_worker_ran_are_run_by_it(
    start, versions, store, jobs, wait_ended
):
    first = versions.open("lstm")
    accepted = jobs.submit(Order(request=request(first, 1), **LIFETIMES))
    add_version(versions, store)
    start()
    assert_made_by(wait_ended(accepted), first)


def test_a_child_killed_while_it_loads_a_new_version_costs_nothing(
    start, versions, store, jobs, connection, wait_ended
):
    worker = start()
    first = versions.open("lstm")
    (serving,) = psutil.Process(worker.pid).children()
    second = add_version(versions, store)
    while not (coming := [child for child in psutil.Process(worker.pid).children() if child != serving]):
        time.sleep(0.02)
    coming[0].send_signal(signal.SIGKILL)
    assert_made_by(wait_ended(jobs.submit(Order(request=request(first, 1), **LIFETIMES))), first)
    wait_for_version(connection, 2)
    assert_made_by(wait_ended(jobs.submit(Order(request=request(second, 1), **LIFETIMES))), second)


# Control by an operator


def test_an_unloaded_model_ends_what_was_accepted_and_comes_back_when_it_is_loaded(
    start, versions, jobs, connection, wait_ended
):
    worker = start()
    bundle = versions.open("lstm")
    wait_for_version(connection, 1)
    controls.unload(connection, "lstm")
    ids = [jobs.submit(Order(request=request(bundle, seed, max_tokens=1000), **LIFETIMES)) for seed in range(4)]
    for job_id in ids:
        assert_made_by(wait_ended(job_id), bundle)
    # It stays for a while after the last job that was accepted for it.
    wait_for(lambda: served_versions(connection) == [], "it is served still", seconds=ORPHAN_SECONDS + 30)
    controls.load(connection, "lstm")
    wait_for_version(connection, 1)
    assert_made_by(wait_ended(jobs.submit(Order(request=request(bundle, 9), **LIFETIMES))), bundle)
    assert worker.poll() is None


def test_a_reload_brings_a_fresh_engine_while_the_old_one_ends_what_it_has(
    start, versions, jobs, connection, wait_ended
):
    worker = start()
    bundle = versions.open("lstm")
    wait_for_version(connection, 1)
    (old,) = psutil.Process(worker.pid).children()
    ids = [jobs.submit(Order(request=request(bundle, seed, max_tokens=3000), **LIFETIMES)) for seed in range(4)]
    time.sleep(2.5)  # the worker has looked at the controls once
    controls.reload(connection, "lstm")
    old.wait(60)
    (new,) = psutil.Process(worker.pid).children()
    assert new.pid != old.pid
    ids.append(jobs.submit(Order(request=request(bundle, 9), **LIFETIMES)))
    for job_id in ids:
        assert_made_by(wait_ended(job_id), bundle)
    assert [each.child_restarts for each in read_announcements(connection)] == [0]


def test_a_drained_worker_takes_nothing_until_it_is_resumed(start, versions, jobs, connection, wait_ended):
    start()
    bundle = versions.open("lstm")
    wait_for_version(connection, 1)
    (name,) = (each.worker for each in read_announcements(connection))
    running = jobs.submit(Order(request=request(bundle, 1, max_tokens=3000, n=8), **LIFETIMES))
    wait_for(lambda: jobs.read(running).status == "running", "it does not start")
    controls.drain(connection, name)
    wait_for(lambda: not any(each.ready for each in read_announcements(connection)), "it is ready still")
    waiting = jobs.submit(Order(request=request(bundle, 2), **LIFETIMES))
    assert_made_by(wait_ended(running), bundle)
    time.sleep(1.5)  # longer than a worker waits between two looks at its queues
    assert jobs.read(waiting).status == "queued"
    controls.resume(connection, name)
    assert_made_by(wait_ended(waiting), bundle)

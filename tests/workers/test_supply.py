"""Models from another store: a worker's own store keeps step with it."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from contracts.bundle import WEIGHTS
from contracts.errors import StoreError
from contracts.orders import Order
from contracts.requests import TextRequest
from contracts.store import Store
from tests.sources import StoreSource
from workers import supply
from workers.supply import Supply
from workers.wanted import WantedModels

FIELDS = {
    "family": "lstm",
    "task": "text",
    "config": {},
    "limits": {"max_tokens": 16},
    "variants": [{"format": "pytorch", "precision": "fp32", "files": [WEIGHTS]}],
    "example": {"prompt": "a"},
}


def fill(folder):
    (folder / WEIGHTS).write_bytes(b"weights")
    return FIELDS


@pytest.fixture
def there(tmp_path) -> Store:
    """`a` in versions 1 and 2, of which 1 is the latest, and `b`."""
    made = Store(tmp_path / "there")
    for name in ("a", "a", "b"):
        made.write(name, fill)
    made.roll_back("a")
    return made


@pytest.fixture
def here(tmp_path) -> Store:
    return Store(tmp_path / "here")


@pytest.fixture
def source(there, monkeypatch) -> StoreSource:
    monkeypatch.setattr(supply, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(supply, "RETRY_SECONDS", 0.05)
    return StoreSource(there)


def visible(store: Store) -> list[str]:
    return [f"{name}@{version}" for name in store.names() for version in store.versions(name)]


def eventually(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("models", "brought"),
    [(None, ["a@1", "b@1"]), ("b", ["b@1"]), ("a@2, b", ["a@2", "b@1"]), ("a@2,a", ["a@1", "a@2"])],
)
def test_what_is_to_be_served_is_there_before_it_is_served(source, here, models, brought):
    Supply(source, here, models).begin()
    assert visible(here) == brought


def test_new_versions_and_rollbacks_are_followed(source, there, here):
    Supply(source, here, "a").begin()
    there.write("a", fill)
    eventually(lambda: here.latest("a") == 3)
    there.roll_back("a", 1)
    eventually(lambda: here.latest("a") == 1)
    assert visible(here) == ["a@1", "a@3"]
    there.promote("a", 1, "pytorch:fp32")
    eventually(lambda: here.chosen("a") == (1, "pytorch:fp32"))
    there.roll_back("a")
    eventually(lambda: here.chosen("a") == (1, None))


def test_a_model_that_is_there_no_more_is_not_served_here_either(source, there, here, connection):
    brings = Supply(source, here, None)
    wanted = WantedModels(here, None, None, "cpu", connection, "me", brings)
    brings.begin()
    assert {target.model for target in wanted.first()} == {"a", "b"}
    there.remove("b", 1)
    eventually(lambda: {target.model for target in wanted.now().models} == {"a"})


def test_a_version_that_jobs_wait_for_is_brought_and_is_not_the_latest_for_that(source, here, jobs, connection):
    brings = Supply(source, here, "a")
    brings.begin()
    wanted = WantedModels(here, "a", None, "cpu", connection, "me", brings)
    wanted.first()
    target = here.open("a").target().model_copy(update={"version": 2})
    request = TextRequest(target=target, seed=1, prompt_tokens=(1,), max_tokens=1)
    jobs.enqueue([Order(request=request, result_seconds=60, timeout_seconds=60)])
    eventually(lambda: {target.version for target in wanted.now().models} == {1, 2})
    assert here.latest("a") == 1


def test_what_is_here_is_served_while_the_other_store_is_away(source, there, here, caplog):
    Supply(source, here, None).begin()
    source.away = True
    with caplog.at_level(logging.WARNING):
        Supply(source, here, "a").begin()
    assert "nobody listens" in caplog.text
    assert "from before" in caplog.text
    source.away = False
    there.write("a", fill)
    eventually(lambda: here.latest("a") == 3)


def test_an_empty_store_waits_for_the_other_one(source, here):
    source.away = True
    begun = threading.Thread(target=Supply(source, here, None).begin, daemon=True)
    begun.start()
    time.sleep(0.2)
    assert begun.is_alive()
    source.away = False
    begun.join(10)
    assert visible(here) == ["a@1", "b@1"]


def test_what_nobody_offers_and_what_was_changed_is_said_at_once(source, there, here):
    with pytest.raises(StoreError, match="c is not offered; a@7 is not offered"):
        Supply(source, here, "c,a@7").begin()
    (there.root / "a" / "1" / WEIGHTS).write_bytes(b"Weights")
    with pytest.raises(StoreError, match=f"{WEIGHTS} of a@1 has the SHA-256"):
        Supply(source, here, "a,b").begin()
    assert visible(here) == ["b@1"]
    Supply(source, here, None).begin()  # the other models are served

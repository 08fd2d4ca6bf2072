"""`model` is a name, for the latest version, or `name@version`."""

from __future__ import annotations

import json
import zlib

import pytest

from contracts.announcements import Announcement, ServedModel, announce
from contracts.enqueue import JOB_FUNCTION
from contracts.requests import PAYLOADS
from contracts.store import Store
from server.app import create_app
from tests.server.conftest import write_text_bundle


@pytest.fixture
def versions(tmp_path):
    made = Store(tmp_path / "versions")
    for _ in range(3):
        made.write("tiny-text", write_text_bundle)
    return made


@pytest.fixture
def client(versions, settings, worker):
    """Of a server whose workers serve versions 1 and 2 of 3."""
    bundles = [versions.open("tiny-text", version) for version in (1, 2)]
    worker.announce(served=[ServedModel(target=each.target(), task="text", digest=each.digest) for each in bundles])
    return create_app(settings.__class__(**vars(settings) | {"store": versions.root})).test_client()


def version_of(client, name):
    answer = client.post("/v1/jobs", json={"model": name, "input": {"prompt": "ab"}})
    assert answer.status_code == 202, answer.json
    created = client.application.extensions["kamishibai"].jobs.read(answer.json["id"])
    return created.request.target.version


def test_a_name_alone_is_the_latest_version_that_is_served(client, versions):
    assert version_of(client, "tiny-text") == 2
    versions.roll_back("tiny-text", 1)
    assert version_of(client, "tiny-text") == 1
    versions.roll_back("tiny-text", 3)
    assert version_of(client, "tiny-text") == 2, "nobody serves 3 yet"


def served(versions, *numbers):
    bundles = [versions.open("tiny-text", number) for number in numbers]
    return [ServedModel(target=each.target(), task="text", digest=each.digest) for each in bundles]


def test_a_candidate_gets_what_names_its_version_and_the_rest_once_it_is_promoted(client, versions, worker, redis):
    versions.roll_back("tiny-text", 1)
    worker.announce(served=served(versions, 1))
    candidate = Announcement(
        worker="a-first-name", device="cpu", ready=True, models=tuple(served(versions, 2)), candidate=True
    )
    announce(redis, candidate)
    assert [version_of(client, name) for name in ("tiny-text", "tiny-text@2")] == [1, 2]
    worker.withdraw()
    refused = client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "ab"}})
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "no_worker"), "nothing was promoted"
    worker.announce(served=served(versions, 1))
    versions.promote("tiny-text", 2, "pytorch:fp32")
    assert version_of(client, "tiny-text") == 2
    versions.roll_back("tiny-text")
    assert version_of(client, "tiny-text") == 1


def test_jobs_are_not_accepted_while_only_older_workers_are_there_that_cannot_read_them(client, versions, redis):
    announced = Announcement(
        worker="worker-1", device="cpu", ready=True, models=tuple(served(versions, 2)), payloads={"text:1"}
    )
    announce(redis, announced)
    for name in ("tiny-text", "tiny-text@2"):
        refused = client.post("/v1/jobs", json={"model": name, "input": {"prompt": "ab"}})
        assert refused.status_code == 503
        assert "are older than this server and cannot read its jobs; upgrade them" in refused.json["error"]["message"]
    announce(redis, announced.model_copy(update={"worker": "worker-2", "payloads": PAYLOADS}))
    assert version_of(client, "tiny-text") == 2


def test_a_job_of_a_newer_server_is_there_but_cannot_be_read(client, redis):
    created = client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "ab"}}).json["id"]
    payload = {"task": "text", "schema_version": 3, "new": "field"}
    redis.hset(f"rq:job:{created}", "data", zlib.compress(json.dumps([JOB_FUNCTION, None, [payload], {}]).encode()))
    answer = client.get(f"/v1/jobs/{created}")
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "newer_request")
    assert client.get("/v1/jobs").json["data"] == []


def test_a_version_can_be_asked_for(client):
    assert version_of(client, "tiny-text@1") == 1
    assert version_of(client, "tiny-text@2") == 2
    assert client.get("/v1/models/tiny-text@1").status_code == 200
    listed = client.get("/v1/models").json["data"]
    assert [each["id"] for each in listed] == ["tiny-text"]


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("tiny-text@3", 503, "No ready worker serves 'tiny-text@3'"),
        ("tiny-text@4", 404, "'model' is 'tiny-text@4', which does not exist"),
        ("tiny-text@", 404, "which does not exist"),
        ("tiny-text@1@2", 404, "which does not exist"),
        ("tiny-text@01", 404, "which does not exist"),
        ("../tiny-text@1", 404, "which does not exist"),
    ],
)
def test_a_version_that_cannot_be_had_is_refused_by_name(client, name, status, said):
    answer = client.post("/v1/completions", json={"model": name, "prompt": "ab"})
    assert answer.status_code == status
    assert said in answer.json["error"]["message"]

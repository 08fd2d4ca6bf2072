"""Bundles over HTTP: what a worker elsewhere pulls, and who may."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from contracts.api_keys import ApiKeys
from contracts.bundle import WEIGHTS
from contracts.store import Store
from server import access
from server.app import create_app
from tests.server.conftest import write_text_bundle

CONTENT = bytes(range(256)) * 4096  # several pieces


@pytest.fixture
def stock(tmp_path):
    """A store of one model, in two versions of which the first is the latest."""
    made = Store(tmp_path / "stock")
    for _ in range(2):
        made.write("m", lambda folder: write_text_bundle(folder) | _weights(folder))
    made.roll_back("m", 1)
    return made


def _weights(folder):
    (folder / WEIGHTS).write_bytes(CONTENT)
    return {}


@pytest.fixture
def client(settings, stock, redis):
    return create_app(replace(settings, store=stock.root, share_store="on")).test_client()


def test_all_versions_are_listed_with_their_digests(client, stock):
    found = {each["id"]: each for each in client.get("/v1/bundles").get_json()["data"]}
    assert found.keys() == {"m@1", "m@2"}
    for version in (1, 2):
        bundle, told = stock.open("m", version), found[f"m@{version}"]
        assert (told["model"], told["version"], told["digest"]) == ("m", version, bundle.digest)
        assert (told["bytes"], told["latest"]) == (sum(e.bytes for e in bundle.manifest.files.values()), version == 1)
    stock.roll_back("m", 2)
    stock.remove("m", 1)
    assert [(each["id"], each["latest"]) for each in client.get("/v1/bundles").get_json()["data"]] == [("m@2", True)]


def test_a_manifest_and_files_come_as_they_were_written(client, stock):
    bundle = stock.open("m", 2)
    manifest = client.get("/v1/bundles/m/2/manifest")
    assert hashlib.sha256(manifest.data).hexdigest() == bundle.digest
    for name, entry in bundle.manifest.files.items():
        answer = client.get(f"/v1/bundles/m/2/files/{entry.sha256}")
        assert (answer.status_code, answer.data) == (200, (bundle.path / name).read_bytes())
        assert answer.headers["Content-Length"] == str(entry.bytes)


@pytest.mark.parametrize("start", [1, 300_000, len(CONTENT) - 1])
def test_a_file_comes_from_any_byte_on(client, stock, start):
    path = f"/v1/bundles/m/2/files/{stock.open('m', 2).manifest.files[WEIGHTS].sha256}"
    with client.get(path, headers={"Range": f"bytes={start}-"}) as answer:
        assert (answer.status_code, answer.data) == (206, CONTENT[start:])
        assert answer.headers["Content-Range"] == f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
    with client.get(path, headers={"Range": f"bytes={start - 1}-{start}"}) as middle:
        assert middle.data == CONTENT[start - 1 : start + 1]
    beyond = client.get(path, headers={"Range": f"bytes={len(CONTENT)}-"})
    assert (beyond.status_code, beyond.get_json()["error"]["code"]) == (416, "range_not_satisfiable")


@pytest.mark.parametrize(
    "path",
    [
        "m/3/manifest",
        "m/0/manifest",
        "m/x/manifest",
        "M/1/manifest",
        "..%2Fm/1/manifest",
        "m/1/files/manifest.json",
        f"m/1/files/{WEIGHTS}",
        "m/1/files/..%2f..%2f2%2fmanifest.json",
        f"m/1/files/{'0' * 64}",
        "%2e%2e/1/manifest",
    ],
)
def test_what_is_not_in_the_store_is_not_found(client, path):
    assert client.get(f"/v1/bundles/{path}").status_code == 404


def test_the_store_is_given_to_keys_with_the_scope_worker_alone(settings, stock, redis, monkeypatch):
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)
    paths = ["/v1/bundles", "/v1/bundles/m/1/manifest", f"/v1/bundles/m/1/files/{'0' * 64}"]
    app = create_app(replace(settings, store=stock.root)).test_client()
    for path in paths:  # without keys to nobody: the weights are not for all who reach the server
        assert app.get(path).status_code == 403
        assert "--scope worker" in app.get(path).get_json()["error"]["message"]
    keys = {scope: ApiKeys(redis).create(scope, scope) for scope in ("infer", "worker", "admin")}
    for path in paths:
        found = {scope: app.get(path, headers={"Authorization": f"Bearer {key}"}) for scope, key in keys.items()}
        assert found["infer"].status_code == 403
        assert {found["worker"].status_code, found["admin"].status_code} < {200, 404}
    for path in ("/v1/models", "/v1/jobs", "/metrics"):
        assert app.get(path, headers={"Authorization": f"Bearer {keys['worker']}"}).status_code == 403
    closed = create_app(replace(settings, store=stock.root, share_store="off")).test_client()
    refused = closed.get("/v1/bundles", headers={"Authorization": f"Bearer {keys['admin']}"})
    assert (refused.status_code, "KAMISHIBAI_SHARE_STORE" in refused.get_json()["error"]["message"]) == (403, True)

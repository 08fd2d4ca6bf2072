"""Control of models and workers over HTTP."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from contracts import controls
from contracts.api_keys import ApiKeys
from server.app import create_app


@pytest.fixture
def client(settings, worker):
    return create_app(replace(settings, model_control="on")).test_client()


def test_control_is_off_unless_the_server_was_told_otherwise(app, worker, redis):
    for path in ("models/tiny-text/unload", "models/tiny-text/reload", "workers/worker-1/drain"):
        refused = app.test_client().post(f"/v1/{path}")
        assert refused.status_code == 403
        assert "KAMISHIBAI_MODEL_CONTROL=on" in refused.get_json()["error"]["message"]
    assert controls.read_controls(redis) == (frozenset(), {}, frozenset())


def test_an_unloaded_model_is_refused_at_once_and_served_again_when_loaded(client, worker):
    body = {"model": "tiny-text", "input": {"prompt": "a"}}
    assert client.post("/v1/jobs", json=body).status_code == 202
    answer = client.post("/v1/models/tiny-text/unload")
    assert (answer.status_code, answer.get_json()) == (202, {"id": "tiny-text", "object": "model", "asked": "unload"})
    assert client.post("/v1/jobs", json=body).status_code == 503
    assert "tiny-text" not in [model["id"] for model in client.get("/v1/models").get_json()["data"]]
    assert client.post("/v1/models/tiny-text/load").status_code == 202
    assert client.post("/v1/jobs", json=body).status_code == 202


def test_what_is_unloaded_is_not_accepted_for_a_later_worker_either(settings, worker, redis):
    client = create_app(replace(settings, without_worker="accept")).test_client()
    controls.unload(redis, "unserved")
    assert client.post("/v1/jobs", json={"model": "unserved", "input": {}}).status_code == 503


def test_what_is_asked_is_what_workers_read(client, redis):
    client.post("/v1/models/tiny-text/reload")
    client.post("/v1/models/tiny-text/reload")
    client.post("/v1/workers/worker-1/drain")
    assert controls.read_controls(redis) == (frozenset(), {"tiny-text": 2}, frozenset({"worker-1"}))
    client.post("/v1/workers/worker-1/resume")
    assert not controls.read_controls(redis).drained


def test_workers_are_listed_with_what_they_serve(client):
    client.post("/v1/workers/worker-1/drain")
    (worker,) = client.get("/v1/workers").get_json()["data"]
    assert (worker["id"], worker["ready"], worker["drained"]) == ("worker-1", True, True)
    assert worker["models"] == ["tiny-text@1", "tiny-picture@1", "tiny-labels@1"]


@pytest.mark.parametrize("path", ["models/nobody/unload", "models/tiny-text@1/load", "workers/nobody/drain"])
def test_what_nobody_knows_cannot_be_controlled(client, redis, path):
    assert client.post(f"/v1/{path}").status_code == 404
    assert controls.read_controls(redis) == (frozenset(), {}, frozenset())


def test_control_needs_an_admins_key(client, redis):
    keys = {scope: ApiKeys(redis).create(scope, scope) for scope in ("infer", "admin")}
    time.sleep(1.1)  # for the server to look at the keys again
    for scope, status in (("infer", 403), ("admin", 202)):
        headers = {"Authorization": f"Bearer {keys[scope]}"}
        assert client.post("/v1/models/tiny-text/reload", headers=headers).status_code == status
    ApiKeys(redis).forget_all()

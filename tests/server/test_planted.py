"""What somebody who can write to Redis may plant, seen from the server: it stays in its store and runs nothing."""

from __future__ import annotations

import pytest

from contracts.requests import Target


@pytest.mark.parametrize("name", ["../../etc", "/etc", "..", "tiny-text/../../etc", "a\r\nset-cookie: x=1", "a\0b"])
def test_an_announced_model_cannot_lead_out_of_the_store(client, worker, store, name):
    outside = store.root.parent / "etc" / "1"
    outside.mkdir(parents=True, exist_ok=True)
    (outside / "manifest.json").write_text("{}")
    served = worker.served[0].model_copy(update={"target": Target(model=name, version=1, variant="pytorch:fp32")})
    worker.announce(served=[*worker.served, served])
    response = client.post("/v1/completions", json={"model": name, "prompt": "a"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "no_worker")
    assert [model["id"] for model in client.get("/v1/models").get_json()["data"]] == [
        "tiny-labels",
        "tiny-picture",
        "tiny-text",
    ]
    assert client.get("/metrics").status_code == 200
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize(
    "path", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "..\\..\\etc", "tiny-text%00", "tiny-text%0d%0aa:b"]
)
@pytest.mark.parametrize("route", ["/v1/models/", "/v1/jobs/", "/"])
def test_a_url_cannot_lead_anywhere(client, route, path):
    response = client.get(route + path)
    assert (response.status_code, response.get_json()["error"]["type"]) == (404, "invalid_request_error")


@pytest.mark.parametrize("planted", [b"\x80\x04\x95pickle", b"{}", b"[]", b'{"worker": 5}'])
def test_an_announcement_that_is_none_is_skipped(client, redis, planted):
    redis.set("kamishibai:worker:hostile", planted)
    redis.sadd("kamishibai:workers", "hostile")
    assert [model["id"] for model in client.get("/v1/models").get_json()["data"]] == [
        "tiny-labels",
        "tiny-picture",
        "tiny-text",
    ]
    assert client.get("/readyz").get_json()["workers"] == ["worker-1"]

"""Keys over HTTP: what is open, what is refused and how it is said, and whose jobs are whose."""

from __future__ import annotations

import logging
import time

import pytest

from contracts.api_keys import ApiKeys, key_id
from server import access
from server.app import create_app
from server.services import EXTENSION

BODY = {"model": "tiny-text", "input": {"prompt": "ab", "seed": 5}}


@pytest.fixture
def api_keys(redis):
    return ApiKeys(redis)


@pytest.fixture
def app(settings, monkeypatch):
    """An application that has seen no keys yet and looks for them at every request."""
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)
    return create_app(settings)


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


def error_of(response):
    return response.status_code, response.get_json()["error"]["code"]


def every_route(app):
    """(method, path) of all routes there are."""
    for rule in app.url_map.iter_rules():
        for method in rule.methods or ():
            yield method, rule.rule.replace("<job_id>", "x").replace("<name>", "tiny-text").replace("<file>", "0.png")


def test_every_route_but_health_signed_urls_and_the_pages_files_needs_a_key_once_one_exists(app, client, api_keys):
    api_keys.create("one", "infer")
    routes = [*every_route(app), ("GET", "/nowhere"), ("PUT", "/v1/jobs"), ("TRACE", "/metrics")]
    opened = set()
    for method, path in routes:
        response = client.open(path, method=method)
        if response.status_code != 401:
            opened.add(path)
    assert opened == {"/healthz", "/readyz", "/v1/images/x/0.png", "/page/0.png", "/page/vendor/0.png"}
    assert client.get("/v1/images/x/0.png").status_code == 403


def test_without_a_key_nothing_reaches_redis(client, api_keys, redis):
    api_keys.create("one", "infer")
    before = sorted(redis.keys())
    assert client.post("/v1/jobs", json=BODY).status_code == 401
    assert client.post("/v1/completions", json={"prompt": "a", "stream": True}).status_code == 401
    assert sorted(redis.keys()) == before


def test_a_refusal_has_openais_shape_and_names_the_way_in(client, api_keys):
    api_keys.create("one", "infer")
    response = client.post("/v1/completions", json={"prompt": "a"})
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="kamishibai"'
    assert response.headers["x-should-retry"] == "false"
    error = response.get_json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)
    assert "Authorization: Bearer" in error["message"]


def test_only_the_whole_key_lets_in(client, api_keys):
    text = api_keys.create("one", "infer")
    other = api_keys.create("two", "infer")
    assert client.get("/v1/models", headers=bearer(text)).status_code == 200
    assert client.get("/v1/models", headers={"Authorization": f"bearer  {text} "}).status_code == 200
    mixed = f"kmb_{key_id(text)}_{other.split('_')[2]}"
    wrong = [mixed, text[:-1], text + "0", f"{text},{text}", text.upper(), key_id(text), "none", "", "ä", "kmb__"]
    for given in [*map(bearer, wrong), {"Authorization": f"Basic {text}"}, {"Authorization": text}, {"api-key": text}]:
        response = client.get("/v1/models", headers=given)
        assert error_of(response) == (401, "invalid_api_key"), given
        assert text not in response.get_data(as_text=True)
    assert client.get(f"/v1/models?api_key={text}").status_code == 401, "a URL ends in logs"


def test_metrics_need_the_scope_admin(client, api_keys):
    infer, admin = api_keys.create("one", "infer"), api_keys.create("two", "admin")
    refused = client.get("/metrics", headers=bearer(infer))
    assert error_of(refused) == (403, "forbidden")
    assert "'one' has the scope infer; this route needs a key with admin" in refused.get_json()["error"]["message"]
    assert client.get("/metrics", headers=bearer(admin)).status_code == 200
    assert client.get("/v1/models", headers=bearer(admin)).status_code == 200


def test_a_revoked_key_stops_within_the_time_that_keys_are_kept(settings, worker, api_keys):
    text = api_keys.create("one", "infer")
    client = create_app(settings).test_client()  # with the cache as it is in service
    assert client.get("/v1/models", headers=bearer(text)).status_code == 200
    api_keys.revoke("one")
    deadline = time.monotonic() + access.CACHE_SECONDS + 0.5
    while client.get("/v1/models", headers=bearer(text)).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_key_that_is_revoked_midway_ends_nothing_that_was_let_in_and_lets_nothing_more_in(
    client, api_keys, worker, redis
):
    headers = bearer(api_keys.create("one", "infer"))
    waiting = client.post("/v1/jobs", json=BODY, headers=headers).get_json()["id"]
    stream = client.post(
        "/v1/completions", json={"prompt": "a", "stream": True, "model": "tiny-text"}, headers=headers, buffered=False
    )
    pieces = stream.iter_encoded()
    assert next(pieces).startswith(b":")
    api_keys.revoke("one")
    assert error_of(client.get(f"/v1/jobs/{waiting}", headers=headers)) == (401, "invalid_api_key")
    for _ in range(2):
        worker.finish(worker.take())
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
    assert redis.hget(f"rq:job:{waiting}", "status") == b"finished", "what was accepted is done"


def test_revoking_the_last_key_lets_nobody_in_and_forgetting_all_opens_again(client, api_keys):
    text = api_keys.create("one", "admin")
    api_keys.revoke("one")
    assert error_of(client.get("/v1/models")) == (401, "invalid_api_key")
    assert error_of(client.get("/v1/models", headers=bearer(text))) == (401, "invalid_api_key")
    api_keys.forget_all()
    assert client.get("/v1/models").status_code == 200


def test_a_server_that_requires_keys_is_closed_while_redis_has_none(settings, worker, api_keys, monkeypatch):
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)
    fields = vars(settings) | {"keys": "required"}
    client = create_app(settings.__class__(**fields)).test_client()
    assert client.get("/v1/models").status_code == 401
    text = api_keys.create("one", "infer")
    assert client.get("/v1/models", headers=bearer(text)).status_code == 200
    api_keys.forget_all()  # or Redis lost them
    assert client.get("/v1/models", headers=bearer(text)).status_code == 401


def test_without_redis_nobody_is_let_in_and_the_answer_is_503(settings, worker, api_keys, tmp_path, monkeypatch):
    text = api_keys.create("one", "admin")
    fields = vars(settings) | {"redis_url": f"unix://{tmp_path}/none.sock"}
    client = create_app(settings.__class__(**fields)).test_client()
    for headers in (None, bearer(text), bearer("wrong")):
        for path in ("/v1/models", "/", "/nowhere", "/metrics"):
            assert error_of(client.get(path, headers=headers)) == (503, "queue_unavailable")
    assert client.get("/healthz").status_code == 200


def test_redis_is_asked_for_keys_once_a_second_however_many_guess(settings, worker, api_keys, redis):
    api_keys.create("one", "infer")
    client = create_app(settings).test_client()
    redis.config_resetstat()
    for number in range(50):
        assert client.get("/", headers=bearer(f"kmb_{number:012x}_{'0' * 64}")).status_code == 401
    assert redis.info("commandstats")["cmdstat_hgetall"]["calls"] <= 3


# Jobs


@pytest.fixture
def texts(api_keys):
    """Two keys that ask, and one that may see all."""
    return {name: api_keys.create(name, scope) for name, scope in (("a", "infer"), ("b", "infer"), ("root", "admin"))}


def test_a_job_is_visible_to_the_key_that_made_it_and_to_admins(client, worker, texts):
    made = client.post("/v1/jobs", json=BODY, headers=bearer(texts["a"]))
    path = made.headers["Location"]
    for name in ("a", "root"):
        assert client.get(path, headers=bearer(texts[name])).get_json()["status"] == "queued"
    worker.finish(worker.take())
    for name in ("a", "root"):
        assert client.get(path, headers=bearer(texts[name])).get_json()["status"] == "succeeded"


@pytest.mark.parametrize("state", ["queued", "running", "ended"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("wait", ["", "?wait=5"])
def test_anothers_job_is_answered_exactly_as_an_unknown_one_and_is_untouched(
    client, worker, texts, redis, state, method, wait
):
    path = client.post("/v1/jobs", json=BODY, headers=bearer(texts["a"])).headers["Location"]
    job_id = path.rsplit("/")[-1]
    if state != "queued":
        worker.take()
    if state == "ended":
        worker.finish(job_id)
    before = redis.hgetall(f"rq:job:{job_id}")
    unknown = "0" * 32
    answers = []
    for asked in (job_id, unknown):
        began = time.monotonic()
        response = client.open(f"/v1/jobs/{asked}{wait}", method=method, headers=bearer(texts["b"]))
        assert time.monotonic() - began < 1, "who waits for it could tell that it exists"
        answers.append((response.status_code, response.get_data(as_text=True).replace(asked, "ID")))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    assert redis.hgetall(f"rq:job:{job_id}") == before


def test_a_synchronous_calls_job_belongs_to_its_key_too(client, worker, texts):
    with worker.working():
        plain = client.post("/v1/completions", json={"prompt": "a"}, headers=bearer(texts["a"])).get_json()["id"]
        stream = client.post("/v1/completions", json={"prompt": "a", "stream": True}, headers=bearer(texts["a"]))
        streamed = stream.get_data(as_text=True).split('"id": "')[1].split('"')[0]
    for job_id in (plain.removeprefix("cmpl-"), streamed.removeprefix("cmpl-")):
        statuses = [client.get(f"/v1/jobs/{job_id}", headers=bearer(texts[name])).status_code for name in ("a", "b")]
        assert statuses == [200, 404]


def test_admins_may_cancel_and_delete_any_job(client, texts):
    path = client.post("/v1/jobs", json=BODY, headers=bearer(texts["a"])).headers["Location"]
    assert client.delete(path, headers=bearer(texts["root"])).get_json()["status"] == "cancelled"
    assert client.delete(path, headers=bearer(texts["root"])).get_json()["deleted"]
    assert client.get(path, headers=bearer(texts["a"])).status_code == 404


def test_jobs_from_before_the_first_key_are_seen_by_admins_alone(client, api_keys):
    path = client.post("/v1/jobs", json=BODY).headers["Location"]
    assert client.get(path).status_code == 200
    infer, admin = api_keys.create("one", "infer"), api_keys.create("two", "admin")
    assert client.get(path, headers=bearer(infer)).status_code == 404
    assert client.get(path, headers=bearer(admin)).status_code == 200


def test_a_key_with_the_name_of_a_revoked_one_does_not_inherit_its_jobs(client, api_keys):
    path = client.post("/v1/jobs", json=BODY, headers=bearer(api_keys.create("ci", "infer"))).headers["Location"]
    api_keys.revoke("ci")
    assert client.get(path, headers=bearer(api_keys.create("ci", "infer"))).status_code == 404


@pytest.mark.parametrize(
    "meta", [b"", b"{", b"[]", b'{"owner": 5}', b'{"owner": null}', b"\x80\x04pickle", b"[" * 9999]
)
def test_a_job_whose_owner_cannot_be_read_is_seen_by_admins_alone(client, texts, redis, meta):
    path = client.post("/v1/jobs", json=BODY, headers=bearer(texts["a"])).headers["Location"]
    redis.hset(f"rq:job:{path.rsplit('/')[-1]}", "meta", meta)
    statuses = [client.get(path, headers=bearer(texts[name])).status_code for name in ("a", "root")]
    assert statuses == [404, 200]


# A server without keys


def test_a_server_without_keys_is_open_to_this_machine(client, worker):
    assert client.get("/v1/models", headers=bearer("anything")).status_code == 200
    for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "LOCALHOST", "[::1]", "[::1]:8000", "192.168.1.5"):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200
    same = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}
    assert client.post("/v1/jobs", json=BODY, headers=same).status_code == 202


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"Host": "evil.example:8000"}, "'Host' is 'evil.example'"),
        ({"Host": "127.0.0.1.evil.example"}, "'Host'"),
        ({"Host": "[::1"}, "'Host'"),
        ({"Host": "localhost:evil.example"}, "'Host'"),
        ({"Host": "127.0.0.1", "Origin": "http://[::1"}, "'Origin'"),
        ({"Host": "127.0.0.1", "Origin": ""}, "'Origin'"),
        ({"Host": "127.0.0.1:8000", "Origin": "https://evil.example"}, "'Origin' is 'https://evil.example'"),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:9000"}, "'Origin'"),
        ({"Host": "127.0.0.1:8000", "Origin": "null"}, "'Origin'"),
    ],
)
def test_pages_of_other_sites_cannot_use_a_server_without_keys(client, redis, headers, named):
    before = sorted(redis.keys())
    response = client.post("/v1/jobs", json=BODY, headers=headers)
    assert error_of(response) == (403, "forbidden")
    assert named in response.get_json()["error"]["message"]
    assert "kamishibai keys create" in response.get_json()["error"]["message"]
    assert sorted(redis.keys()) == before


def test_with_a_key_it_may_be_served_under_any_name(client, api_keys):
    headers = bearer(api_keys.create("one", "infer")) | {"Host": "models.example", "Origin": "https://page.example"}
    assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "with_key", "warned"),
    [
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("localhost", False, False),
        ("192.168.1.5", True, False),
        ("192.168.1.5", False, True),
        ("::", False, True),
        ("models.example", False, True),
    ],
)
def test_listening_beyond_this_machine_without_a_key_is_warned_of(settings, api_keys, caplog, host, with_key, warned):
    if with_key:
        api_keys.create("one", "infer")
    app = create_app(settings.__class__(**vars(settings) | {"host": host}))
    with caplog.at_level(logging.WARNING, "server.access"):
        app.extensions[EXTENSION].access.warn_if_open()
    assert [f"anybody who reaches {host} may use" in message for message in caplog.messages] == [True] * warned

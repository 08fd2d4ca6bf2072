"""What is refused, how it is said, and that nothing of it reaches Redis."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from server.app import create_app

TEXT, IMAGE, JOBS = "/v1/completions", "/v1/images/generations", "/v1/jobs"


@pytest.mark.parametrize(
    ("route", "body", "status", "code", "message"),
    [
        (TEXT, {"model": "nope", "prompt": "a"}, 404, "model_not_found", "tiny-picture, tiny-text, unserved"),
        (TEXT, {"model": "../etc", "prompt": "a"}, 404, "model_not_found", "'../etc'"),
        (TEXT, {"model": "", "prompt": "a"}, 404, "model_not_found", "does not exist"),
        (TEXT, {"model": "tiny-picture", "prompt": "a"}, 400, "invalid_value", "POST /v1/images/generations"),
        (IMAGE, {"model": "tiny-text"}, 400, "invalid_value", "POST /v1/completions"),
        (IMAGE, {"model": "unserved"}, 503, "no_worker", "'unserved'"),
        (TEXT, {}, 400, "invalid_value", "'prompt' is missing"),
        (TEXT, {"prompt": ""}, 400, "invalid_value", "'prompt'"),
        (TEXT, {"prompt": "XYZ"}, 400, "invalid_value", "nothing that tiny-text can read"),
        (TEXT, {"prompt": 7}, 400, "invalid_value", "'prompt' is 7"),
        (TEXT, {"prompt": "a", "max_tokens": "7"}, 400, "invalid_value", "'max_tokens' is '7'"),
        (TEXT, {"prompt": "a", "temperature": 10**400}, 400, "invalid_value", "'temperature'"),
        (TEXT, {"prompt": "a", "colour": 1}, 400, "invalid_value", "'colour' is not a field"),
        (TEXT, {"prompt": "a", "max_tokens": 33}, 400, "invalid_value", "'max_tokens' is 33, but tiny-text .* 32"),
        (TEXT, {"prompt": "a" * 50, "max_tokens": 20}, 400, "invalid_value", "50 tokens .* 20, .* 64 .* at most 14"),
        (TEXT, {"prompt": "a" * 70}, 400, "invalid_value", "70 tokens .* fewer than 64 tokens"),
        (TEXT, {"prompt": "a", "n": 2}, 400, "invalid_value", "'n' is 2"),
        (IMAGE, {"n": 5}, 400, "invalid_value", "'n' is 5; ask for at most 4"),
        (IMAGE, {"size": "1024x1024"}, 400, "invalid_value", "'1024x1024'; tiny-picture draws 'auto' or '8x8'"),
        (JOBS, {"model": "tiny-text"}, 400, "invalid_value", "'input' is missing"),
        (JOBS, {"input": {"prompt": "a"}}, 400, "invalid_value", "choose one of: tiny-picture, tiny-text"),
        (JOBS, {"model": "nope", "input": {}}, 404, "model_not_found", "'nope'"),
        (JOBS, {"model": "tiny-text", "input": {"prompt": "a", "model": "b"}}, 400, "invalid_value", "input.model"),
        (JOBS, {"model": "tiny-text", "input": {"prompt": "a", "model": [1]}}, 400, "invalid_value", "input.model"),
        (JOBS, {"model": "tiny-text", "input": {"prompt": "a", "stream": True}}, 400, "invalid_value", "leave it out"),
        (JOBS, {"model": "tiny-picture", "input": {"max_tokens": 1}}, 400, "invalid_value", "'max_tokens' is not"),
    ],
)
def test_a_request_that_cannot_be_run_is_refused_and_leaves_nothing(client, redis, route, body, status, code, message):
    before = sorted(redis.keys())
    response = client.post(route, json=body)
    error = response.get_json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert re.search(message, error["message"]), error["message"]
    assert sorted(redis.keys()) == before


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"prompt": NaN}', "NaN is not a JSON number"),
        (b'{"prompt": "a", "temperature": -Infinity}', "-Infinity is not"),
        (b'{"prompt": "a", "temperature": 1e999}', "'temperature'"),
        (b'{"prompt": "\\ud800"}', "surrogates"),
        (b'{"\\udfff": 1}', "surrogates"),
        (b'{"prompt": "\xff"}', "UTF-8"),
        (b'{"prompt": "\xed\xa0\x80"}', "UTF-8"),
        (b'{"prompt": ' + b"[" * 9000 + b"]" * 9000 + b"}", "nested too deeply"),
        (b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}", "'prompt'"),
        (b'{"seed": ' + b"9" * 9000 + b"}", "not JSON"),
    ],
    ids=repr,
)
def test_what_is_no_json_object_is_refused(client, redis, raw, message):
    before = sorted(redis.keys())
    response = client.post(TEXT, data=raw)
    assert response.status_code == 400
    assert message in response.get_json()["error"]["message"]
    assert sorted(redis.keys()) == before


def test_a_body_over_the_limit_is_refused(client, redis):
    before = sorted(redis.keys())
    response = client.post(TEXT, json={"prompt": "a" * 30_000})
    assert (response.status_code, response.get_json()["error"]["code"]) == (413, "body_too_large")
    assert "20000 bytes" in response.get_json()["error"]["message"]
    assert sorted(redis.keys()) == before


def test_an_unknown_route_and_a_wrong_method_are_told_in_openais_form(client):
    missing, wrong = client.get("/nowhere"), client.get(TEXT)
    assert (missing.status_code, missing.get_json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.get_json()["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["Allow"]


def test_chat_is_told_what_to_use_instead(client):
    response = client.post("/v1/chat/completions", json={"messages": []})
    assert response.status_code == 404
    assert "/v1/completions" in response.get_json()["error"]["message"]


def test_without_redis_the_answer_is_503_and_says_when_to_come_back(settings, tmp_path):
    away = create_app(settings.__class__(store=settings.store, redis_url=f"unix://{tmp_path}/none.sock"))
    client = away.test_client()
    for response in (client.post(TEXT, json={"prompt": "a"}), client.get("/readyz"), client.get("/metrics")):
        assert (response.status_code, response.get_json()["error"]["code"]) == (503, "queue_unavailable")
        assert response.headers["Retry-After"] == "2"
    assert client.get("/healthz").status_code == 200


def test_an_error_of_our_own_shows_no_traceback(app, client, monkeypatch):
    monkeypatch.setattr("server.routes.models.services", lambda: 1 / 0)
    response = client.get("/v1/models", headers={"x-request-id": "mine-7"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (500, "internal_error")
    assert "division" not in response.get_data(as_text=True)
    assert response.headers["x-request-id"] == "mine-7"


@pytest.mark.parametrize("given_id", ["", "two words", "x" * 129, "ümlaut"])
def test_a_request_id_that_is_no_token_is_replaced(client, given_id):
    response = client.get("/healthz", headers={"x-request-id": given_id.encode().decode("latin-1")})
    assert response.headers["x-request-id"] != given_id
    assert len(response.headers["x-request-id"]) == 32


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
FIELDS = ["model", "prompt", "max_tokens", "temperature", "top_k", "top_p", "stop", "seed", "n", "echo", "logit_bias"]
LIKELY = st.just("tiny-text") | st.integers(-1, 40) | st.text("ab ", max_size=9) | JSON


@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=JSON | st.dictionaries(st.sampled_from(FIELDS), LIKELY) | st.fixed_dictionaries({"prompt": LIKELY}))
def test_no_json_makes_the_server_fail(client, working, body):
    response = client.post(TEXT, data=json.dumps(body))
    assert response.status_code in (200, 400, 404)


@pytest.fixture
def working(worker):
    with worker.working():
        yield

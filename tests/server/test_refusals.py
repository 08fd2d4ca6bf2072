"""What is refused, how it is said, and that nothing of it reaches Redis."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from contracts.requests import CompletionBody
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
        (IMAGE, {"n": 5}, 400, "invalid_value", "'n' is 5; ask for at most 4"),
        (IMAGE, {"size": "1024x1024"}, 400, "invalid_value", "'1024x1024'; tiny-picture draws 'auto' or '8x8'"),
        (JOBS, {"model": "tiny-text"}, 400, "invalid_value", "'input' is missing"),
        (JOBS, {"input": {"prompt": "a"}}, 400, "invalid_value", "choose one of: tiny-labels, tiny-picture, tiny-text"),
        (JOBS, {"model": "nope", "input": {}}, 404, "model_not_found", "'nope'"),
        (JOBS, {"model": "tiny-text", "input": {"prompt": "a", "model": "b"}}, 400, "invalid_value", "input.model"),
        (JOBS, {"model": "tiny-text", "input": {"prompt": "a", "model": [1]}}, 400, "invalid_value", "input.model"),
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
    ("fields", "param", "message"),
    [
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": [-1]}, "prompt", "'prompt.0' is -1: .* greater than or equal to 0"),
        ({"prompt": [2**31]}, "prompt", "'prompt.0' is 2147483648: .* less than"),
        ({"prompt": [0, 29]}, "prompt", "'prompt' names token 29, but tiny-text has 29 tokens; .* 0 to 28"),
        ({"prompt": [0, "a"]}, "prompt", "'prompt.1' is 'a'"),
        ({"prompt": [True]}, "prompt", "'prompt.0' is True"),
        ({"prompt": {}}, "prompt", "'prompt' is {}: give a text, a list of token ids, or a list of texts or of lists"),
        ({"prompt": ["a", ""]}, "prompt", "'prompt.1' is '': .* at least 1 character"),
        ({"prompt": ["a", 1]}, "prompt", "'prompt.1' is 1: .* valid string"),
        ({"prompt": [[0], "a"]}, "prompt", "'prompt.1' is 'a': .* valid list"),
        ({"prompt": [[0], [1, -1]]}, "prompt", "'prompt.1.1' is -1: .* greater than or equal to 0"),
        ({"prompt": [[0], []]}, "prompt", "'prompt.1' is \\[\\]: .* at least 1 item"),
        ({"prompt": ["a"] * 65}, "prompt", "at most 64 items"),
        ({"prompt": [0] * 65}, "prompt", "65 tokens .* fewer than 64 tokens"),
        ({"num_beams": 17}, "num_beams", "less than or equal to 16"),
        ({"num_beams": 0}, "num_beams", "greater than or equal to 1"),
        ({"num_beams": 2, "n": 3}, "num_beams", "n is 3; ask for at most as many texts as beams"),
        ({"num_beams": 2, "max_tokens": 0, "echo": True}, "num_beams", "beams need a token to search"),
        ({"length_penalty": 11}, "length_penalty", "less than or equal to 10"),
        ({"early_stopping": "maybe"}, "early_stopping", "'maybe': input should be False, True or 'never'"),
        ({"min_p": -0.1}, "min_p", "greater than or equal to 0"),
        ({"min_p": 1.1}, "min_p", "less than or equal to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
        ({"repetition_penalty": 101}, "repetition_penalty", "less than or equal to 100"),
        ({"presence_penalty": -2.1}, "presence_penalty", "greater than or equal to -2"),
        ({"presence_penalty": 2.1}, "presence_penalty", "less than or equal to 2"),
        ({"frequency_penalty": -2.1}, "frequency_penalty", "greater than or equal to -2"),
        ({"frequency_penalty": 2.1}, "frequency_penalty", "less than or equal to 2"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size", "greater than or equal to 0"),
        ({"no_repeat_ngram_size": 65}, "no_repeat_ngram_size", "less than or equal to 64"),
        ({"ignore_eos": 1}, "ignore_eos", "valid boolean"),
        ({"echo": "yes"}, "echo", "valid boolean"),
        ({"logprobs": -1}, "logprobs", "greater than or equal to 0"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"logprobs": True}, "logprobs", "valid integer"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"n": 2, "best_of": 3}, None, "best_of is 3; only n \\(2\\) can be had"),
        ({"best_of": 2}, None, "best_of is 2"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "'logit_bias.a'"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "'logit_bias.-1'"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "'logit_bias.1' is 101: .* less than or equal to 100"),
        ({"logit_bias": {"1": -101}}, "logit_bias", "'logit_bias.1' is -101: .* greater than or equal to -100"),
        ({"logit_bias": {"29": 1}}, "logit_bias", "'logit_bias' names token 29, .* has 29 tokens; .* 0 to 28"),
        ({"logit_bias": {str(token): 0 for token in range(1025)}}, "logit_bias", "at most 1024 items"),
        ({"logit_bias": [1]}, "logit_bias", "valid dictionary"),
        ({"stop_token_ids": [29]}, "stop_token_ids", "'stop_token_ids' names token 29, .* has 29 tokens; .* 0 to 28"),
        ({"stop_token_ids": [0] * 65}, "stop_token_ids", "at most 64 items"),
        ({"stop_token_ids": 3}, "stop_token_ids", "valid list"),
        ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        ({"max_tokens": 10**40}, "max_tokens", "less than or equal to 2147483647"),
        ({"max_tokens": 0}, "max_tokens", "'max_tokens' is 0, which writes nothing; .* set echo to true"),
        ({"max_new_tokens": 0}, "max_new_tokens", "'max_new_tokens' is 0, which writes nothing"),
        ({"max_new_tokens": 33}, "max_new_tokens", "'max_new_tokens' is 33, but tiny-text writes at most 32"),
        ({"prompt": "abc", "max_length": 0}, "max_length", "greater than or equal to 1"),
        ({"prompt": "abc", "max_length": 2}, "max_length", "'max_length' is 2, .* has 3 tokens; set .* more than 3"),
        ({"prompt": "abc", "max_length": 3}, "max_length", "'max_length' is 3 \\(0 behind .*, which writes nothing"),
        ({"prompt": "abc", "max_length": 36}, "max_length", "'max_length' is 36 \\(33 behind .* at most 32"),
        ({"prompt": "a" * 60, "max_length": 70}, "max_length", "60 tokens .* 70 \\(10 behind .* at most 64 or shorten"),
        ({"prompt": "a" * 64, "echo": True}, "max_tokens", "64 tokens .* set max_tokens to at most 0 or shorten"),
        ({"max_tokens": 4, "max_new_tokens": 4}, None, "only one of max_tokens, max_new_tokens and max_length"),
        ({"max_length": 4, "max_new_tokens": 4}, None, "only one of max_tokens, max_new_tokens and max_length"),
        ({"min_tokens": 17}, "min_tokens", "'min_tokens' is 17, but 'max_tokens' is 16; lower .* or raise max_tokens"),
        ({"min_length": 9, "max_tokens": 7}, "min_length", "'min_length' is 9 \\(8 behind .*'max_tokens' is 7"),
        ({"min_tokens": 6, "max_length": 6}, "min_tokens", "'min_tokens' is 6, but 'max_length' is 6 \\(5 behind"),
        ({"min_tokens": 1, "min_length": 1}, None, "only one of min_tokens and min_length"),
        ({"min_tokens": -1}, "min_tokens", "greater than or equal to 0"),
        ({"min_length": -1}, "min_length", "greater than or equal to 0"),
    ],
    ids=lambda value: repr(value)[:50],
)
@pytest.mark.parametrize("route", [TEXT, JOBS])
def test_a_text_parameter_out_of_range_is_refused_with_its_range(client, redis, route, fields, param, message):
    before = sorted(redis.keys())
    given = {"prompt": "a", **fields}
    response = client.post(route, json=given if route == TEXT else {"model": "tiny-text", "input": given})
    error = response.get_json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
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
        (b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}", "'prompt.0.0'"),
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


@pytest.mark.parametrize(
    "given_id", ["", "two words", "x" * 129, "ümlaut", "a\r\nset-cookie: b=c", "a\n", "a\0", "\x1b[2J"]
)
def test_a_request_id_that_is_no_token_is_replaced(client, given_id):
    response = client.get("/healthz", environ_base={"HTTP_X_REQUEST_ID": given_id.encode().decode("latin-1")})
    assert "set-cookie" not in response.headers
    assert response.headers["x-request-id"] != given_id
    assert len(response.headers["x-request-id"]) == 32


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
FIELDS = sorted(set(CompletionBody.model_fields) - {"stream"})
TOKENS = st.lists(st.integers(0, 30), max_size=9) | st.dictionaries(st.integers(0, 30).map(str), st.integers(-9, 9))
LIKELY = st.just("tiny-text") | st.integers(-1, 40) | st.booleans() | st.text("ab ", max_size=9) | TOKENS | JSON


@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=JSON
    | st.dictionaries(st.sampled_from(FIELDS), LIKELY)
    | st.fixed_dictionaries({"prompt": LIKELY}, optional={field: LIKELY for field in FIELDS if field != "prompt"})
)
def test_no_json_makes_the_server_fail(client, working, body):
    response = client.post(TEXT, data=json.dumps(body))
    assert response.status_code in (200, 400, 404)


@pytest.fixture
def working(worker):
    with worker.working():
        yield


def test_a_prompt_and_fields_contradict_each_other(client):
    answer = client.post("/v1/completions", json={"model": "tiny-text", "prompt": "abc", "fields": {"genre": "a"}})
    assert answer.status_code == 400
    assert "not both" in answer.json["error"]["message"]


def test_fields_for_a_model_without_any_are_refused(client):
    answer = client.post("/v1/completions", json={"model": "tiny-text", "fields": {"genre": "a"}})
    assert answer.status_code == 400
    assert "give it a 'prompt'" in answer.json["error"]["message"]

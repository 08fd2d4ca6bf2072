"""Errors: their answers, their records in RQ, and that no traceback reaches a client."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import errors
from contracts.errors import (
    EngineFailed,
    InvalidRequest,
    JobCancelled,
    JobExpired,
    JobTimedOut,
    KamishibaiError,
    LeaseLost,
    NotReady,
    StoreError,
    from_record,
)

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KamishibaiError)]
RECORDED = [InvalidRequest, JobCancelled, JobExpired, EngineFailed, LeaseLost, JobTimedOut, NotReady]


def test_the_tree_in_the_documentation_is_the_one_in_the_code():
    table = {}
    for line in errors.__doc__.splitlines():
        words = line.strip("│├└─ ").split()
        if len(words) == 4 and words[1].isdecimal():
            table[words[0]] = (int(words[1]), words[2], words[3] == "yes")
    assert table == {kind.__name__: (kind.status, kind.code, kind.retryable) for kind in ALL if kind != KamishibaiError}


def test_codes_are_different():
    assert len({kind.code for kind in ALL}) == len(ALL)


@pytest.mark.parametrize("kind", ALL)
def test_the_body_is_openais(kind):
    body = kind("It is so.", param="n").body()
    assert body == {"error": {"message": "It is so.", "type": kind.type, "param": "n", "code": kind.code}}
    of_clients = "rate_limit_error" if kind.status == 429 else "invalid_request_error"
    assert kind.type == (of_clients if kind.status < 500 else "server_error")


@given(kind=st.sampled_from(RECORDED), message=st.text().filter(lambda text: "AbandonedJobError" not in text))
def test_a_record_gives_the_same_error_back(kind, message):
    record = kind(message).record()
    assert "\n" not in record
    again = from_record(record)
    assert (type(again), again.message) == (kind, kind(message).message)


TRACEBACK = 'Traceback (most recent call last):\n  File "/srv/secret.py", line 1, in <module>\nValueError: secret'


@pytest.mark.parametrize(
    "text",
    [
        TRACEBACK,
        "",
        "secret",
        json.dumps("secret"),
        json.dumps({"code": "secret", "message": "secret"}),
        json.dumps({"code": ["timeout"], "message": "secret"}),
        json.dumps({"code": "timeout", "text": "secret"}),
        json.dumps([{"secret": 1}]),
        "[" * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_a_record_of_somebody_elses_shows_nothing_of_itself(text):
    error = from_record(text)
    assert type(error) is EngineFailed
    assert "secret" not in json.dumps(error.body())
    assert "log" in error.message


def test_rqs_abandoned_jobs_are_lost_leases_that_may_be_sent_again():
    error = from_record("Moved to FailedJobRegistry, due to AbandonedJobError, at 2026-01-01 00:00:00")
    assert type(error) is LeaseLost
    assert error.retryable
    assert "AbandonedJobError" not in error.message
    assert "send the request again" in error.message


@given(st.text() | st.builds(json.dumps, st.dictionaries(st.sampled_from(["code", "message"]), st.text() | st.none())))
def test_any_text_is_some_error_of_ours(text):
    assert isinstance(from_record(text), KamishibaiError)


@given(st.text(st.characters(codec=None)) | st.text("ab\n\ud800日\u2028", min_size=3000, max_size=3100))
def test_every_message_is_one_bounded_line_that_can_be_written_anywhere(text):
    for message in (InvalidRequest(text).message, str(StoreError(text)), str(EngineFailed(text))):
        assert len(message) <= errors.MOST_CHARACTERS
        assert message.isprintable()
        message.encode()


def test_of_a_long_message_value_and_remedy_are_left():
    message = InvalidRequest(f"'n' is {'9' * 5000}; ask for less").message
    assert message.startswith("'n' is 999")
    assert message.endswith("999; ask for less")
    assert InvalidRequest("no", param="x" * 5000).param == "x" * 50 + " ... " + "x" * 45

"""Log lines: bounded, without keys, and with the fields that they were given."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import MOST_CHARACTERS
from contracts.logs import FIELDS, MOST_TRACEBACK_CHARACTERS, JsonLines, TextLines
from contracts.settings import Settings

KEY = "kmb_0123456789ab_" + "5ec2e7" * 10 + "0000"


def lines_of(formatter, message, *args, **named):
    """What one call of a logger writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    log = logging.Logger("kamishibai.test")
    log.addHandler(handler)
    log.info(message, *args, **named)
    return written.getvalue()


def json_of(message, *args, always=None, **named):
    written = lines_of(JsonLines(always or {}), message, *args, **named)
    assert written.count("\n") == 1
    return json.loads(written)


def test_a_line_of_json_has_time_level_logger_message_and_fields():
    line = json_of("%d jobs", 3, extra={"job_id": "j", "request_id": None, "seconds": 0.5}, always={"worker": "w"})
    assert abs((datetime.now(UTC) - datetime.fromisoformat(line.pop("time"))).total_seconds()) < 5
    assert isinstance(line.pop("process"), int)
    assert line == {
        "level": "info",
        "logger": "kamishibai.test",
        "message": "3 jobs",
        "job_id": "j",
        "seconds": 0.5,
        "worker": "w",
    }


def test_times_are_rfc_3339_in_utc():
    assert json_of("x")["time"][-1] == "Z"


def test_fields_of_others_are_left_out():
    assert "prompt" not in json_of("x", extra={"prompt": "a secret"})
    assert "a secret" not in lines_of(TextLines({}), "x", extra={"prompt": "a secret"})


def test_a_line_of_text_ends_with_its_fields():
    written = lines_of(TextLines({"worker": "w"}), "done", extra={"request_id": "r", "job_id": "j"})
    assert written.endswith(" INFO " + written.split(" INFO ")[1])
    assert written.endswith("kamishibai.test: done request_id=r job_id=j worker=w\n")


@pytest.mark.parametrize("formatter", [TextLines({}), JsonLines({})])
@given(text=st.text(st.characters(codec=None)) | st.just("\x1b[2J\r\n" * 9000))
def test_whatever_is_quoted_a_line_is_one_and_bounded(formatter, text):
    written = lines_of(formatter, "it said %s", text)
    assert len(written.splitlines()) == 1
    assert len(written) < 6 * MOST_CHARACTERS
    assert "\x1b" not in written


@pytest.mark.parametrize("formatter", [TextLines({}), JsonLines({})])
def test_a_key_is_shown_by_its_id_alone(formatter):
    try:
        raise ValueError(f"bad header {KEY}")
    except ValueError:
        written = lines_of(formatter, "refused %s", f"Bearer {KEY}", exc_info=True)
    assert "5ec2e7" not in written
    assert "kmb_0123456789ab_..." in written


def test_a_traceback_is_one_bounded_field():
    try:
        raise ValueError("\n".join(["x" * 100] * 1000))
    except ValueError:
        line = json_of("failed", exc_info=True)
    assert line["traceback"].startswith("Traceback")
    assert len(line["traceback"]) < MOST_TRACEBACK_CHARACTERS + 10


@pytest.mark.parametrize(
    ("log_format", "log_requests", "expected"),
    [("text", "auto", False), ("json", "auto", True), ("text", "on", True), ("json", "off", False)],
)
def test_lines_of_requests_come_with_json_unless_told_otherwise(log_format, log_requests, expected):
    assert Settings(log_format=log_format, log_requests=log_requests).logs_requests is expected


def test_no_field_is_an_attribute_that_logging_has_of_its_own():
    record = logging.LogRecord("x", logging.INFO, "x", 1, "x", None, None)
    assert [name for name in FIELDS if hasattr(record, name)] == []

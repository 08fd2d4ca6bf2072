"""Log lines, for people or as JSON for machines: one bounded line per event, without keys. In text, tracebacks follow.

A line's fields are given as `extra`; those that lines of ours may have are FIELDS.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from contracts.errors import one_line
from contracts.settings import Settings

REQUESTS = "kamishibai.requests"  # the logger of lines that come once per request or job
FIELDS = (
    "request_id",
    "job_id",
    "worker",
    "model",
    "method",
    "route",
    "status",
    "outcome",
    "code",
    "waited_seconds",
    "seconds",
)
MOST_TRACEBACK_CHARACTERS = 10_000

_SECRET = re.compile(r"(kmb_[0-9a-f]{12}_)[0-9a-f]+")


class TextLines(logging.Formatter):
    """`always` are fields that every line has, if it does not have its own."""

    def __init__(self, always: dict[str, str | None]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
        self._always = always

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        record.message = _message(record)
        fields = (f" {name}={value}" for name, value in _fields(record, self._always).items())
        return super().formatMessage(record) + "".join(fields)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        return _traceback(super().formatException(ei))


class JsonLines(logging.Formatter):
    """As TextLines. Times are RFC 3339 in UTC."""

    def __init__(self, always: dict[str, str | None]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": _message(record),
            **_fields(record, self._always),
        }
        if record.exc_info:
            line["traceback"] = _traceback(self.formatException(record.exc_info))
        return json.dumps(line)


def configuration(settings: Settings, level: str = "INFO", **always: str | None) -> dict[str, Any]:
    """For `logging.config.dictConfig`: all lines from this level on to stderr."""
    formatter = JsonLines if settings.log_format == "json" else TextLines
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter, "always": always}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "root": {"level": level, "handlers": ["console"]},
        "loggers": {REQUESTS: {"level": "INFO" if settings.logs_requests else "WARNING"}},
    }


def _message(record: logging.LogRecord) -> str:
    return one_line(_SECRET.sub(r"\1...", record.getMessage()))


def _traceback(text: str) -> str:
    text = _SECRET.sub(r"\1...", text)
    if len(text) <= MOST_TRACEBACK_CHARACTERS:
        return text
    half = MOST_TRACEBACK_CHARACTERS // 2
    return f"{text[:half]}\n...\n{text[-half:]}"


def _fields(record: logging.LogRecord, always: dict[str, str | None]) -> dict[str, Any]:
    found = {name: getattr(record, name, always.get(name)) for name in FIELDS}
    return {name: value for name, value in found.items() if value is not None}

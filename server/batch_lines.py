"""Lines of batches: those of the file that a client has sent, and those that answer them. JSON, one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from contracts.errors import InvalidRequest, KamishibaiError
from contracts.requests import BatchEndpoint, BatchLine, describe
from server.admission import decode
from server.batches import BatchFault

MOST_LINES = 50_000
MOST_FAULTS = 100  # that are told of one file

Stop = Literal["batch_expired", "batch_cancelled"]
_WHY_STOPPED: dict[Stop, str] = {
    "batch_expired": "The batch's completion window was over before this line had been answered.",
    "batch_cancelled": "The batch was cancelled before this line had been answered.",
}
_SKIPPED_BYTES = 1 << 16


class RawLine(NamedTuple):
    """A line as it stands in the file."""

    number: int  # counted from 1, empty lines included
    content: bytes | None  # None: it is too long


class Line(NamedTuple):
    """What a line asks for."""

    number: int
    custom_id: str
    body: dict[str, Any]


class BadLine(Exception):
    """A line that makes its whole file one that cannot be run."""

    def __init__(self, fault: BatchFault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def raw_lines(path: Path, most_bytes: int) -> Iterator[RawLine]:
    """All lines but empty ones; no more than one is held in memory. Raises OSError."""
    with path.open("rb") as file:
        number = 0
        while content := file.readline(most_bytes + 1):
            number += 1
            if len(content) > most_bytes and not content.endswith(b"\n"):
                while content and not content.endswith(b"\n"):
                    content = file.readline(_SKIPPED_BYTES)
                yield RawLine(number, None)
            elif content.strip():
                yield RawLine(number, content)


def parse_line(line: RawLine, endpoint: BatchEndpoint, most_bytes: int) -> Line:
    """Raises BadLine."""
    if line.content is None:
        raise _bad(line, "line_too_long", f"The line has more than {most_bytes} bytes; so long may a body be.")
    try:
        found = BatchLine.model_validate(decode(line.content))
    except InvalidRequest as error:
        raise _bad(line, "invalid_json_line", error.message.replace("The body", "The line", 1)) from None
    except ValidationError as error:
        place = error.errors(include_url=False, include_input=False)[0]["loc"]
        raise _bad(line, "invalid_line", describe(error), str(place[0]) if place else None) from None
    if found.url != endpoint:
        raise _bad(line, "invalid_line", f"'url' is {found.url[:80]!r}, but the batch is for {endpoint}.", "url")
    return Line(line.number, found.custom_id, found.body)


class FileCheck:
    """The look at a whole file before any of it runs. Of each `custom_id` only a digest is kept."""

    def __init__(self, endpoint: BatchEndpoint, most_line_bytes: int) -> None:
        self._endpoint = endpoint
        self._most_line_bytes = most_line_bytes
        self._seen: set[bytes] = set()
        self.total = 0
        self.faults: list[BatchFault] = []

    @property
    def enough(self) -> bool:
        """No more of the file need be read."""
        return self.total > MOST_LINES or len(self.faults) >= MOST_FAULTS

    def look_at(self, raw: RawLine) -> None:
        self.total += 1
        try:
            line = parse_line(raw, self._endpoint, self._most_line_bytes)
            digest = blake2b(line.custom_id.encode(), digest_size=16).digest()
            if digest in self._seen:
                given = repr(line.custom_id[:80])
                raise _bad(raw, "duplicate_custom_id", f"'custom_id' is {given}, as in an earlier line.", "custom_id")
            self._seen.add(digest)
        except BadLine as bad:
            self.faults.append(bad.fault)

    def end(self) -> None:
        """All of it has been looked at, or enough."""
        if self.total > MOST_LINES:
            message = f"The file has more than {MOST_LINES} lines; cut it into several batches."
            self.faults.insert(0, BatchFault(code="too_many_lines", message=message))
        if self.total == 0:
            self.faults.append(BatchFault(code="empty_file", message="The file has no line with a request."))


class Answer(NamedTuple):
    """What became of a line."""

    number: int
    failed: bool
    written: bytes  # a line of the output file, or, if it failed, of the error file


def success(batch_id: str, line: Line, job_id: str, body: Mapping[str, Any]) -> Answer:
    return _answer(batch_id, line, {"status_code": 200, "request_id": job_id, "body": body}, None)


def failure(batch_id: str, line: Line, job_id: str, error: KamishibaiError) -> Answer:
    return _answer(batch_id, line, {"status_code": error.status, "request_id": job_id, "body": error.body()}, None)


def stopped(batch_id: str, line: Line, why: Stop) -> Answer:
    return _answer(batch_id, line, None, {"code": why, "message": _WHY_STOPPED[why]})


def number_in(batch_id: str, written: bytes) -> int | None:
    """Which line a written one answers; None for one that is not ours or was not written to its end."""
    head, end = _head(batch_id).encode(), written.find(b'"', 9)
    digits = written[len(head) : end]
    return int(digits) if written.startswith(head) and written.endswith(b"}\n") and digits.isdigit() else None


def _answer(batch_id: str, line: Line, response: Any, error: Any) -> Answer:
    told = {"id": f"{_request_id(batch_id)}{line.number}", "custom_id": line.custom_id}
    failed = response is None or response["status_code"] != 200
    return Answer(line.number, failed, json.dumps(told | {"response": response, "error": error}).encode() + b"\n")


def _request_id(batch_id: str) -> str:
    return f"batch_req_{batch_id.removeprefix('batch_')}_"


def _head(batch_id: str) -> str:
    """What a written line begins with. The number comes next, so that no line need be parsed to find it."""
    return f'{{"id": "{_request_id(batch_id)}'


def _bad(line: RawLine, code: str, message: str, param: str | None = None) -> BadLine:
    return BadLine(BatchFault(code=code, message=message, param=param, line=line.number))

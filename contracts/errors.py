"""Every error that one process tells another, or the client.

KamishibaiError                 status  code                  retryable
├── InvalidRequest                 400  invalid_value         no
│   ├── BodyTooLarge               413  body_too_large        no
│   ├── BodyTooSlow                408  body_too_slow         no
│   ├── RangeNotSatisfiable        416  range_not_satisfiable no
│   ├── IdempotencyConflict        422  idempotency_conflict  no
│   ├── DeadlineUnreachable        422  deadline_unreachable  no
│   └── NewerRequest               503  newer_request         yes
├── Unauthenticated                401  invalid_api_key       no
├── Forbidden                      403  forbidden             no
├── NotFound                       404  not_found             no
│   └── UnknownModel               404  model_not_found       no
├── JobCancelled                   409  cancelled             no
├── JobExpired                     504  expired               no
├── RateLimited                    429  rate_limit_exceeded   yes
│   ├── QueueFull                  429  queue_full            yes
│   ├── TooManyJobs                429  too_many_jobs         yes
│   └── TooManyBatches             429  too_many_batches      yes
├── EngineFailed                   500  engine_failed         no
│   └── LeaseLost                  500  worker_lost           yes
├── JobTimedOut                    504  timeout               no
├── NotReady                       503  no_worker             yes
├── StorageFull                    503  storage_full          yes
└── QueueUnavailable               503  queue_unavailable     yes

StoreError (local, never over HTTP): a bundle or a store that cannot be used, with all its faults named at once.

A message is one line of at most MOST_CHARACTERS, whatever the values that it names.
"""

from __future__ import annotations

import json
from typing import ClassVar

MOST_CHARACTERS = 2000
MOST_PARAM_CHARACTERS = 100


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text without line breaks, control characters and halves of surrogate pairs, which are shown as escapes.

    Of one that is too long the middle is left out: the beginning names the value, the end the remedy.
    """
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-(most // 2) + 5 :]}"
    if text.isprintable():
        return text
    escaped = (character if character.isprintable() else _escaped(character) for character in text)
    return one_line("".join(escaped), most)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


class KamishibaiError(Exception):
    """An error with an HTTP status and a stable code; `retryable` says whether the same request may succeed later."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        self.message = one_line(message)
        self.param = None if param is None else one_line(param, MOST_PARAM_CHARACTERS)
        super().__init__(self.message)

    def body(self) -> dict[str, object]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def record(self) -> str:
        """One line for RQ's failure record; `from_record` reads it back."""
        return json.dumps({"code": self.code, "message": self.message})


class InvalidRequest(KamishibaiError):
    status, code, type = 400, "invalid_value", "invalid_request_error"


class BodyTooLarge(InvalidRequest):
    status, code = 413, "body_too_large"


class BodyTooSlow(InvalidRequest):
    status, code = 408, "body_too_slow"


class RangeNotSatisfiable(InvalidRequest):
    status, code = 416, "range_not_satisfiable"


class IdempotencyConflict(InvalidRequest):
    status, code = 422, "idempotency_conflict"


class NewerRequest(InvalidRequest):
    """A job that a newer version of the product has made, while processes are upgraded one by one."""

    status, code, type, retryable = 503, "newer_request", "server_error", True


class DeadlineUnreachable(InvalidRequest):
    status, code = 422, "deadline_unreachable"


class Unauthenticated(KamishibaiError):
    status, code, type = 401, "invalid_api_key", "invalid_request_error"


class Forbidden(KamishibaiError):
    status, code, type = 403, "forbidden", "invalid_request_error"


class NotFound(KamishibaiError):
    status, code, type = 404, "not_found", "invalid_request_error"


class UnknownModel(NotFound):
    code = "model_not_found"


class JobCancelled(KamishibaiError):
    status, code, type = 409, "cancelled", "invalid_request_error"


class JobExpired(KamishibaiError):
    status, code = 504, "expired"


class RateLimited(KamishibaiError):
    status, code, type, retryable = 429, "rate_limit_exceeded", "rate_limit_error", True

    def __init__(self, message: str, *, param: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_seconds = retry_after_seconds  # None: nobody knows


class QueueFull(RateLimited):
    code = "queue_full"


class TooManyJobs(RateLimited):
    code = "too_many_jobs"


class TooManyBatches(RateLimited):
    code = "too_many_batches"


class EngineFailed(KamishibaiError):
    code = "engine_failed"


class LeaseLost(EngineFailed):
    code, retryable = "worker_lost", True


class JobTimedOut(KamishibaiError):
    status, code = 504, "timeout"


class NotReady(KamishibaiError):
    status, code, retryable = 503, "no_worker", True


class StorageFull(KamishibaiError):
    status, code, retryable = 503, "storage_full", True


class QueueUnavailable(KamishibaiError):
    status, code, retryable = 503, "queue_unavailable", True


class StoreError(Exception):
    """A bundle or store that cannot be used; the message lists every fault found."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


_RECORDED: dict[str, type[KamishibaiError]] = {
    error.code: error
    for error in (
        InvalidRequest,
        NewerRequest,
        JobCancelled,
        JobExpired,
        EngineFailed,
        LeaseLost,
        JobTimedOut,
        NotReady,
    )
}


def from_record(text: str) -> KamishibaiError:
    """The error behind a failure record of RQ.

    A record that is not ours (a stock worker's traceback, RQ's own cleanup) becomes a plain EngineFailed: clients never
    see a traceback.
    """
    if "AbandonedJobError" in text:
        return LeaseLost("The worker that ran this job disappeared and no attempt is left; send the request again.")
    try:
        record = json.loads(text)
        return _RECORDED[record["code"]](str(record["message"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return EngineFailed("The job failed in the worker; the worker's log has the details.")

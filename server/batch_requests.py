"""What the lines of batches ask for: the requests and the answers of the live routes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from redis import RedisError

from contracts.errors import InvalidRequest, KamishibaiError
from contracts.jobs import JobQueue, JobRecord
from contracts.requests import (
    MAX_SEED,
    BatchEndpoint,
    ClassifyBody,
    ClassifyRequest,
    CompletionBody,
    ImageBody,
    ImageRequest,
    TextRequest,
)
from server.admission import Admission, parse
from server.batch_lines import Answer, Line, failure, success
from server.responses import result_body

log = logging.getLogger(__name__)


class BatchRequests:
    """For several threads."""

    def __init__(self, admission: Admission, jobs: JobQueue) -> None:
        self._admission = admission
        self._jobs = jobs
        self._lock = threading.Lock()  # admission is made for a server's single thread

    def request(
        self, endpoint: BatchEndpoint, batch_id: str, line: Line
    ) -> TextRequest | ImageRequest | ClassifyRequest:
        """What is put on the queue for a line; the same after a restart, while the same version is served.

        Raises the KamishibaiErrors of the live route, and redis.RedisError.
        """
        try:
            with self._lock:
                return self._admit(endpoint, line.body, seed_of(batch_id, line.number))
        except (KamishibaiError, RedisError):
            raise
        except Exception:
            log.exception("line %d of %s failed in a way that nobody foresaw", line.number, batch_id)
            raise KamishibaiError("The line failed in the server; its log has the details.") from None

    def answer(self, batch_id: str, line: Line, record: JobRecord) -> Answer:
        """What is written of an ended job. Raises NotFound for pictures past their lifetime, and redis.RedisError."""
        try:
            body: Mapping[str, Any] = result_body(record, self._jobs)
        except KamishibaiError as error:
            if record.status == "succeeded" and record.result is not None:
                raise
            return failure(batch_id, line, record.id, error)
        return success(batch_id, line, record.id, body)

    def _admit(
        self, endpoint: BatchEndpoint, fields: dict[str, Any], seed: int
    ) -> TextRequest | ImageRequest | ClassifyRequest:
        if endpoint == "/v1/classify":
            return self._admission.classify(parse(ClassifyBody, fields))
        if endpoint == "/v1/images/generations":
            pictures = parse(ImageBody, fields)
            if pictures.response_format == "url":
                raise InvalidRequest(
                    "'response_format' is 'url', but a batch writes its pictures into a file; leave it out",
                    param="response_format",
                )
            drawn = {} if pictures.latents else {"seed": _or(pictures.seed, seed)}
            return self._admission.image(pictures.model_copy(update=drawn))
        text = parse(CompletionBody, fields)
        if text.stream:
            raise InvalidRequest("'stream' is true, but a batch is written to a file; leave it out", param="stream")
        return self._admission.text(text.model_copy(update={"seed": _or(text.seed, seed)}))


def seed_of(batch_id: str, number: int) -> int:
    """The seed of a line that names none."""
    return int.from_bytes(_digest(batch_id, number)[:8]) & MAX_SEED


def job_id_of(batch_id: str, number: int) -> str:
    """Always the same: so a clerk that starts again finds the jobs of the one before."""
    return _digest(batch_id, number)[8:].hex()


def _digest(batch_id: str, number: int) -> bytes:
    return blake2b(f"{batch_id} {number}".encode(), digest_size=24).digest()


def _or(given: int | None, otherwise: int) -> int:
    return otherwise if given is None else given

"""An order: a request on its way to the queue, with all that is known of it beside what it asks for."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.requests import WRITTEN, Count, Priority, Request

MAX_META_BYTES = 1 << 16  # of RQ's `meta` of a job: all metadata that a client may give fits in
MAX_IDEMPOTENCY_CHARACTERS = 255  # of what a client writes as a key
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class JobMeta(BaseModel):
    """RQ's `meta` of a job of ours."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    owner: str | None = None  # id of the API key that made it; None: made while there were no keys
    request_id: Annotated[str, Field(pattern=f"^{REQUEST_ID.pattern}$")] | None = None  # of its HTTP request
    payload: Annotated[str, Field(max_length=64)] | None = None  # what its request is called: who can read it
    work: Count = 0  # tokens or pictures, at most: what it weighs in its queue
    deadline: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None  # Unix seconds
    metadata: dict[str, str] | None = None  # the client's own words
    webhook: str | None = None  # URL that is told of its end

    @classmethod
    def read(cls, meta: bytes | None) -> JobMeta:
        """An empty one for what is none of ours."""
        try:
            return cls.model_validate_json(meta) if meta and len(meta) <= MAX_META_BYTES else cls()
        except ValidationError:
            return cls()

    def write(self) -> str:
        return self.model_dump_json(exclude_defaults=True)


def new_job_id() -> str:
    return uuid.uuid4().hex


class Idempotency(NamedTuple):
    """The same key with the same digest is the same order."""

    key: str  # hex digest of what the client wrote
    digest: str  # of the body that it came with


@dataclass(frozen=True, kw_only=True)
class Order:
    """Times are in seconds. `listed` puts the job among those that its owner can list."""

    request: Request
    result_seconds: int
    timeout_seconds: int
    job_id: str = field(default_factory=new_job_id)
    priority: Priority = "normal"
    owner: str | None = None
    request_id: str | None = None
    deadline: float | None = None  # Unix seconds
    metadata: dict[str, str] | None = None
    webhook: str | None = None
    listed: bool = False
    idempotency: Idempotency | None = None

    @property
    def queue(self) -> str:
        return self.request.target.queue(self.priority)

    @cached_property
    def meta(self) -> JobMeta:
        return JobMeta(
            owner=self.owner,
            request_id=self.request_id,
            payload=WRITTEN[self.request.task],
            work=self.request.work,
            deadline=self.deadline,
            metadata=self.metadata,
            webhook=self.webhook,
        )


@dataclass(frozen=True)
class OrderLimits:
    """What is refused; 0 refuses nothing. The first three are of all that waits for one engine, the others of one
    owner."""

    queued_jobs: int = 0
    queued_work: int = 0
    queued_bytes: int = 0
    jobs_per_minute: int = 0
    unfinished_jobs: int = 0


NO_LIMITS = OrderLimits()

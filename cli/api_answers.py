"""What a client of ours reads of a server's answers; whatever else they hold is passed over."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.bundle import Task
from contracts.errors import EngineFailed
from contracts.prompt_fields import PromptFields
from contracts.requests import describe


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Limits(Answer):
    context_tokens: int | None = None


class Model(Answer):
    id: str
    version: int
    task: Task
    limits: Limits
    prompt_fields: PromptFields | None = None


class Choice(Answer):
    text: str
    finish_reason: str
    fields: dict[str, str] = {}
    marked_text: str | None = None


class Completion(Answer):
    choices: tuple[Choice]
    system_fingerprint: str


class Error(Answer):
    code: str
    message: str


class Job(Answer):
    status: str
    result: Completion | None = None
    error: Error | None = None


class Made(Answer):
    """What became of a job of a bulk."""

    id: str | None = None
    error: Error | None = None


class Bulk(Answer):
    data: list[Made]


Kind = TypeVar("Kind", bound=Answer)


def read(kind: type[Kind], answer: Any) -> Kind:
    """Raises EngineFailed for an answer of another form."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise EngineFailed(f"the server's answer cannot be read, is it a newer one? {describe(error)}") from None

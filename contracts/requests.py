"""Requests: what clients send (bodies) and what jobs carry (requests, everything fixed). One definition serves HTTP
validation, the queue payload and the worker.

A body is what a person writes: names, text, defaults. Admission turns it into a request: token ids, one version and
variant, a seed. A request can be run by any worker that serves its `target`, today or after a crash, with equal output.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from contracts.errors import InvalidRequest

MAX_SEED = 2**63 - 1
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_COUNT = 2**31 - 1  # what every tensor and message can hold

Seed = Annotated[int, Field(ge=0, le=MAX_SEED, description="Same seed, same request, same output. Drawn if absent.")]
TokenId = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class _Body(_Frozen):
    """What a client writes: a field that is null is a field left out, as with OpenAI."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None or name not in cls.model_fields}


class TextParameters(_Frozen):
    """How text is drawn; shared by the HTTP body and the job."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_COUNT, description="Tokens to generate at most.")] = 16
    temperature: Annotated[float, Field(ge=0, le=100, description="0 takes the likeliest token.")] = 1.0
    top_k: Annotated[int, Field(ge=0, le=MAX_COUNT, description="Draw among the k likeliest tokens; 0 is off.")] = 0
    top_p: Annotated[float, Field(gt=0, le=1, description="Draw among the likeliest tokens of this mass.")] = 1.0


class CompletionBody(_Body, TextParameters):
    """Body of POST /v1/completions. OpenAI's other fields are accepted at their defaults."""

    model: str | None = None
    prompt: Annotated[str, Field(min_length=1)]
    stop: str | list[str] | None = None
    seed: Seed | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Literal[1] = 1
    best_of: Literal[1] = 1
    echo: Literal[False] = False
    logprobs: None = None
    suffix: None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @field_validator("stop")
    @classmethod
    def _stops_are_short(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
            raise ValueError(f"give at most {MAX_STOPS} stop strings of 1 to {MAX_STOP_CHARACTERS} characters")
        return value

    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple, however they were given."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class StreamOptions(_Frozen):
    include_usage: bool = False


class ImageBody(_Body):
    """Body of POST /v1/images/generations. OpenAI's other fields are accepted at their defaults."""

    model: str | None = None
    prompt: str | None = None  # the SDK always sends one; a DCGAN draws from its seed alone
    n: Annotated[int, Field(ge=1, description="Pictures to draw.")] = 1
    size: str = "auto"
    seed: Seed | None = None
    response_format: Literal["b64_json"] = "b64_json"
    user: str | None = None
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    output_compression: Literal[100] = 100
    output_format: Literal["png"] = "png"
    partial_images: Literal[0] = 0
    quality: Literal["auto", "standard"] = "auto"
    stream: Literal[False] = False
    style: Literal["vivid", "natural"] = "vivid"


class JobBody(_Frozen):
    """Body of POST /v1/jobs: a model and the fields of the synchronous body."""

    model: str | None = None
    input: dict[str, Any]


class Target(_Frozen):
    """What a job will run on, fixed when it is accepted."""

    model: str
    version: int
    variant: str

    @property
    def queue_name(self) -> str:
        """RQ's queue of this model, version, variant and the (so far only) priority."""
        return f"{self.model}@{self.version}/{self.variant.replace(':', '-')}/normal"


class TextRequest(TextParameters):
    """A text job: token ids in, token ids out."""

    task: Literal["text"] = "text"
    schema_version: Literal[1] = 1
    target: Target
    seed: Seed
    prompt_tokens: Annotated[tuple[TokenId, ...], Field(min_length=1, strict=False)]
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = ()
    stream: bool = False


class ImageRequest(_Frozen):
    """A picture job: `count` pictures; picture i is drawn from (seed, i)."""

    task: Literal["image"] = "image"
    schema_version: Literal[1] = 1
    target: Target
    seed: Seed
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    stream: Literal[False] = False


Request = Annotated[TextRequest | ImageRequest, Field(discriminator="task")]
_REQUEST: TypeAdapter[TextRequest | ImageRequest] = TypeAdapter(Request)


def parse_request(payload: Any) -> TextRequest | ImageRequest:
    """The request in a job's payload. Raises InvalidRequest for anything else."""
    try:
        return _REQUEST.validate_python(payload)
    except ValidationError as error:
        raise InvalidRequest(f"The job's payload is not a request this worker knows: {describe(error)}") from None


def describe(error: ValidationError, limit: int = 3) -> str:
    """What is wrong, with field and value, in one line."""
    parts = []
    for fault in error.errors(include_url=False)[:limit]:
        field = ".".join(str(part) for part in fault["loc"]) or "body"
        if fault["type"] == "extra_forbidden":
            parts.append(f"'{field}' is not a field of this request; remove it")
        elif fault["type"] == "missing":
            parts.append(f"'{field}' is missing")
        else:
            parts.append(f"'{field}' is {_short(fault['input'])}: {_lower_first(fault['msg'])}")
    return "; ".join(parts)


def _short(value: Any, limit: int = 60) -> str:
    try:
        text = repr(value)
    except RecursionError:
        return "too deep"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _lower_first(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


CompletionBody.model_rebuild()

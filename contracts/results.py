"""Results: what a finished job leaves in RQ's result, JSON in and out. The server makes HTTP bodies from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

FinishReason = Literal["stop", "length"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class TextResult(_Frozen):
    task: Literal["text"] = "text"
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


class ImageResult(_Frozen):
    """Pictures are base64 PNG, inline or, where a worker of ours drew them, as a list under `pictures_key` of Redis."""

    task: Literal["image"] = "image"
    count: int
    pictures: list[str] | None = None
    pictures_key: str | None = None


Result = Annotated[TextResult | ImageResult, Field(discriminator="task")]
RESULT: TypeAdapter[TextResult | ImageResult] = TypeAdapter(Result)

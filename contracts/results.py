"""Results: what a finished job leaves in RQ's result, JSON in and out. The server makes HTTP bodies from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from contracts.requests import Count

FinishReason = Literal["stop", "length"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class Logprobs(_Frozen):
    """OpenAI's legacy shape: one entry per token, the prompt's first where it is echoed.

    The first token of a prompt has no log-probability: nothing comes before it.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[Count]  # characters of the choice's text before the token


class Choice(_Frozen):
    """One text. `text` begins with the prompt where it is echoed."""

    text: str
    finish_reason: FinishReason
    tokens: Count  # how many were generated
    beam_score: float | None = None  # of a text found by beams: what they are ranked by
    fields: dict[str, str] | None = None  # the text's named parts, of a model that has some
    marked_text: str | None = None  # prompt and output with the markers between the parts
    logprobs: Logprobs | None = None


class TextResult(_Frozen):
    task: Literal["text"] = "text"
    choices: list[Choice]
    prompt_tokens: Count
    fingerprint: str = ""  # of the worker's bundle, variant and kernels: OpenAI's system_fingerprint


class ImageResult(_Frozen):
    """Pictures are base64 PNG inline or, where a worker of ours drew them, PNG files under `pictures_key` in Redis."""

    task: Literal["image"] = "image"
    count: Count
    fingerprint: str = ""
    pictures: list[str] | None = None
    pictures_key: str | None = None


class LabelScore(_Frozen):
    """A label and its probability."""

    label: str
    score: Annotated[float, Field(ge=0, le=1)]


class Classification(_Frozen):
    """What was said of one text."""

    labels: list[str]  # those that apply, likeliest first
    scores: list[LabelScore]  # of all labels or the likeliest, likeliest first
    tokens: Count  # that were read, special ones included
    windows: Annotated[int, Field(ge=1)] = 1  # that it was read in
    truncated: bool  # whether the text went on


class ClassifyResult(_Frozen):
    task: Literal["classify"] = "classify"
    classifications: list[Classification]  # in the order of the request's texts
    fingerprint: str = ""


Result = TextResult | ImageResult | ClassifyResult
RESULT: TypeAdapter[Result] = TypeAdapter(Annotated[Result, Field(discriminator="task")])

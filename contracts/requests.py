"""Requests: what clients send (bodies) and what jobs carry (requests, everything fixed). One definition serves HTTP
validation, the queue payload and the worker.

A body is what a person writes: names, text, defaults. Admission turns it into a request: token ids, one version and
variant, a seed. A request can be run by any worker that serves its `target`, today or after a crash, with equal output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from contracts.errors import InvalidRequest, NewerRequest, one_line

MAX_SEED = 2**63 - 1
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 64
MAX_LOGPROBS = 20
MAX_CHOICES = 16
MAX_BEAMS = 16
MAX_BIASES = 1024
MAX_COUNT = 2**31 - 1  # what every tensor and message can hold
MAX_PROMPT_TOKENS = 65_536  # also of models without a context of their own; a worker keeps and echoes all of them
MAX_PICTURES = 1024
MAX_FILE_PIXELS = 1 << 20  # of all pictures that one file holds; a worker is busy for a tenth of a second with so many
MAX_LATENT_LENGTH = 4096
MAX_COORDINATE = 100  # of a latent, either side of zero; drawn ones stay below 7
MIN_FRAME_MILLISECONDS = 20  # what is shown shorter, browsers slow down
MAX_FRAME_MILLISECONDS = 10_000
MAX_TEXTS = 64  # that one request classifies
MAX_WINDOWS = 64  # that one of them is read in
MAX_PROMPTS = 64  # of one call; each is a job
MAX_CALL_SCORES = 2_000_000  # log-probabilities that one call asks for; a server is busy for a second with so many
MAX_CALL_CHOICES = 256  # texts that one call asks for, over all prompts; a server keeps them until the last is there
MIN_FILE_SECONDS = 3600
MAX_FILE_SECONDS = 30 * 24 * 3600
MAX_CUSTOM_ID_CHARACTERS = 512
MAX_FIELDS = 100  # of an object; no body of ours has half as many
MAX_BULK = 1000  # jobs that one call makes
MAX_METADATA = 16
MAX_URL_CHARACTERS = 2048
MAX_RESULT_SECONDS = 7 * 24 * 3600

Seed = Annotated[int, Field(ge=0, le=MAX_SEED, description="Same seed, same request, same output. Drawn if absent.")]
TokenId = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
TokenIdText = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,8})$")]  # JSON's keys are text


def _refuse_many(value: Any, most: int = MAX_FIELDS) -> Any:
    """Counts before anything is looked at: a fault for each entry would take hundreds of times the body's memory."""
    if isinstance(value, dict) and len(value) > most:
        raise ValueError(f"it has {len(value)} entries; give at most {most} items")
    return value


def _refuse_number(value: Any) -> Any:
    """Python takes 0 for False and 1 for True; JSON does not."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("input should be true or false, not a number")
    return value


def _refuse_truth(value: Any) -> Any:
    """The other way round."""
    if isinstance(value, bool):
        raise ValueError("input should be a number")
    return value


Never = Annotated[Literal[False], BeforeValidator(_refuse_number)]


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        hide_input_in_errors=True,  # an exception that nobody foresaw goes to the log
    )

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, fields: Any) -> Any:
        return _refuse_many(fields)


class _Body(_Frozen):
    """What a client writes: a field that is null is a field left out, as with OpenAI."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None or name not in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(core_schema)
        fields = handler.resolve_ref_schema(described)
        for name, field in fields["properties"].items():
            if name not in fields.get("required", ()) and {"type": "null"} not in field.get("anyOf", [field]):
                kept = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
                fields["properties"][name] = {"anyOf": [field, {"type": "null"}], **kept}
        return described


class TextParameters(_Frozen):
    """How text is drawn; shared by the HTTP body and the job. docs/api.md explains each field."""

    temperature: Annotated[float, Field(ge=0, le=100, description="0 takes the likeliest token.")] = 1.0
    top_k: Annotated[int, Field(ge=0, le=MAX_COUNT, description="Draw among the k likeliest tokens; 0 is off.")] = 0
    top_p: Annotated[float, Field(gt=0, le=1, description="Draw among the likeliest tokens of this mass.")] = 1.0
    min_p: Annotated[
        float, Field(ge=0, le=1, description="Draw only tokens at least this likely, as a share of the likeliest's.")
    ] = 0.0
    repetition_penalty: Annotated[
        float, Field(gt=0, le=100, description="Divides the logits of tokens in prompt and output; 1 is off.")
    ] = 1.0
    presence_penalty: Annotated[
        float, Field(ge=-2, le=2, description="Subtracted from the logits of tokens that were written.")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Field(ge=-2, le=2, description="Subtracted for each time that a token was written.")
    ] = 0.0
    no_repeat_ngram_size: Annotated[
        int, Field(ge=0, le=64, description="No sequence of this many tokens is written twice; 0 is off.")
    ] = 0
    ignore_eos: Annotated[bool, Field(description="Write on after the end token.")] = False
    echo: Annotated[bool, Field(description="The answer begins with the prompt.")] = False
    logprobs: (
        Annotated[
            int, Field(ge=0, le=MAX_LOGPROBS, description="Log-probabilities of each token and of this many likeliest.")
        ]
        | None
    ) = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES, description="Texts; text i is drawn from (seed, i).")] = 1
    num_beams: Annotated[
        int, Field(ge=1, le=MAX_BEAMS, description="Beams to search with, of which the n best are returned; 1 is off.")
    ] = 1
    length_penalty: Annotated[
        float, Field(ge=-10, le=10, description="Beams are ranked by log-probability / length ** length_penalty.")
    ] = 1.0
    early_stopping: Annotated[
        Literal[False, True, "never"],
        BeforeValidator(_refuse_number),
        Field(description="Whether num_beams finished texts end the search."),
    ] = False

    @field_validator("num_beams")
    @classmethod
    def _beams_hold_the_choices(cls, value: int, fields: ValidationInfo) -> int:
        if 1 < value < fields.data.get("n", 1):
            raise ValueError(f"n is {fields.data['n']}; ask for at most as many texts as beams")
        return value


LogitBias = Annotated[float, Field(ge=-100, le=100)]
PromptText = Annotated[str, Field(min_length=1)]
PromptTokens = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


def _kind_of_prompt(value: Any) -> str | None:
    """Its first entry says what a list is meant to be, so that an error names what is wrong with that."""
    if not isinstance(value, list):
        return "str" if isinstance(value, str) else None
    first = value[0] if value else 0
    return "list[str]" if isinstance(first, str) else "list[list]" if isinstance(first, list) else "list[int]"


Prompt = Annotated[
    Annotated[PromptText, Tag("str")]
    | Annotated[PromptTokens, Tag("list[int]")]
    | Annotated[list[PromptText], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("list[str]")]
    | Annotated[list[PromptTokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("list[list]")],
    Discriminator(
        _kind_of_prompt,
        custom_error_type="no_prompt",
        custom_error_message="give a text, a list of token ids, or a list of texts or of lists of token ids",
    ),
]


class CompletionBody(_Body, TextParameters):
    """Body of POST /v1/completions. OpenAI's other fields are accepted at their defaults.

    `max_new_tokens`, `max_length` and `min_length` mean what they mean in `transformers`: the lengths count the prompt.
    """

    model: str | None = None
    prompt: Prompt | None = None
    fields: (
        Annotated[
            dict[str, str],
            BeforeValidator(_refuse_many),
            Field(description="Parts of the text, for models that have named ones."),
        ]
        | None
    ) = None
    max_tokens: Count | None = None
    max_new_tokens: Count | None = None
    max_length: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    min_tokens: Count | None = None
    min_length: Count | None = None
    logit_bias: Annotated[dict[TokenIdText, LogitBias], BeforeValidator(partial(_refuse_many, most=MAX_BIASES))] = {}
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS, fail_fast=True)] = []
    seed: Seed | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    cache: Annotated[
        bool, Field(description="Whether the answer may come from the server's result cache, if it has one.")
    ] = True
    user: str | None = None
    best_of: Count | None = None
    suffix: None = None

    @field_validator("stop")
    @classmethod
    def _stops_are_short(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
            raise ValueError(f"give at most {MAX_STOPS} stop strings of 1 to {MAX_STOP_CHARACTERS} characters")
        return value

    @model_validator(mode="after")
    def _lengths_are_given_once(self) -> CompletionBody:
        if self.prompt is not None and self.fields is not None:
            raise ValueError("give a prompt or fields, not both")
        if sum(value is not None for value in (self.max_tokens, self.max_new_tokens, self.max_length)) > 1:
            raise ValueError("give only one of max_tokens, max_new_tokens and max_length")
        if self.min_tokens is not None and self.min_length is not None:
            raise ValueError("give only one of min_tokens and min_length")
        if self.best_of is not None and self.best_of != self.n:
            raise ValueError(f"best_of is {self.best_of}; only n ({self.n}) can be had")
        return self

    @property
    def lists_prompts(self) -> bool:
        """Whether it holds a list of prompts, if of one, and not a prompt."""
        return isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)

    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts as a list, however they were given; empty if fields were."""
        if self.prompt is None:
            return []
        return cast(Sequence[str | list[int]], self.prompt if self.lists_prompts else [self.prompt])

    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple, however they were given."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def most_tokens(self, prompt_tokens: int) -> int:
        """Tokens to generate at most, behind a prompt of this many; below 0 where max_length is shorter than that."""
        if self.max_length is not None:
            return self.max_length - prompt_tokens
        return next((value for value in (self.max_tokens, self.max_new_tokens) if value is not None), 16)

    def fewest_tokens(self, prompt_tokens: int) -> int:
        """Tokens to generate at least."""
        return self.min_tokens or max(0, (self.min_length or 0) - prompt_tokens)


class StreamOptions(_Frozen):
    include_usage: bool = False


PictureFormat = Literal["b64_json", "url"]
PictureLayout = Literal["separate", "grid", "animation", "array"]
OutputFormat = Literal["png", "gif", "webp", "npy"]
FORMATS_OF_LAYOUT: dict[PictureLayout, tuple[OutputFormat, ...]] = {  # the first is the default
    "separate": ("png",),
    "grid": ("png",),
    "animation": ("gif", "webp"),
    "array": ("npy",),
}
Coordinate = Annotated[float, Field(ge=-MAX_COORDINATE, le=MAX_COORDINATE)]
Truncation = Annotated[
    float,
    Field(gt=0, le=1, description="Draw latents from this middle share of the normal distribution; 1 is all of it."),
]
FrameMilliseconds = Annotated[
    int,
    Field(ge=MIN_FRAME_MILLISECONDS, le=MAX_FRAME_MILLISECONDS, description="How long an animation shows each."),
]


class Interpolation(_Frozen):
    """Pictures on the way from the seed's first one to that of another seed."""

    to_seed: Seed
    frames: Annotated[int, Field(ge=2, le=MAX_PICTURES, description="Pictures, both ends included.")]


class ImageBody(_Body):
    """Body of POST /v1/images/generations. OpenAI's other fields are accepted at their defaults."""

    model: str | None = None
    prompt: str | None = None  # the SDK always sends one; a DCGAN draws from its seed alone
    n: Annotated[int, Field(ge=1, description="Pictures to draw.")] = 1
    size: str = "auto"
    seed: Seed | None = None
    latents: (
        Annotated[
            list[Annotated[list[Coordinate], Field(min_length=1, max_length=MAX_LATENT_LENGTH, fail_fast=True)]],
            Field(
                min_length=1,
                max_length=MAX_PICTURES,
                fail_fast=True,
                description="A picture of each, instead of drawn ones; as long as the model's `latent_length`.",
            ),
        ]
        | None
    ) = None
    truncation: Truncation = 1.0
    interpolate: Interpolation | None = None
    layout: Annotated[PictureLayout, Field(description="All but `separate` are one file.")] | None = None
    frame_milliseconds: FrameMilliseconds = 100
    response_format: PictureFormat = "b64_json"
    user: str | None = None
    cache: Annotated[
        bool, Field(description="Whether the answer may come from the server's result cache, if it has one.")
    ] = True
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    output_compression: Annotated[Literal[100], BeforeValidator(_refuse_truth)] = 100
    output_format: Annotated[OutputFormat, Field(description="`png`, if the layout is not for another.")] | None = None
    partial_images: Annotated[Literal[0], BeforeValidator(_refuse_truth)] = 0
    quality: Literal["auto", "standard"] = "auto"
    stream: Never = False
    style: Literal["vivid", "natural"] = "vivid"

    def chosen_layout(self) -> PictureLayout:
        """As it was given, else the first that the output format is for."""
        if self.layout is not None:
            return self.layout
        return next(
            (layout for layout, formats in FORMATS_OF_LAYOUT.items() if self.output_format in formats), "separate"
        )


LongTexts = Literal["truncate", "average", "refuse"]


class ClassifyBody(_Body):
    """Body of POST /v1/classify."""

    model: str | None = None
    input: str | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]
    threshold: Annotated[float, Field(ge=0, le=1, description="Labels as likely as this apply.")] | None = None
    top_k: Annotated[int, Field(ge=1, le=MAX_COUNT, description="Scores of the k likeliest labels.")] | None = None
    long_texts: Annotated[
        LongTexts,
        Field(description="Of a text that is too long: read its beginning, average over windows of it, or refuse it."),
    ] = "truncate"
    cache: Annotated[
        bool, Field(description="Whether the answer may come from the server's result cache, if it has one.")
    ] = True
    user: str | None = None

    def texts(self) -> list[str]:
        """The texts as a list, however they were given."""
        return [self.input] if isinstance(self.input, str) else self.input


Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")  # in the order in which a worker asks for jobs
Seconds = Annotated[float, Field(gt=0, le=MAX_RESULT_SECONDS)]
Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    BeforeValidator(partial(_refuse_many, most=MAX_METADATA)),
]


class JobBody(_Body):
    """Body of POST /v1/jobs: a model, the fields of the synchronous body, and how the job is to be treated."""

    model: str | None = None
    input: dict[str, Any]
    priority: Annotated[Priority, Field(description="Among the jobs of one model.")] = "normal"
    deadline_seconds: (
        Annotated[Seconds, Field(description="From now. A job that has not ended by then is given up: `expired`.")]
        | None
    ) = None
    result_seconds: (
        Annotated[int, Field(ge=1, le=MAX_RESULT_SECONDS, description="How long it can be read after its end.")] | None
    ) = None
    metadata: Annotated[Metadata, Field(description="Words of your own, which come back with the job.")] | None = None
    webhook: (
        Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARACTERS, description="URL that is told of its end.")]
        | None
    ) = None


Candidate = Annotated[
    str, Field(min_length=1, max_length=64, description="A version, or one with a variant, as in `2/onnx:int8`.")
]


class ShadowBody(_Body):
    """Body of POST /v1/models/<name>/shadow."""

    candidate: Candidate
    share: Annotated[float, Field(gt=0, le=1, description="Of the requests, which are also run on the candidate.")] = (
        0.1
    )


class PromoteBody(_Body):
    """Body of POST /v1/models/<name>/promote, which may be absent."""

    to: Annotated[Candidate, Field(description="The candidate of the comparison that runs, if absent.")] | None = None


class RollbackBody(_Body):
    """Body of POST /v1/models/<name>/rollback, which may be absent."""

    to: Annotated[int, Field(ge=1, le=MAX_COUNT, description="A version; else what ran before.")] | None = None


class BulkBody(_Frozen):
    """Body of POST /v1/jobs/bulk. Each job is a body of POST /v1/jobs, and is judged by itself."""

    jobs: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_BULK, fail_fast=True)]


class ExpiresAfter(_Frozen):
    """When a file is forgotten."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=MIN_FILE_SECONDS, le=MAX_FILE_SECONDS, description="After its making.")]


class FileForm(_Body):
    """What is said of a file in the form of POST /v1/files."""

    purpose: Literal["batch"]
    expires_after: ExpiresAfter | None = None


BatchEndpoint = Literal["/v1/completions", "/v1/images/generations", "/v1/classify"]


class BatchBody(_Body):
    """Body of POST /v1/batches."""

    input_file_id: Annotated[str, Field(description="Of a file with the purpose `batch`.")]
    endpoint: Annotated[BatchEndpoint, Field(description="Which all lines of the file ask.")]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: Annotated[ExpiresAfter, Field(description="Of the files that it writes.")] | None = None


class BatchLine(_Body):
    """A line of a batch's file."""

    custom_id: Annotated[str, Field(min_length=1, max_length=MAX_CUSTOM_ID_CHARACTERS)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


_QUEUE = re.compile(r"([a-z0-9._-]+)@(\d{1,9})/([a-z0-9]+)-([a-z0-9]+)/(?:high|normal|low)")


class Target(_Frozen):
    """What a job will run on, fixed when it is accepted."""

    model: str
    version: Annotated[int, Field(ge=0, le=MAX_SEED)]
    variant: str

    @property
    def engine(self) -> str:
        """The name under which a worker loads it. Its queues, bell and load in Redis carry it too."""
        return f"{self.model}@{self.version}/{self.variant.replace(':', '-')}"

    def queue(self, priority: Priority = "normal") -> str:
        """RQ's queue of its jobs with this priority."""
        return f"{self.engine}/{priority}"

    @property
    def queues(self) -> tuple[str, ...]:
        """All its queues, the most urgent first."""
        return tuple(map(self.queue, PRIORITIES))

    @classmethod
    def of_queue(cls, name: str) -> Target | None:
        """What the jobs of a queue run on; None for a queue that is none of ours."""
        match = _QUEUE.fullmatch(name)
        return cls(model=match[1], version=int(match[2]), variant=f"{match[3]}:{match[4]}") if match else None


class TextRequest(TextParameters):
    """A text job: token ids in, token ids out."""

    task: Literal["text"] = "text"
    schema_version: Literal[2] = 2
    target: Target
    seed: Seed
    prompt_tokens: Annotated[
        tuple[TokenId, ...], Field(min_length=1, max_length=MAX_PROMPT_TOKENS, strict=False, fail_fast=True)
    ]
    max_tokens: Count = 16
    min_tokens: Count = 0
    logit_bias: Annotated[
        tuple[Annotated[tuple[TokenId, LogitBias], Field(strict=False)], ...],
        Field(max_length=MAX_BIASES, strict=False, fail_fast=True),
    ] = ()
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)], ...],
        Field(max_length=MAX_STOPS, strict=False, fail_fast=True),
    ] = ()
    stop_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=MAX_STOP_TOKENS, strict=False, fail_fast=True)] = ()
    stream: bool = False
    with_fields: bool = False  # the result carries the text's named parts, and the text with its markers

    @property
    def rows(self) -> int:
        """Rows of a batch that it takes."""
        return max(self.n, self.num_beams)

    @property
    def work(self) -> int:
        """What a worker has to do for it, at most: tokens to read and to write."""
        return len(self.prompt_tokens) + self.rows * self.max_tokens

    def ending_tokens(self, end_token: int | None) -> frozenset[int]:
        """Tokens that end a text, for a model with this end token; they are no part of the text."""
        own = () if self.ignore_eos or end_token is None else (end_token,)
        return frozenset((*own, *self.stop_token_ids))


class ImageRequest(_Frozen):
    """A picture job: `count` pictures. Picture i is drawn from (seed, i), from `latents[i]`, or, with `to_seed`, from
    a latent on the way from (seed, 0) to (to_seed, 0)."""

    task: Literal["image"] = "image"
    schema_version: Literal[1] = 1
    target: Target
    seed: Seed
    count: Annotated[int, Field(ge=1, le=MAX_PICTURES)]
    latents: (
        Annotated[
            tuple[
                Annotated[
                    tuple[Coordinate, ...],
                    Field(min_length=1, max_length=MAX_LATENT_LENGTH, strict=False, fail_fast=True),
                ],
                ...,
            ],
            Field(max_length=MAX_PICTURES, strict=False, fail_fast=True),
        ]
        | None
    ) = None
    truncation: Truncation = 1.0
    to_seed: Seed | None = None
    layout: PictureLayout = "separate"
    output_format: OutputFormat = "png"
    frame_milliseconds: FrameMilliseconds = 100
    response_format: PictureFormat = "b64_json"  # how the answer brings them; workers do not care
    stream: Literal[False] = False

    @model_validator(mode="after")
    def _fields_fit_together(self) -> ImageRequest:
        if self.latents is not None and len(self.latents) != self.count:
            raise ValueError(f"count is {self.count}, but there are {len(self.latents)} latents; give one for each")
        if self.to_seed is not None and (self.count < 2 or self.latents is not None):
            raise ValueError("to_seed needs two pictures or more, and no latents")
        if self.output_format not in (formats := FORMATS_OF_LAYOUT[self.layout]):
            raise ValueError(f"output_format is {self.output_format}; layout {self.layout} is {' or '.join(formats)}")
        return self

    @property
    def work(self) -> int:
        """Pictures to draw."""
        return self.count

    @property
    def is_one_file(self) -> bool:
        """Whether the result is one file of all pictures, and not one for each."""
        return self.layout != "separate"

    @property
    def files(self) -> int:
        """Of the result."""
        return 1 if self.is_one_file else self.count

    def check_file(self, size: tuple[int, int]) -> None:
        """Raises InvalidRequest for a file of too many pictures of `size` (width, height)."""
        width, height = size
        if self.is_one_file and self.count * width * height > MAX_FILE_PIXELS:
            most = MAX_FILE_PIXELS // (width * height)
            raise InvalidRequest(
                f"'layout' is '{self.layout}' for {self.count} pictures of {width}x{height};"
                f" ask for at most {most} in one file, or for separate ones",
                param="layout",
            )


Window = Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=MAX_PROMPT_TOKENS, strict=False, fail_fast=True)]


class TokenisedText(_Frozen):
    """A text to classify, in windows that the model reads one by one: token ids with the special tokens around them."""

    windows: Annotated[tuple[Window, ...], Field(min_length=1, max_length=MAX_WINDOWS, strict=False, fail_fast=True)]
    truncated: bool = False

    @property
    def tokens(self) -> int:
        """That are read, those of overlapping windows once for each."""
        return sum(map(len, self.windows))


class ClassifyRequest(_Frozen):
    """A job that classifies texts, each by itself."""

    task: Literal["classify"] = "classify"
    schema_version: Literal[1] = 1
    target: Target
    texts: Annotated[tuple[TokenisedText, ...], Field(min_length=1, max_length=MAX_TEXTS, strict=False, fail_fast=True)]
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None  # None: the bundle's own
    top_k: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    stream: Literal[False] = False

    @property
    def work(self) -> int:
        """Tokens to read."""
        return sum(text.tokens for text in self.texts)


Request = TextRequest | ImageRequest | ClassifyRequest
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="task")])

# A payload's name is its task and the number of its schema, which grows whenever its fields change in any way. Payloads
# of the number before are read, too: workers of both share the queues while they are replaced one by one.
_OLDER: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "text:1": lambda payload: payload | {"schema_version": 2}  # all of its fields mean the same
}
WRITTEN: dict[Literal["text", "image", "classify"], str] = {  # by task
    "text": "text:2",
    "image": "image:1",
    "classify": "classify:1",
}
PAYLOADS = frozenset({*_OLDER, *WRITTEN.values()})


def parse_request(payload: Any) -> Request:
    """The request in a job's payload. Raises NewerRequest for one that newer workers read, InvalidRequest for anything
    else."""
    name = _name_of(payload)
    if name in _OLDER and name in PAYLOADS:
        payload = _OLDER[name](payload)
    elif _is_newer(name):
        raise NewerRequest(
            f"The job is for newer processes than this one: its payload is {name}, and this one reads"
            f" {', '.join(sorted(PAYLOADS))}; upgrade it."
        )
    try:
        return _REQUEST.validate_python(payload)
    except ValidationError as error:
        raise InvalidRequest(f"The job's payload is not a request this worker knows: {describe(error)}") from None


def _name_of(payload: Any) -> str:
    """Of a payload, as in PAYLOADS; empty for what has none."""
    task, number = (payload.get("task"), payload.get("schema_version")) if isinstance(payload, dict) else (None, None)
    return f"{task}:{number}" if isinstance(task, str) and type(number) is int else ""


def _is_newer(name: str) -> bool:
    """Whether it is a payload with a larger number than those that are read of its task."""
    task, _, number = name.partition(":")
    known = [int(each.removeprefix(f"{task}:")) for each in PAYLOADS if each.startswith(f"{task}:")]
    return bool(known) and re.fullmatch("[1-9][0-9]{0,8}", number) is not None and int(number) > max(known)


def describe(error: ValidationError, limit: int = 3) -> str:
    """What is wrong, with field and value, in one line."""
    parts = []
    for fault in error.errors(include_url=False)[:limit]:
        # pydantic names the branches of a union by their types; people do not.
        parts_of_name = (str(part) for part in fault["loc"])
        field = one_line(".".join(part for part in parts_of_name if not _UNION_BRANCH.match(part)), 80) or "body"
        if fault["type"] == "extra_forbidden":
            parts.append(f"'{field}' is not a field of this request; remove it")
        elif fault["type"] == "missing":
            parts.append(f"'{field}' is missing")
        else:
            parts.append(f"'{field}' is {_short(fault['input'])}: {_lower_first(fault['msg'])}")
    # The parts may quote what was sent: a line break in it must not make a line of a log.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in "; ".join(parts))


_UNION_BRANCH = re.compile(r"(str|constrained-str|list\[.*\]|\[key\])$")


def _short(value: Any, limit: int = 60) -> str:
    if isinstance(value, dict):
        value = dict(islice(value.items(), limit))
    elif isinstance(value, str | list | tuple):
        value = value[:limit]
    try:
        text = repr(value)
    except RecursionError:
        return "too deep"
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _lower_first(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


CompletionBody.model_rebuild()

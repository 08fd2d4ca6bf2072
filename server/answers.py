"""The types of answers' bodies: what responses are made of, and what /openapi.json says of them."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from contracts.bundle import Task
from contracts.jobs import Status
from contracts.labels import Activation
from contracts.requests import BatchEndpoint, Count, OutputFormat, Priority, Seed
from contracts.results import FinishReason
from server.batches import BatchStatus

UnixSeconds = Annotated[float, Field(ge=0, description="Unix seconds.")]
Version = Annotated[int, Field(ge=0, description="Of the model; it never changes once it is written.")]
Fingerprint = Annotated[
    str, Field(description="Of bundle, variant and kernels. Within one, the same request and seed give the same.")
]


class ErrorObject(TypedDict):
    message: Annotated[str, Field(description="One line that names field, value and remedy.")]
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: Annotated[str | None, Field(description="The field that is to blame.")]
    code: str


class Error(TypedDict):
    """OpenAI's error."""

    error: ErrorObject


class Logprobs(TypedDict):
    """One entry per token, the prompt's first where it is echoed."""

    tokens: list[str]
    token_logprobs: Annotated[list[float | None], Field(description="The first token of a prompt has none.")]
    top_logprobs: list[dict[str, float] | None]
    text_offset: Annotated[list[Count], Field(description="Characters of the text before the token.")]


class CompletionChoice(TypedDict):
    """One text. In a stream, a piece of it; the last piece has a `finish_reason`, and the log-probabilities of all."""

    index: Count
    text: str
    finish_reason: FinishReason | None
    logprobs: Logprobs | None
    beam_score: NotRequired[Annotated[float, Field(description="Of a text found by beams.")]]
    fields: NotRequired[Annotated[dict[str, str], Field(description="The text's named parts.")]]
    marked_text: NotRequired[
        Annotated[str, Field(description="Prompt and text with the markers between the named parts.")]
    ]


class Usage(TypedDict):
    prompt_tokens: Count
    completion_tokens: Annotated[int, Field(ge=0, description="Of all choices.")]
    total_tokens: Annotated[int, Field(ge=0)]


class TextCompletion(TypedDict):
    """What text answers and their pieces have in common."""

    id: str
    object: Literal["text_completion"]
    created: Annotated[int, Field(ge=0, description="Unix seconds.")]
    model: str
    choices: list[CompletionChoice]
    seed: Seed
    version: Version


class CompletionChunk(TextCompletion):
    """A piece of a streamed answer: some text of one choice, or its end, or, without choices, the usage."""

    system_fingerprint: NotRequired[Fingerprint]
    usage: NotRequired[Usage]


class Completion(TextCompletion):
    """A whole answer."""

    system_fingerprint: Fingerprint
    usage: Usage


class Event(TypedDict):
    """A server-sent event, as its reader sees it."""

    data: Annotated[
        str,
        Field(
            description="JSON: a CompletionChunk, the whole of another answer, or, as the last, an Error."
            " `[DONE]` ends the stream."
        ),
    ]
    id: NotRequired[
        Annotated[str, Field(description="How far each choice has come, in bytes of UTF-8; for `Last-Event-ID`.")]
    ]
    event: NotRequired[Literal["message"]]


class Picture(TypedDict):
    b64_json: Annotated[str, Field(description="A file in base64.")]


class PictureLink(TypedDict):
    url: Annotated[str, Field(description="Of a file, for as long as the job is kept; it needs no key.")]


class Images(TypedDict):
    created: Annotated[int, Field(ge=0, description="Unix seconds.")]
    data: Annotated[list[Picture] | list[PictureLink], Field(description="One for each picture, or one of all.")]
    seed: NotRequired[Annotated[Seed, Field(description="Not where latents were given.")]]
    model: str
    version: Version
    system_fingerprint: Fingerprint
    output_format: OutputFormat


class LabelScore(TypedDict):
    label: str
    score: Annotated[float, Field(ge=0, le=1)]


class Classification(TypedDict):
    """What is said of one text."""

    index: Annotated[int, Field(ge=0, description="Of the text in the request.")]
    labels: Annotated[list[str], Field(description="Those that apply, likeliest first.")]
    scores: Annotated[list[LabelScore], Field(description="Of all labels or the `top_k` likeliest, likeliest first.")]
    tokens: Annotated[int, Field(ge=0, description="That were read, special ones included.")]
    windows: Annotated[int, Field(ge=1, description="That the text was read in; scores are their mean.")]
    truncated: Annotated[bool, Field(description="Whether the text went on.")]


class ClassificationUsage(TypedDict):
    prompt_tokens: Annotated[int, Field(ge=0, description="Read, of all texts.")]
    total_tokens: Annotated[int, Field(ge=0)]


class Classifications(TypedDict):
    id: str
    object: Literal["list"]
    created: Annotated[int, Field(ge=0, description="Unix seconds.")]
    model: str
    version: Version
    data: list[Classification]
    system_fingerprint: Fingerprint
    usage: ClassificationUsage


class Job(TypedDict):
    """A request on the queue. One that has succeeded has a result, one that has failed an error."""

    id: str
    object: Literal["job"]
    status: Status
    model: str
    version: Version
    seed: NotRequired[Annotated[Seed, Field(description="Absent where nothing is left to chance.")]]
    priority: Priority
    created_at: UnixSeconds
    started_at: UnixSeconds | None
    ended_at: UnixSeconds | None
    deadline_at: NotRequired[UnixSeconds]
    metadata: NotRequired[dict[str, str]]
    position: NotRequired[Annotated[int, Field(ge=1, description="In its queue; 1 is next.")]]
    estimated_start_at: NotRequired[
        Annotated[UnixSeconds, Field(description="At the workers' pace up to now; absent until that is known.")]
    ]
    estimated_end_at: NotRequired[UnixSeconds]
    result: NotRequired[
        Annotated[Completion | Images | Classifications, Field(description="What the synchronous call answers.")]
    ]
    error: NotRequired[ErrorObject]


class JobList(TypedDict):
    """Jobs without their results."""

    object: Literal["list"]
    data: list[Job]
    last_id: Annotated[str | None, Field(description="Ask for what is `after` it; it need not be in the list.")]
    has_more: bool


class AcceptedJob(TypedDict):
    id: str
    object: Literal["job"]
    status: Annotated[
        Literal["queued", "repeated"], Field(description="`repeated`: this Idempotency-Key has made the job before.")
    ]


class BulkOutcome(TypedDict):
    """What became of each job, in the order of the request."""

    object: Literal["list"]
    data: list[AcceptedJob | Error]
    accepted: Count
    refused: Count


class Deleted(TypedDict):
    """The job had ended; it is forgotten now."""

    id: str
    deleted: Literal[True]


class File(TypedDict):
    """What is known of a file."""

    id: str
    object: Literal["file"]
    bytes: Annotated[int, Field(ge=0)]
    created_at: Annotated[int, Field(ge=0, description="Unix seconds.")]
    expires_at: Annotated[int, Field(ge=0, description="Unix seconds.")]
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class FileList(TypedDict):
    object: Literal["list"]
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(TypedDict):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchError(TypedDict):
    """What is wrong with the file of a batch."""

    code: str
    message: str
    param: str | None
    line: Annotated[int | None, Field(description="Counted from 1.")]


class BatchErrors(TypedDict):
    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(TypedDict):
    """Lines of a batch."""

    total: Annotated[int, Field(ge=0, description="0 until the file has been looked at.")]
    completed: Count
    failed: Count


UnixTime = Annotated[int | None, Field(description="Unix seconds.")]


class Batch(TypedDict):
    """Each status but the first has a time, at which it began."""

    id: str
    object: Literal["batch"]
    endpoint: BatchEndpoint
    errors: Annotated[BatchErrors | None, Field(description="Why the file cannot be run.")]
    input_file_id: str
    completion_window: Literal["24h"]
    status: BatchStatus
    output_file_id: Annotated[str | None, Field(description="Answers of lines that have succeeded.")]
    error_file_id: Annotated[str | None, Field(description="Those that have not.")]
    created_at: Annotated[int, Field(ge=0, description="Unix seconds.")]
    in_progress_at: UnixTime
    expires_at: Annotated[int, Field(ge=0, description="Unix seconds at which its window is over.")]
    finalizing_at: UnixTime
    completed_at: UnixTime
    failed_at: UnixTime
    expired_at: UnixTime
    cancelling_at: UnixTime
    cancelled_at: UnixTime
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchList(TypedDict):
    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookSecret(TypedDict):
    """What signs the caller's webhooks."""

    object: Literal["webhook_secret"]
    secret: Annotated[str, Field(description="`whsec_` and base64, as libraries for Standard Webhooks take it.")]
    previous_expires_at: Annotated[
        int | None, Field(description="Unix seconds up to which the secret before it signs, too.")
    ]


class Limits(TypedDict, total=False):
    context_tokens: Annotated[int, Field(ge=1, description="Of prompt and output together.")]
    max_tokens: Annotated[int, Field(ge=1, description="Written by one request.")]
    picture_pixels: Annotated[tuple[int, int], Field(description="Width and height.")]


class Labels(TypedDict):
    """Of a classifier. By sigmoid any number of them apply to a text, by softmax one."""

    names: list[str]
    activation: Activation
    threshold: Annotated[
        float | list[float],
        Field(description="Labels as likely as this apply, unless told otherwise; one for all or for each."),
    ]


class PromptField(TypedDict):
    name: str
    end: Annotated[str, Field(description="The marker behind it.")]


class PromptFields(TypedDict):
    """The named parts of a model's texts, in their order."""

    start: Annotated[str, Field(description="Stands before the first part.")]
    fields: list[PromptField]


class Model(TypedDict):
    id: Annotated[str, Field(description="Its name.")]
    object: Literal["model"]
    created: Annotated[int, Field(description="Unix seconds.")]
    owned_by: Literal["kamishibai"]
    version: Version
    variant: str
    task: Task
    limits: Limits
    latent_length: NotRequired[
        Annotated[int, Field(ge=1, description="Of a model that draws: the numbers that it makes a picture of.")]
    ]
    labels: NotRequired[Labels]
    prompt_fields: NotRequired[PromptFields]
    reports: NotRequired[
        Annotated[list[str], Field(description="Pictures of its training, to read under `/v1/models/<name>/reports/`.")]
    ]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[Model]


Control = Literal["load", "unload", "reload", "drain", "resume"]


class Worker(TypedDict):
    id: Annotated[str, Field(description="Its name.")]
    object: Literal["worker"]
    device: str
    ready: Annotated[bool, Field(description="Whether it takes jobs.")]
    drained: Annotated[bool, Field(description="Whether an operator has told it to take none.")]
    models: Annotated[list[str], Field(description="As `name@version`.")]


class WorkerList(TypedDict):
    object: Literal["list"]
    data: list[Worker]


class Controlled(TypedDict):
    """The workers do it within a few seconds."""

    id: str
    object: Literal["model", "worker"]
    asked: Control


class Bundle(TypedDict):
    """A version of a model in the server's store."""

    id: Annotated[str, Field(description="As `name@version`.")]
    object: Literal["bundle"]
    model: str
    version: Version
    digest: Annotated[str, Field(description="SHA-256 of its manifest, which has those of all files.")]
    bytes: Annotated[int, Field(ge=0, description="Of all files.")]
    latest: Annotated[bool, Field(description="Whether new requests run on it.")]
    variant: Annotated[str | None, Field(description="In which, where one was promoted.")]


class BundleList(TypedDict):
    object: Literal["list"]
    data: list[Bundle]


class ShadowRequests(TypedDict):
    drawn: Annotated[int, Field(description="Of the live version's, those that fell to the share.")]
    compared: int
    equal: Annotated[int, Field(description="In everything that a client is sent.")]
    dropped: Annotated[int, Field(description="There was no room for them, or they could not be run again.")]
    live_failed: int
    candidate_failed: int


class ShadowParts(TypedDict):
    """Texts, pictures or classified texts. What cannot be measured of them is null."""

    compared: int
    equal: int
    agreement: Annotated[
        float | None, Field(description="Of texts, the mean share of equal leading tokens; of labels, of equal ones.")
    ]
    difference: Annotated[
        float | None, Field(description="Mean, of pixels from 0 to 1, or of the probability that differs most.")
    ]
    largest_difference: float | None


class ShadowDivergence(TypedDict):
    """KL(live || candidate), in nats per token; docs/operations.md says what of."""

    tokens: int
    mean: float | None
    deviation: float | None
    largest: float | None


class ShadowSpeed(TypedDict):
    """Means, in seconds."""

    wait_seconds: Annotated[float | None, Field(description="In the queue; copies wait behind everything.")]
    run_seconds: float | None
    seconds_per_unit: Annotated[float | None, Field(description="Of running, by token, picture or text.")]
    first_token_seconds: Annotated[float | None, Field(description="From the start, of all jobs that its workers ran.")]


class ShadowSpeeds(TypedDict):
    live: ShadowSpeed
    candidate: ShadowSpeed


class Shadow(TypedDict):
    """A comparison of two versions or variants under traffic."""

    id: Annotated[str, Field(description="The model's name.")]
    object: Literal["shadow"]
    running: bool
    live: Annotated[str, Field(description="As `name@version/variant`.")]
    candidate: str
    share: float
    begun_at: int
    requests: ShadowRequests
    parts: ShadowParts
    divergence: ShadowDivergence
    speed: ShadowSpeeds


class Choice(TypedDict):
    """What new requests run on."""

    id: Annotated[str, Field(description="The model's name.")]
    object: Literal["model"]
    version: int
    variant: Annotated[str | None, Field(description="Null: the one that workers choose.")]
    before: Annotated[str | None, Field(description="What they ran on.")]


class Health(TypedDict):
    status: Literal["alive"]


class Readiness(TypedDict):
    status: Literal["ready"]
    workers: Annotated[list[str], Field(description="Workers that take jobs.")]


class Index(TypedDict):
    name: Literal["Kamishibai"]
    routes: Annotated[dict[str, str], Field(description="What each route does.")]

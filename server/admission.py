"""Admission: from a client's bytes to a request in which everything is fixed. Nothing here writes to Redis."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from contracts.errors import InvalidRequest
from contracts.requests import (
    MAX_CALL_CHOICES,
    MAX_CALL_SCORES,
    MAX_PROMPT_TOKENS,
    MAX_SEED,
    MAX_WINDOWS,
    ClassifyBody,
    ClassifyRequest,
    CompletionBody,
    ImageBody,
    ImageRequest,
    JobBody,
    Request,
    TextParameters,
    TextRequest,
    TokenisedText,
    describe,
)
from contracts.settings import Settings
from server.catalogue import Catalogue, CatalogueEntry

Body = TypeVar("Body", bound=BaseModel)


def decode(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. Raises InvalidRequest for anything else, whatever its content type."""
    try:
        text = raw.decode()
        payload = _JSON.decode(text)
        if "\\u" in text:
            json.dumps(payload, ensure_ascii=False).encode()  # a lone surrogate is no text: it has no UTF-8
    except UnicodeError:
        raise InvalidRequest("The body is not valid Unicode: send JSON in UTF-8 without lone surrogates.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply; no request of ours needs that.") from None
    except ValueError as error:
        raise InvalidRequest(f"The body is not JSON: {error}") from None
    if not isinstance(payload, dict):
        raise InvalidRequest("The body must be a JSON object with the request's fields.")
    return payload


def parse(kind: type[Body], fields: dict[str, Any]) -> Body:
    """The typed body. Raises InvalidRequest that names every field that is wrong, up to three."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        place = error.errors(include_url=False, include_input=False)[0]["loc"]
        raise InvalidRequest(describe(error), param=str(place[0]) if place else None) from None


class Admission:
    """Fixes version, variant, token ids and seed, and holds a request against the limits."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._catalogue = catalogue

    def text(self, body: CompletionBody) -> TextRequest:
        """The request of a body with one prompt. Raises InvalidRequest, UnknownModel and NotReady."""
        if body.lists_prompts:
            raise InvalidRequest(
                f"'prompt' is a list of {len(body.prompts())} prompts, but a job has one;"
                " POST /v1/jobs/bulk takes many jobs at once",
                param="prompt",
            )
        (request,) = self.texts(body)
        return request

    def texts(self, body: CompletionBody) -> list[TextRequest]:
        """A request for each prompt. All have one seed, so that a prompt of a list gives what it gives alone.

        Raises InvalidRequest, UnknownModel and NotReady.
        """
        model = self._catalogue.resolve(body.model, "text")
        prompts = _prompts(model, body)
        logit_bias = {int(token): bias for token, bias in body.logit_bias.items()}
        _check_tokens(model, "logit_bias", logit_bias)
        _check_tokens(model, "stop_token_ids", body.stop_token_ids)
        _check_prompts(model, body, prompts)
        seed, parameters = _seed(body.seed), body.model_dump(include=set(TextParameters.model_fields))
        return [
            TextRequest(
                target=model.target,
                seed=seed,
                prompt_tokens=tuple(tokens),
                max_tokens=body.most_tokens(len(tokens)),
                min_tokens=body.fewest_tokens(len(tokens)),
                logit_bias=tuple(sorted(logit_bias.items())),
                stop=body.stops(),
                stop_token_ids=tuple(body.stop_token_ids),
                stream=body.stream,
                with_fields=model.manifest.prompt_fields is not None,
                **parameters,
            )
            for tokens in prompts
        ]

    def image(self, body: ImageBody) -> ImageRequest:
        """Raises InvalidRequest, UnknownModel and NotReady."""
        model = self._catalogue.resolve(body.model, "image")
        most = self._settings.max_pictures
        if body.n > most:
            raise InvalidRequest(f"'n' is {body.n}; ask for at most {most} pictures at once", param="n")
        pixels = model.manifest.limits.picture_pixels
        sizes = ["auto"] if pixels is None else ["auto", f"{pixels[0]}x{pixels[1]}"]
        if body.size not in sizes:
            given, choices = repr(body.size[:40]), " or ".join(map(repr, sizes))
            raise InvalidRequest(f"'size' is {given}; {model.target.model} draws {choices}", param="size")
        return ImageRequest(
            target=model.target, seed=_seed(body.seed), count=body.n, response_format=body.response_format
        )

    def classify(self, body: ClassifyBody) -> ClassifyRequest:
        """Raises InvalidRequest, UnknownModel and NotReady."""
        model = self._catalogue.resolve(body.model, "classify")
        return ClassifyRequest(
            target=model.target, texts=_framed_texts(model, body), threshold=body.threshold, top_k=body.top_k
        )

    def job(self, body: JobBody) -> Request:
        """A request of any task; the model decides which. Raises InvalidRequest, UnknownModel and NotReady."""
        model = self._catalogue.resolve(_model_of(body))
        fields = {**body.input, "model": f"{model.target.model}@{model.target.version}"}
        if model.manifest.task == "text":
            return self.text(parse(CompletionBody, fields))
        if model.manifest.task == "classify":
            return self.classify(parse(ClassifyBody, fields))
        return self.image(parse(ImageBody, fields))


def _model_of(body: JobBody) -> str | None:
    inner = body.input.get("model", body.model)
    if inner is None or inner == body.model:
        return body.model
    if body.model is not None or not isinstance(inner, str):
        raise InvalidRequest(
            f"'input.model' is not the name in 'model' ({(body.model or 'none')[:80]}); give the name once, in 'model'",
            param="input.model",
        )
    return inner


def _prompts(model: CatalogueEntry, body: CompletionBody) -> list[list[int]]:
    """The token ids of each prompt."""
    if body.fields is not None:
        if model.manifest.prompt_fields is None:
            raise InvalidRequest(f"{model.target.model} has no fields; give it a 'prompt'", param="fields")
        return model.encode([model.manifest.prompt_fields.compose(body.fields)])
    prompts = body.prompts()
    if not prompts:
        raise InvalidRequest("'prompt' is missing", param="prompt")
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    # They are all of one kind, so this keeps their order.
    return [*model.encode(texts), *(tokens for tokens in prompts if not isinstance(tokens, str))]


def _check_prompts(model: CatalogueEntry, body: CompletionBody, prompts: list[list[int]]) -> None:
    if (texts := len(prompts) * body.n) > MAX_CALL_CHOICES:
        raise InvalidRequest(
            f"'n' is {body.n} for each of {len(prompts)} prompts, which makes {texts} texts;"
            f" ask for at most {MAX_CALL_CHOICES} in one call",
            param="n",
        )
    for place, tokens in enumerate(prompts):
        try:
            _check_tokens(model, "prompt", tokens)
            _check_lengths(model, body, len(tokens))
        except InvalidRequest as error:
            if body.lists_prompts:
                raise InvalidRequest(f"'prompt.{place}': {error.message}", param=error.param) from None
            raise
    if (together := sum(map(len, prompts))) > MAX_PROMPT_TOKENS:
        raise InvalidRequest(
            f"'prompt' has {together} tokens in {len(prompts)} prompts; give at most {MAX_PROMPT_TOKENS} in one call",
            param="prompt",
        )
    _check_scores(body, prompts)


def _check_scores(body: CompletionBody, prompts: list[list[int]]) -> None:
    if body.logprobs is None:
        return
    told = sum(body.most_tokens(len(tokens)) + body.echo * len(tokens) for tokens in prompts) * body.n
    if (scores := told * (body.logprobs + 1)) > MAX_CALL_SCORES:
        raise InvalidRequest(
            f"'logprobs' is {body.logprobs} for up to {told} tokens, which makes {scores} log-probabilities;"
            f" ask for at most {MAX_CALL_SCORES} in one call, with fewer of them, or fewer or shorter texts",
            param="logprobs",
        )


def _framed_texts(model: CatalogueEntry, body: ClassifyBody) -> tuple[TokenisedText, ...]:
    """The texts as they are read: of one that is too long the beginning or windows, unless it is refused."""
    most, encoder = model.manifest.limits.context_tokens or MAX_PROMPT_TOKENS, model.encoder
    texts = model.frame(body.texts())
    if encoder is None:
        return ()
    if (longest := max(map(len, texts))) > most and body.long_texts == "refuse":
        raise InvalidRequest(
            f"'input' holds a text of {longest} tokens, but {model.target.model} reads at most {most}; shorten it, or"
            " have its beginning read (long_texts: truncate) or all of it in windows (average)",
            param="input",
        )
    if body.long_texts == "average":
        read = [encoder.windows(tokens, most) for tokens in texts]
        if (windows := max(map(len, read))) > MAX_WINDOWS:
            raise InvalidRequest(
                f"'input' holds a text of {longest} tokens, which takes {windows} windows; at most {MAX_WINDOWS} are"
                " read, so cut it into several",
                param="input",
            )
        return tuple(TokenisedText(windows=tuple(map(tuple, windows))) for windows in read)
    return tuple(
        TokenisedText(windows=(tuple(encoder.cut(tokens, most)),), truncated=len(tokens) > most) for tokens in texts
    )


def _check_tokens(model: CatalogueEntry, field: str, tokens: Iterable[int]) -> None:
    name, size = model.target.model, model.vocabulary_size
    for token in tokens:
        if token >= size:
            raise InvalidRequest(
                f"'{field}' names token {token}, but {name} has {size} tokens; give ids from 0 to {size - 1}",
                param=field,
            )


class _Length(NamedTuple):
    """How many tokens to write, and the field and the words in which the client asked for them."""

    tokens: int
    field: str
    words: str


def _most(body: CompletionBody, prompt_tokens: int) -> _Length:
    plain = "max_tokens" if body.max_new_tokens is None else "max_new_tokens"
    return _length(body.most_tokens(prompt_tokens), plain, "max_length", body.max_length)


def _fewest(body: CompletionBody, prompt_tokens: int) -> _Length:
    return _length(body.fewest_tokens(prompt_tokens), "min_tokens", "min_length", body.min_length)


def _length(tokens: int, plain_field: str, field_with_prompt: str, given_with_prompt: int | None) -> _Length:
    if given_with_prompt is None:
        return _Length(tokens, plain_field, f"'{plain_field}' is {tokens}")
    words = f"'{field_with_prompt}' is {given_with_prompt} ({tokens} behind the prompt)"
    return _Length(tokens, field_with_prompt, words)


def _check_lengths(model: CatalogueEntry, body: CompletionBody, prompt_tokens: int) -> None:
    if prompt_tokens == 0:
        raise InvalidRequest(
            f"'prompt' holds nothing that {model.target.model} can read; give it some text", param="prompt"
        )
    most, fewest = _most(body, prompt_tokens), _fewest(body, prompt_tokens)
    if most.tokens < 0:
        raise InvalidRequest(
            f"'max_length' is {body.max_length}, but the prompt alone has {prompt_tokens} tokens;"
            f" set max_length to more than {prompt_tokens} or shorten the prompt",
            param="max_length",
        )
    if most.tokens == 0 and not body.echo:
        raise InvalidRequest(
            f"{most.words}, which writes nothing; ask for one token or more, or set echo to true to score the prompt",
            param=most.field,
        )
    if most.tokens == 0 and body.num_beams > 1:
        raise InvalidRequest(
            f"'num_beams' is {body.num_beams}, but {most.words}: beams need a token to search; leave num_beams out",
            param="num_beams",
        )
    if fewest.tokens > most.tokens:
        raise InvalidRequest(
            f"{fewest.words}, but {most.words}; lower {fewest.field} or raise {most.field}", param=fewest.field
        )
    _check_limits(model, prompt_tokens, most, least=0 if body.echo else 1)


def _check_limits(model: CatalogueEntry, prompt_tokens: int, most: _Length, *, least: int) -> None:
    limits, name = model.manifest.limits, model.target.model
    if prompt_tokens > MAX_PROMPT_TOKENS:
        raise InvalidRequest(
            f"'prompt' has {prompt_tokens} tokens; shorten it to at most {MAX_PROMPT_TOKENS}", param="prompt"
        )
    if limits.max_tokens is not None and most.tokens > limits.max_tokens:
        raise InvalidRequest(f"{most.words}, but {name} writes at most {limits.max_tokens} at once", param=most.field)
    if limits.context_tokens is None or prompt_tokens + most.tokens <= limits.context_tokens:
        return
    room = limits.context_tokens - prompt_tokens
    remedy = (
        f"set {most.field} to at most {limits.context_tokens if most.field == 'max_length' else room}"
        " or shorten the prompt"
        if room >= least
        else f"shorten the prompt to fewer than {limits.context_tokens} tokens"
    )
    raise InvalidRequest(
        f"'prompt' has {prompt_tokens} tokens and {most.words}, together more than the"
        f" {limits.context_tokens} of {name}'s context; {remedy}",
        param=most.field if room >= least else "prompt",
    )


def _seed(given: int | None) -> int:
    return secrets.randbelow(MAX_SEED + 1) if given is None else given


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)

"""`kamishibai replay`: the promise that a seed fixes the output, checked on one stored job."""

from __future__ import annotations

from pathlib import Path

import click
from redis.exceptions import RedisError

from cli.devices import devices
from cli.generate import load
from contracts.connection import connect
from contracts.errors import InvalidRequest, StoreError
from contracts.jobs import JobQueue
from contracts.requests import TextRequest
from contracts.results import ClassifyResult, ImageResult, Result, TextResult
from contracts.settings import from_environment
from contracts.store import Store
from contracts.tokenizers import Tokenizer
from workers.embedded_redis import running_url


def replay_job(job_id: str, store: Path, redis_url: str | None, device: str) -> None:
    """Say identical, or where it differs and why (click.exceptions.Exit(1)). Raises NotFound, StoreError."""
    settings = from_environment(store=store, redis_url=redis_url or running_url(store))
    jobs = JobQueue(connect(settings.redis_url))
    try:
        record = jobs.read(job_id)
    except RedisError as error:
        message = f"Redis cannot be reached ({error}); start `kamishibai up` or give another one with --redis-url"
        raise StoreError(message) from None
    if record.result is None:
        raise InvalidRequest(f"Job {job_id} is {record.status}; only a succeeded job has a result to compare with.")
    target = record.request.target
    local = load(Store(settings.store).open(target.model, target.version), devices(device)[0], target.variant)
    result = local.run(record.request)
    if isinstance(record.result, ImageResult) or isinstance(result, ImageResult):
        difference = _first_picture(jobs.pictures(_image(record.result)), jobs.pictures(_image(result)))
    elif isinstance(record.result, ClassifyResult) or isinstance(result, ClassifyResult):
        difference = _first_classification(_labelled(record.result), _labelled(result))
    else:
        difference = _first_token(record.request, local.bundle.tokenizer(), record.result, result)
    if difference is None:
        click.echo(f"identical ({result.fingerprint})")
        return
    click.secho(f"differs at {difference}", fg="red")
    if record.result.fingerprint != result.fingerprint:
        click.echo(f"why: it was made by {record.result.fingerprint}, and this is {result.fingerprint}")
    elif not local.probe.batch_invariant:
        click.echo("why: this variant gives other bits in other batches (kamishibai models probe)")
    else:
        click.echo("why: unknown; one fingerprint should give one output. Please report it.")
    raise click.exceptions.Exit(1)


def _image(result: Result) -> ImageResult:
    if not isinstance(result, ImageResult):
        raise InvalidRequest("The job's result is none of pictures, but its request asks for some.")
    return result


def _labelled(result: Result) -> ClassifyResult:
    if not isinstance(result, ClassifyResult):
        raise InvalidRequest("The job's result is none of labels, but its request asks for some.")
    return result


def _first_classification(stored: ClassifyResult, again: ClassifyResult) -> str | None:
    pairs = enumerate(zip(stored.classifications, again.classifications, strict=True))
    return next((f"text {place}" for place, pair in pairs if pair[0] != pair[1]), None)


def _first_picture(stored: list[str], again: list[str]) -> str | None:
    return next((f"picture {i}" for i, pair in enumerate(zip(stored, again, strict=True)) if pair[0] != pair[1]), None)


def _first_token(request: object, tokenizer: Tokenizer, stored: TextResult, again: TextResult) -> str | None:
    """Where two results part; in texts counted in tokens of what both share."""
    prompt = request.prompt_tokens if isinstance(request, TextRequest) and request.echo else ()
    for index, (one, other) in enumerate(zip(stored.choices, again.choices, strict=True)):
        if (one.text, one.finish_reason) != (other.text, other.finish_reason):
            # Both texts whole: where they part, a word may be cut into one that the tokenizer does not know.
            tokens, others = tokenizer.encode(one.text), tokenizer.encode(other.text)
            pairs = enumerate(zip(tokens, others, strict=False))
            place = next((place for place, (a, b) in pairs if a != b), min(len(tokens), len(others)))
            return f"token {place - len(prompt)} of choice {index}"
        if one != other:
            return f"the log-probabilities of choice {index}"
    return None

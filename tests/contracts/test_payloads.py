"""Payloads of jobs: their schemas have numbers, and those of the number before are read."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from contracts.announcements import FIRST_PAYLOADS, Announcement
from contracts.errors import NewerRequest
from contracts.requests import PAYLOADS, WRITTEN, ClassifyRequest, ImageRequest, TextRequest, parse_request

# Of every schema that is written, with those of what it holds.
FIELDS = {
    "text:2": "early_stopping echo frequency_penalty ignore_eos length_penalty logit_bias logprobs max_tokens min_p "
    "min_tokens model n no_repeat_ngram_size num_beams presence_penalty prompt_tokens repetition_penalty "
    "schema_version seed stop stop_token_ids stream target task temperature top_k top_p variant version "
    "with_fields",
    "image:1": "count frame_milliseconds latents layout model output_format response_format schema_version seed "
    "stream target task to_seed truncation variant version",
    "classify:1": "model schema_version stream target task texts threshold top_k truncated variant version windows",
}
KINDS: list[type[BaseModel]] = [TextRequest, ImageRequest, ClassifyRequest]
TARGET = {"model": "m", "version": 1, "variant": "pytorch:fp32"}
FIRST_TEXT = {
    "task": "text",
    "schema_version": 1,
    "target": TARGET,
    "seed": 5,
    "prompt_tokens": [1, 2],
    "max_tokens": 7,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.9,
    "stop": ["x"],
    "stream": True,
}


def field_names(kind):
    described = kind.model_json_schema()
    return sorted({name for each in (described, *described["$defs"].values()) for name in each["properties"]})


@pytest.mark.parametrize("kind", KINDS)
def test_who_changes_the_fields_of_a_payload_gives_its_schema_the_next_number(kind):
    name = WRITTEN[kind.model_fields["task"].default]
    assert name == f"{kind.model_fields['task'].default}:{kind.model_fields['schema_version'].default}"
    assert field_names(kind) == FIELDS[name].split(), (
        f"{name} has other fields than it had: older workers would refuse it. Give the schema the next number, read"
        " this one in contracts/requests.py, and note the new fields here"
    )


def test_a_text_of_the_first_schema_is_read_as_it_was_meant():
    request = parse_request(FIRST_TEXT)
    expected = {**FIRST_TEXT, "schema_version": 2, "prompt_tokens": (1, 2), "stop": ("x",)}
    assert request.model_dump(include=set(FIRST_TEXT)) == expected
    plain = TextRequest.model_validate({**expected, "target": request.target})
    assert request == plain, "what it did not know is off"


@pytest.mark.parametrize("payload", [{"task": "text", "schema_version": 3}, {"task": "image", "schema_version": 99}])
def test_a_payload_of_a_schema_to_come_is_said_to_be_newer(payload):
    with pytest.raises(NewerRequest, match=r"its payload is \w+:\d+, and this one reads .*; upgrade it"):
        parse_request({**payload, "new": 1})


def test_a_worker_that_does_not_say_what_it_reads_reads_what_was_written_before_workers_said_it():
    announced = Announcement.model_validate({"worker": "w", "device": "cpu", "ready": True, "models": []})
    assert announced.payloads == FIRST_PAYLOADS <= PAYLOADS

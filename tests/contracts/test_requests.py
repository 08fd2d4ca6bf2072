"""Bodies and requests: what each field takes, and how a refusal is worded."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.errors import InvalidRequest
from contracts.requests import (
    MAX_COUNT,
    MAX_PICTURES,
    MAX_SEED,
    MAX_TEXTS,
    ClassifyBody,
    ClassifyRequest,
    CompletionBody,
    ImageBody,
    ImageRequest,
    JobBody,
    Target,
    TextRequest,
    TokenisedText,
    describe,
    parse_request,
)

TARGET = {"model": "gpt2", "version": 3, "variant": "pytorch:fp32"}
TEXT = {"task": "text", "target": TARGET, "seed": 1, "prompt_tokens": [1, 2]}
CLASSIFY = {"task": "classify", "target": TARGET, "texts": [{"windows": [[1, 2]]}], "threshold": 0.5}
IMAGE = {"task": "image", "target": TARGET, "seed": 1, "count": 2}


@pytest.mark.parametrize(
    ("body", "field", "taken", "refused"),
    [
        (CompletionBody, "prompt", ["a", "\n", "日本", [0, 5], ["a"], [[0], [5, 1]]], ["", 5, [""], [], [-1], [[]]]),
        (CompletionBody, "max_tokens", [0, 1, MAX_COUNT], [-1, MAX_COUNT + 1, 2**70, 1.0, "1", True]),
        (CompletionBody, "temperature", [0, 0.0, 1, 100.0], [-0.1, 100.1, float("nan"), float("inf"), "1"]),
        (CompletionBody, "top_k", [0, 1, MAX_COUNT], [-1, MAX_COUNT + 1, 2**70, 0.5]),
        (CompletionBody, "top_p", [1, 1.0, 1e-9], [0, 0.0, 1.1, -1, float("nan")]),
        (CompletionBody, "seed", [0, MAX_SEED], [-1, MAX_SEED + 1, "1", 1.5]),
        (CompletionBody, "stop", ["a", [], ["a"] * 4, "x" * 256], ["", [""], ["a"] * 5, "x" * 257, [1], 1]),
        (CompletionBody, "n", [1, 16], [0, 17, "1"]),
        (CompletionBody, "echo", [False, True], [1, "true"]),
        (CompletionBody, "logprobs", [0, 20], [-1, 21, True]),
        (CompletionBody, "min_p", [0, 1.0], [-0.1, 1.1, float("nan")]),
        (CompletionBody, "repetition_penalty", [0.1, 100], [0, -1, 101]),
        (CompletionBody, "presence_penalty", [0, -2.0, 2], [2.1, -2.1, "1"]),
        (CompletionBody, "frequency_penalty", [0, -2.0, 2], [2.1, -2.1]),
        (CompletionBody, "no_repeat_ngram_size", [0, 64], [-1, 65]),
        (CompletionBody, "logit_bias", [{}, {"1": 100.0}, {"7": -100}], [{"1": 101}, {"a": 1}, {"-1": 1}, [1]]),
        (CompletionBody, "stop_token_ids", [[], [1, 2]], [[-1], ["1"], 1, list(range(65))]),
        (CompletionBody, "min_tokens", [0, MAX_COUNT], [-1, MAX_COUNT + 1]),
        (CompletionBody, "max_length", [1, MAX_COUNT], [0, -1]),
        (CompletionBody, "ignore_eos", [True, False], [1]),
        (CompletionBody, "stream", [True, False], [1, "true"]),
        (ImageBody, "n", [1, 1000], [0, -1, 1.5, True]),
        (ImageBody, "seed", [0, MAX_SEED], [-1, MAX_SEED + 1]),
        (ImageBody, "response_format", ["b64_json", "url"], ["png", 1]),
        (ImageBody, "stream", [False], [True]),
        (
            ClassifyBody,
            "input",
            ["", "a", ["a"], ["a"] * MAX_TEXTS],
            [[], ["a"] * (MAX_TEXTS + 1), 1, [1], [["a"]], {}],
        ),
        (ClassifyBody, "threshold", [0, 0.5, 1], [-0.1, 1.1, float("nan"), "0.5", True]),
        (ClassifyBody, "top_k", [1, MAX_COUNT], [0, -1, 1.5, MAX_COUNT + 1]),
        (ClassifyBody, "long_texts", ["truncate", "average", "refuse"], [True, "cut", ""]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_field_takes_its_range_and_a_refusal_names_field_and_value(body, field, taken, refused):
    rest = {CompletionBody: {"prompt": "a"}, ClassifyBody: {"input": "a"}}.get(body, {})
    for value in taken:
        assert getattr(body.model_validate(rest | {field: value}), field) == value
    for value in refused:
        with pytest.raises(ValidationError) as caught:
            body.model_validate(rest | {field: value})
        text = describe(caught.value)
        assert re.match(rf"'{field}(\.[^']*)?' is (missing|.+: .+)", text), text
        assert "\n" not in text


@pytest.mark.parametrize("body", [CompletionBody, ImageBody, ClassifyBody])
def test_null_is_a_field_left_out(body):
    fields = set(body.model_fields) - {"prompt", "input"}
    rest = {"input" if body is ClassifyBody else "prompt": "a"}
    assert body.model_validate(rest | dict.fromkeys(fields)) == body.model_validate(rest)


def test_null_does_not_excuse_an_unknown_field():
    with pytest.raises(ValidationError) as caught:
        CompletionBody.model_validate({"prompt": "a", "colour": None})
    assert describe(caught.value) == "'colour' is not a field of this request; remove it"


def test_describe_says_what_is_wrong_and_what_to_do():
    with pytest.raises(ValidationError) as caught:
        CompletionBody.model_validate({"max_tokens": -1, "stop": [""], "x": 1})
    assert describe(caught.value).split("; ") == [
        "'max_tokens' is -1: input should be greater than or equal to 0",
        "'stop' is ['']: give at most 4 stop strings of 1 to 256 characters",
        "'x' is not a field of this request",
        "remove it",
    ]
    assert "'x'" not in describe(caught.value, limit=2)


def test_describe_shortens_values_and_survives_deep_ones():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value, shown in (("y" * 10_000, "'" + "y" * 56 + "..."), (deep, "too deep")):
        with pytest.raises(ValidationError) as caught:
            JobBody.model_validate({"input": value})
        assert describe(caught.value).startswith(f"'input' is {shown}: ")


def test_the_tokens_that_end_a_text():
    request = parse_request(TEXT | {"stop_token_ids": [7]})
    assert isinstance(request, TextRequest)
    assert request.ending_tokens(2) == {2, 7}
    assert request.ending_tokens(None) == {7}
    assert request.model_copy(update={"ignore_eos": True}).ending_tokens(2) == {7}


def test_stops_are_a_tuple_however_they_were_given():
    given_and_meant = [(None, ()), ("a", ("a",)), ([], ()), (["a", "b"], ("a", "b"))]
    for given_stop, meant in given_and_meant:
        assert CompletionBody(prompt="p", stop=given_stop).stops() == meant


@pytest.mark.parametrize(
    ("fields", "most", "fewest"),
    [
        ({}, 16, 0),
        ({"max_tokens": 5}, 5, 0),
        ({"max_new_tokens": 5, "min_tokens": 2}, 5, 2),
        ({"max_length": 30, "min_length": 12}, 20, 2),
        ({"max_length": 5, "min_length": 5}, -5, 0),
    ],
)
def test_lengths_mean_what_they_mean_in_transformers(fields, most, fewest):
    body = CompletionBody.model_validate({"prompt": "a"} | fields)
    assert (body.most_tokens(10), body.fewest_tokens(10)) == (most, fewest)


@pytest.mark.parametrize(
    "fields",
    [{"max_tokens": 1, "max_length": 2}, {"min_tokens": 1, "min_length": 2}, {"n": 2, "best_of": 3}],
    ids=str,
)
def test_fields_that_contradict_each_other_are_refused(fields):
    with pytest.raises(ValidationError):
        CompletionBody.model_validate({"prompt": "a"} | fields)


seeds = st.integers(0, MAX_SEED)
counts = st.integers(1, MAX_COUNT)
pictures = st.integers(1, MAX_PICTURES)
targets = st.builds(Target, model=st.text(), version=st.integers(1, 2**31), variant=st.text())
text_requests = st.builds(
    TextRequest,
    target=targets,
    seed=seeds,
    prompt_tokens=st.lists(st.integers(0, MAX_COUNT), min_size=1).map(tuple),
    max_tokens=counts,
    temperature=st.floats(0, 100),
    top_k=st.integers(0, MAX_COUNT),
    top_p=st.floats(0, 1, exclude_min=True),
    stop=st.lists(st.text(min_size=1, max_size=256), max_size=4).map(tuple),
    stream=st.booleans(),
    logit_bias=st.lists(st.tuples(st.integers(0, MAX_COUNT), st.floats(-100, 100)), max_size=4).map(tuple),
    stop_token_ids=st.lists(st.integers(0, MAX_COUNT), max_size=4).map(tuple),
    n=st.integers(1, 16),
    logprobs=st.none() | st.integers(0, 20),
)
image_requests = st.builds(
    ImageRequest,
    target=targets,
    seed=seeds,
    count=pictures,
    truncation=st.floats(0, 1, exclude_min=True),
    layout=st.sampled_from(["separate", "grid"]),
    frame_milliseconds=st.integers(20, 10_000),
) | st.builds(
    lambda latents, **fields: ImageRequest(latents=latents, count=len(latents), **fields),
    target=targets,
    seed=seeds,
    latents=st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4).map(
        tuple
    ),
    layout=st.just("animation"),
    output_format=st.sampled_from(["gif", "webp"]),
)


windows = st.lists(st.integers(0, MAX_COUNT), min_size=1).map(tuple)
classify_requests = st.builds(
    ClassifyRequest,
    target=targets,
    texts=st.lists(
        st.builds(
            TokenisedText,
            windows=st.lists(st.lists(st.integers(0, MAX_COUNT), min_size=1).map(tuple), min_size=1, max_size=3).map(
                tuple
            ),
            truncated=st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ).map(tuple),
    threshold=st.none() | st.floats(0, 1),
    top_k=st.none() | counts,
)


@given(text_requests | image_requests | classify_requests)
def test_a_request_is_the_same_after_its_way_through_json(request_):
    assert parse_request(json.loads(json.dumps(request_.model_dump(mode="json")))) == request_


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
LIKELY = st.fixed_dictionaries({field: st.just(value) | JSON for field, value in TEXT.items()}, optional={"x": JSON})


@given(JSON | LIKELY)
@example({"task": "a\r\nb"})
@example(TEXT | {"a\nb\u2028": 1})
def test_a_payload_is_a_request_or_refused_and_nothing_else(payload):
    try:
        request = parse_request(payload)
    except InvalidRequest as error:
        refusal = error.message
    else:
        assert isinstance(request, TextRequest | ImageRequest | ClassifyRequest)
        return
    assert len(refusal.splitlines()) == 1


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (TEXT | {"colour": 1}, "'text.colour' is not a field"),
        (TEXT | {"schema_version": 0}, "'text.schema_version' is 0"),
        (TEXT | {"task": "dance"}, "'dance'"),
        (TEXT | {"prompt_tokens": []}, "'text.prompt_tokens'"),
        (TEXT | {"prompt_tokens": [-1]}, "'text.prompt_tokens.0' is -1"),
        (TEXT | {"prompt_tokens": [2**31]}, "'text.prompt_tokens.0'"),
        (TEXT | {"prompt_tokens": ["1"]}, "'text.prompt_tokens.0' is '1'"),
        (TEXT | {"stop": [""]}, "'text.stop.0'"),
        (TEXT | {"max_tokens": 2**40}, "'text.max_tokens'"),
        (TEXT | {"target": TARGET | {"version": "3"}}, "'text.target.version' is '3'"),
        (IMAGE | {"count": 0}, "'image.count' is 0"),
        (IMAGE | {"count": 2**70}, "'image.count'"),
        (IMAGE | {"stream": True}, "'image.stream' is True"),
        (IMAGE | {"prompt_tokens": [1]}, "'image.prompt_tokens' is not a field"),
        (IMAGE | {"latents": []}, "there are 0 latents; give one for each"),
        (IMAGE | {"latents": [[float("nan")]]}, "'image.latents.0.0' is nan: input should be"),
        (IMAGE | {"latents": [[101]]}, "less than or equal to 100"),
        (IMAGE | {"latents": [[0]] * 1025}, "at most 1024 items"),
        (IMAGE | {"truncation": 0}, "'image.truncation' is 0"),
        (IMAGE | {"count": 1, "to_seed": 4}, "to_seed needs two pictures or more"),
        (IMAGE | {"count": 2, "latents": [[1], [2]], "to_seed": 4}, "no latents"),
        (IMAGE | {"layout": "grid", "output_format": "npy"}, "layout grid is png"),
        (CLASSIFY | {"texts": []}, "'classify.texts'"),
        (CLASSIFY | {"texts": [{"windows": [[]]}]}, "'classify.texts.0.windows.0'"),
        (CLASSIFY | {"texts": [{"windows": [[1]]}] * (MAX_TEXTS + 1)}, "at most 64 items"),
        (CLASSIFY | {"texts": [{"windows": [[1]] * 65}]}, "at most 64 items"),
        (CLASSIFY | {"threshold": 2}, "'classify.threshold' is 2"),
        (CLASSIFY | {"seed": 1}, "'classify.seed' is not a field"),
        ({key: value for key, value in TEXT.items() if key != "seed"}, "'text.seed' is missing"),
        ({key: value for key, value in TEXT.items() if key != "task"}, "'task'"),
        ([], "'body' is []"),
        (None, "'body' is None"),
    ],
)
def test_a_foreign_payload_is_refused_by_field(payload, named):
    with pytest.raises(InvalidRequest) as caught:
        parse_request(payload)
    assert named in caught.value.message


def test_a_request_cannot_be_changed():
    request = parse_request(TEXT)
    with pytest.raises(ValidationError):
        setattr(request, "seed", 2)  # noqa: B010 - a type checker would refuse the plain assignment, as it should


def test_queue_names_tell_targets_apart_and_are_safe_in_keys():
    names = {
        Target(model=model, version=version, variant=variant).queue()
        for model in ("a", "a.b", "a-1")
        for version in (1, 11)
        for variant in ("pytorch:fp32", "onnx:int8")
    }
    assert len(names) == 12
    assert all(re.fullmatch(r"[a-z0-9._-]+@\d+/[a-z0-9-]+/normal", name) for name in names), names

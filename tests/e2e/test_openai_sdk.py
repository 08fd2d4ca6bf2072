"""OpenAI's own SDK, as it is, against the running product: the same numbers by every way through it."""

from __future__ import annotations

import asyncio
import base64
import urllib.request
from itertools import pairwise
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

PROMPTS = ["the quick", " brown fox jumps", "over", "the lazy dog and runs away from the old town", "a"]
SETTINGS: dict[str, Any] = {"max_tokens": 24, "temperature": 1.0, "seed": 11, "n": 2, "logprobs": 2}
OURS = {"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 3, "ignore_eos": True}


@pytest.fixture(scope="module")
def root(store):
    return store.root


@pytest.fixture(scope="module")
def sdk(shared_product):
    with OpenAI(base_url=f"{shared_product.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def told(completion):
    """All that is said of each choice."""
    return [choice.model_dump(exclude={"index"}) for choice in completion.choices]


def put_together(chunks):
    """The text and the reason of each choice of a stream, and its usages."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    usages = []
    for chunk in chunks:
        usages += [chunk.usage.model_dump()] if chunk.usage else []
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return [(texts[index], reasons[index]) for index in sorted(texts)], usages


@pytest.mark.parametrize("model", ["gpt2", "lstm"])
@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS | {"n": 1, "echo": True, "extra_body": OURS}])
def test_a_prompt_of_a_list_gives_bit_for_bit_what_it_gives_alone(sdk, store, model, settings):
    tokenizer = store.open(model).tokenizer()
    alone = [sdk.completions.create(model=model, prompt=prompt, **settings) for prompt in PROMPTS]
    wanted = [choice for completion in alone for choice in told(completion)]
    assert len({str(choice) for choice in wanted}) == len(wanted)
    for prompt in (PROMPTS, [tokenizer.encode(prompt) for prompt in PROMPTS]):
        together = sdk.completions.create(model=model, prompt=prompt, **settings)
        assert [choice.index for choice in together.choices] == list(range(len(wanted)))
        assert told(together) == wanted
        for part in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert getattr(together.usage, part) == sum(getattr(each.usage, part) for each in alone)
    tokens = sdk.completions.create(model=model, prompt=tokenizer.encode(PROMPTS[1]), **settings)
    assert told(tokens) == told(alone[1])


def test_a_list_without_a_seed_names_the_one_that_draws_it_again(sdk):
    first = sdk.completions.create(model="lstm", prompt=PROMPTS, max_tokens=12)
    again = sdk.completions.create(model="lstm", prompt=PROMPTS, max_tokens=12, seed=first.model_extra["seed"])
    assert told(first) == told(again)
    assert told(first) != told(sdk.completions.create(model="lstm", prompt=PROMPTS, max_tokens=12))


@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS])
@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_says_what_the_whole_answer_says_and_usage_only_if_asked(sdk, prompt, usage):
    asked = {"model": "lstm", "prompt": prompt, **SETTINGS, "max_tokens": 200}
    whole = sdk.completions.create(**asked)
    options = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(sdk.completions.create(**asked, stream=True, **options))
    texts, usages = put_together(chunks)
    assert texts == [(choice.text, choice.finish_reason) for choice in whole.choices]
    assert usages == ([whole.usage.model_dump()] if usage else [])
    assert (chunks[-1].choices == []) is usage
    indexes = [choice.index for chunk in chunks for choice in chunk.choices]
    assert any(one > other for one, other in pairwise(indexes)), "no choice waits for another"
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_async_client_gets_the_same_with_many_calls_and_streams_at_once(shared_product, sdk):
    wanted = [told(sdk.completions.create(model="lstm", prompt=prompt, **SETTINGS)) for prompt in PROMPTS]

    async def streamed(client, prompt):
        stream = await client.completions.create(model="lstm", prompt=prompt, stream=True, **SETTINGS)
        return put_together([chunk async for chunk in stream])[0]

    async def run():
        async with AsyncOpenAI(base_url=f"{shared_product.url}/v1", api_key="none", max_retries=0) as client:
            prompts: list[Any] = [*PROMPTS, PROMPTS]
            calls = [client.completions.create(model="lstm", prompt=prompt, **SETTINGS) for prompt in prompts]
            streams = [streamed(client, prompt) for prompt in PROMPTS]
            models = [model.id async for model in client.models.list()]
            picture = await client.images.generate(model="faces", prompt="", response_format="url")
            return models, picture, await asyncio.gather(*calls), await asyncio.gather(*streams)

    models, picture, completions, streams = asyncio.run(run())
    assert models == ["faces", "gpt2", "lstm"]
    assert picture.data[0].url
    *alone, together = completions
    assert [told(completion) for completion in alone] == wanted
    assert told(together) == [choice for each in wanted for choice in each]
    assert streams == [[(choice["text"], choice["finish_reason"]) for choice in each] for each in wanted]


def test_parameters_of_openais_and_of_ours_reach_the_engine(sdk, store):
    asked = {"model": "lstm", "prompt": "the quick", "temperature": 0, "max_tokens": 12}
    plain = sdk.completions.create(**asked)
    echoed = sdk.completions.create(**asked, echo=True, logprobs=3)
    assert echoed.choices[0].text == "the quick" + plain.choices[0].text
    logprobs = echoed.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None
    assert len(logprobs.tokens) == echoed.usage.total_tokens
    assert all(len(likeliest) in (3, 4) for likeliest in logprobs.top_logprobs[1:])
    stop = plain.choices[0].text[3:6]
    stopped = sdk.completions.create(**asked, stop=[stop, "never written"])
    assert stopped.choices[0].text == plain.choices[0].text.partition(stop)[0]
    assert stopped.choices[0].finish_reason == "stop"
    (first, *_) = store.open("lstm").tokenizer().encode(plain.choices[0].text)
    banned = sdk.completions.create(**asked, logit_bias={str(first): -100})
    assert plain.choices[0].text[0] not in banned.choices[0].text
    beams = sdk.completions.create(**asked, n=2, extra_body={"num_beams": 4, "no_repeat_ngram_size": 2})
    best, second = (choice.model_extra["beam_score"] for choice in beams.choices)
    assert best >= second


def test_models_are_listed_and_retrieved(sdk):
    models = sdk.models.list()
    assert [(model.id, model.object, model.owned_by) for model in models] == [
        (name, "model", "kamishibai") for name in ("faces", "gpt2", "lstm")
    ]
    assert sdk.models.retrieve("gpt2").model_extra["limits"] == {"context_tokens": 256}
    assert sdk.models.retrieve("gpt2@1").id == "gpt2"
    with pytest.raises(openai.NotFoundError, match="there is: faces, gpt2, lstm"):
        sdk.models.retrieve("gpt-4o")


def test_pictures_come_in_base64_or_by_urls_that_anybody_may_fetch(sdk):
    encoded = sdk.images.generate(model="faces", prompt="", n=3, extra_body={"seed": 4})
    linked = sdk.images.generate(model="faces", prompt="", n=3, response_format="url", extra_body={"seed": 4})
    assert [picture.url for picture in encoded.data] == [picture.b64_json for picture in linked.data] == [None] * 3
    for picture, link in zip(encoded.data, linked.data, strict=True):
        with urllib.request.urlopen(link.url) as answer:
            assert answer.headers["Content-Type"] == "image/png"
            png = answer.read()
        assert png.startswith(b"\x89PNG")
        assert png == base64.b64decode(picture.b64_json)


def test_a_stream_that_is_closed_in_mid_text_cancels_its_job(shared_product, sdk):
    stream = sdk.completions.create(model="lstm", prompt="the quick", max_tokens=4096, stream=True)
    job_id = next(stream).id.removeprefix("cmpl-")
    stream.close()
    job = shared_product.get(f"/v1/jobs/{job_id}?wait=20")[1]
    assert job["status"] == "cancelled"

"""OpenAI's own SDK, sync and async: what it raises, what it repeats, and what it leaves behind when it goes."""

from __future__ import annotations

import asyncio
import time

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from contracts.api_keys import ApiKeys
from contracts.errors import EngineFailed, InvalidRequest, JobTimedOut, LeaseLost
from contracts.jobs import JobQueue

ASK = {"model": "tiny-text", "prompt": "ab"}


@pytest.fixture
def sdk(server):
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def async_sdk(server):
    """Closes with its loop; use it as `async with`."""
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def statuses(redis):
    return sorted(JobQueue(redis).read(key.decode().removeprefix("rq:job:")).status for key in redis.keys("rq:job:*"))


@pytest.mark.parametrize(
    ("fields", "kind", "param", "message"),
    [
        ({"max_tokens": 33}, openai.BadRequestError, "max_tokens", "tiny-text writes at most 32 at once"),
        ({"temperature": -1}, openai.BadRequestError, "temperature", "greater than or equal to 0"),
        ({"prompt": ["ab", ""]}, openai.BadRequestError, "prompt", "'prompt.1'"),
        ({"extra_body": {"colour": 1}}, openai.BadRequestError, "colour", "'colour' is not a field"),
        ({"model": "gpt-4o"}, openai.NotFoundError, "model", "there is: tiny-labels, tiny-picture, tiny-text"),
        ({"model": "unserved"}, openai.InternalServerError, "model", "No ready worker serves 'unserved'"),
    ],
)
def test_a_refusal_is_the_sdks_own_exception_with_message_and_param(sdk, fields, kind, param, message):
    with pytest.raises(kind) as caught:
        sdk.completions.create(**ASK | fields)
    assert message in caught.value.message
    assert (caught.value.param, caught.value.request_id) == (param, caught.value.response.headers["x-request-id"])
    assert caught.value.code in {"invalid_value", "model_not_found", "no_worker"}


def test_an_unknown_key_and_one_without_the_scope_have_their_exceptions(start, redis):
    key = ApiKeys(redis).create("one", "infer")
    with OpenAI(base_url=f"{start().url}/v1", api_key="sk-unknown", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError, match="not known here"):
            sdk.models.list()
        with pytest.raises(openai.PermissionDeniedError, match="needs a key with admin"):
            sdk.with_options(api_key=key).get("/../metrics", cast_to=str)


def test_chat_is_not_found_and_the_message_names_the_route_for_text(sdk):
    with pytest.raises(openai.NotFoundError, match="send a 'prompt' to POST /v1/completions"):
        sdk.chat.completions.create(model="tiny-text", messages=[{"role": "user", "content": "hello"}])


@pytest.mark.parametrize(
    ("error", "kind", "attempts"),
    [
        (InvalidRequest("no such token"), openai.BadRequestError, 1),
        (EngineFailed("it kills its engine"), openai.InternalServerError, 1),
        (JobTimedOut("too long"), openai.InternalServerError, 1),
        (LeaseLost("the worker went away"), openai.InternalServerError, 2),
    ],
)
def test_the_sdk_repeats_only_what_may_succeed_later(sdk, worker, redis, error, kind, attempts):
    with worker.working(lambda job_id: worker.fail(job_id, error)), pytest.raises(kind, match=error.message):
        sdk.with_options(max_retries=1).completions.create(**ASK)
    assert statuses(redis) == ["failed"] * attempts


def test_an_error_in_mid_stream_is_raised_behind_the_text(sdk, worker):
    error = EngineFailed("out of memory")

    def fail_second(job_id):
        if worker.request(job_id).prompt_tokens == (0,):
            worker.finish(job_id, "hello")
        else:
            time.sleep(0.2)
            worker.fail(job_id, error)

    with worker.working(fail_second):
        stream = sdk.completions.create(model="tiny-text", prompt=["a", "b"], stream=True)
        assert [next(stream).choices[0].text for _ in range(2)] == ["hello", ""]
        with pytest.raises(openai.APIError, match="out of memory"):
            next(stream)


def test_the_request_id_is_in_every_answer_and_the_clients_own_is_kept(sdk, worker):
    with worker.working():
        raw = sdk.completions.with_raw_response.create(**ASK, extra_headers={"x-request-id": "my-run-7"})
        assert raw.headers["x-request-id"] == raw.request_id == "my-run-7"
        assert raw.parse().choices[0].text == "hello"
        completion = sdk.completions.create(**ASK)
        with sdk.completions.with_streaming_response.create(**ASK, stream=True) as streamed:
            assert streamed.headers["x-request-id"]
            assert "[DONE]" in "".join(streamed.iter_lines())
    assert completion._request_id


@pytest.mark.parametrize("prompt", ["ab", ["a", "b", "c"]])
@pytest.mark.parametrize("stream", [False, True])
def test_a_time_out_of_the_sdk_frees_its_jobs(sdk, worker, redis, eventually, prompt, stream):
    with pytest.raises(openai.APITimeoutError):
        list(sdk.with_options(timeout=0.5).completions.create(model="tiny-text", prompt=prompt, stream=stream))
    eventually(lambda: statuses(redis) == ["cancelled"] * (1 if isinstance(prompt, str) else 3))


@pytest.mark.parametrize("prompt", ["ab", ["a", "b", "c"]])
def test_a_stream_that_is_closed_frees_its_jobs(sdk, worker, redis, eventually, prompt):
    stream = sdk.completions.create(model="tiny-text", prompt=prompt, stream=True)
    job_id = worker.take()
    worker.delta(job_id, 0, "hel")
    stream.close()
    eventually(lambda: statuses(redis) == ["cancelled"] * (1 if isinstance(prompt, str) else 3))


def test_an_async_task_that_is_cancelled_frees_its_jobs(async_sdk, worker, redis, eventually):
    async def run():
        async with async_sdk:
            task = asyncio.create_task(async_sdk.completions.create(model="tiny-text", prompt=["a", "b"]))
            await asyncio.to_thread(worker.take)
            await asyncio.to_thread(worker.take)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    eventually(lambda: statuses(redis) == ["cancelled"] * 2)


def test_an_async_stream_that_is_left_frees_its_jobs(async_sdk, worker, redis, eventually):
    async def run():
        async with async_sdk:
            stream = await async_sdk.completions.create(model="tiny-text", prompt=["a", "b"], stream=True)
            async with stream:
                await asyncio.to_thread(worker.take)

    asyncio.run(run())
    eventually(lambda: statuses(redis) == ["cancelled"] * 2)


def test_many_async_calls_at_once_each_get_their_own(async_sdk, worker):
    async def run():
        async with async_sdk:
            calls = [async_sdk.completions.create(**ASK, seed=seed, n=1 + seed % 3) for seed in range(30)]
            return await asyncio.gather(*calls)

    with worker.working():
        completions = asyncio.run(run())
    assert [completion.model_extra["seed"] for completion in completions] == list(range(30))
    assert [len(completion.choices) for completion in completions] == [1 + seed % 3 for seed in range(30)]

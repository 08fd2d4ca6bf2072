"""`kamishibai replay`: a stored job run again, alone and in this process, against what a real worker made of it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from contracts.orders import Order
from contracts.requests import ImageRequest, TextRequest

LIFETIMES: dict[str, Any] = {"result_seconds": 300, "timeout_seconds": 60}
IDENTICAL = r"identical \((fp_[0-9a-f]{16})\)\n"


@pytest.fixture
def replay(kamishibai, store, redis_url):
    return lambda job: kamishibai("replay", job, "--store", store.root, "--redis-url", redis_url, "--device", "cpu")


@pytest.fixture
def text(store):
    """A text request with three choices; characters are tokens, so that places in the text can be counted."""
    bundle = store.open("lstm")
    tokens = tuple(bundle.tokenizer().encode("A story"))
    return TextRequest(target=bundle.target(), seed=7, prompt_tokens=tokens, max_tokens=30, n=3)


@pytest.fixture
def change(connection) -> Callable[[str, Callable[[dict[str, Any]], None]], None]:
    """Change the stored result of a job behind everybody's back."""

    def change_it(job: str, edit: Callable[[dict[str, Any]], None]) -> None:
        ((_, fields),) = connection.xrevrange(f"rq:results:{job}", count=1)
        result = json.loads(base64.b64decode(fields[b"return_value"]))
        edit(result)
        fields[b"return_value"] = base64.b64encode(json.dumps(result).encode())
        connection.xadd(f"rq:results:{job}", fields)

    return change_it


def requests_of(store):
    """One of each model, and every kind of setting."""
    gpt2 = store.open("gpt2")
    tokens = tuple(gpt2.tokenizer().encode("the quick brown fox"))
    drawn: dict[str, Any] = {
        "temperature": 1.2,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "echo": True,
        "logprobs": 2,
    }
    return {
        "sampled": TextRequest(target=gpt2.target(), seed=1, prompt_tokens=tokens, max_tokens=40, n=4, **drawn),
        "greedy": TextRequest(target=gpt2.target(), seed=2, prompt_tokens=tokens, max_tokens=60, temperature=0.0),
        "stopped": TextRequest(
            target=store.open("lstm").target(), seed=3, prompt_tokens=(5, 6), max_tokens=200, stop=("e", "ab")
        ),
        "pictures": ImageRequest(target=store.open("faces").target(), seed=4, count=5),
    }


def test_what_a_worker_made_in_company_is_identical_alone(start_worker, jobs, wait_ended, store, replay):
    start_worker()
    ids = {name: jobs.submit(Order(request=request, **LIFETIMES)) for name, request in requests_of(store).items()}
    for name, job in ids.items():
        record = wait_ended(job)
        assert record.status == "succeeded", record.error
        ended = replay(job)
        assert (ended.status, ended.err) == (0, ""), name
        match = re.fullmatch(IDENTICAL, ended.out)
        assert match, ended.out
        assert match[1] == record.result.fingerprint


def test_a_changed_result_is_told_by_token_choice_and_fingerprint(start_worker, jobs, wait_ended, text, replay, change):
    start_worker()
    for echo in (False, True):
        job = jobs.submit(Order(request=text.model_copy(update={"echo": echo}), **LIFETIMES))
        made_by = wait_ended(job).result.fingerprint
        place = 12 + echo * len(text.prompt_tokens)  # the prompt's tokens are not the model's

        def another_letter(result, place=place):
            told = result["choices"][1]["text"]
            result["choices"][1]["text"] = told[:place] + ("b" if told[place] == "a" else "a") + told[place + 1 :]

        change(job, another_letter)
        ended = replay(job)
        assert ended.status == 1
        assert ended.out.splitlines()[0] == "differs at token 12 of choice 1"
        assert "Please report it" in ended.out, "the same kernels made it: that is a bug of ours"
        change(job, lambda result: result.update(fingerprint="fp_of_another_gpu"))
        ended = replay(job)
        assert ended.status == 1
        assert ended.out.splitlines() == [
            "differs at token 12 of choice 1",
            f"why: it was made by fp_of_another_gpu, and this is {made_by}",
        ]


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (lambda choices: choices[2].update(text=choices[2]["text"] + "abc"), "token 30 of choice 2"),
        (lambda choices: choices[0].update(text=choices[0]["text"][:9]), "token 9 of choice 0"),
        (lambda choices: choices[1].update(finish_reason="stop"), "token 30 of choice 1"),
        (
            lambda choices: choices[1]["logprobs"]["token_logprobs"].__setitem__(4, -0.5),
            "the log-probabilities of choice 1",
        ),
    ],
    ids=["longer", "shorter", "finish reason", "log-probability"],
)
def test_every_part_of_a_text_is_compared(
    kamishibai, store, redis_url, jobs, text, change, replay, connection, edit, place
):
    job = run_here(store, connection, jobs, text.model_copy(update={"logprobs": 1}))
    assert re.fullmatch(IDENTICAL, replay(job).out)
    change(job, lambda result: edit(result["choices"]))
    ended = replay(job)
    assert ended.status == 1
    assert ended.out.splitlines()[0] == f"differs at {place}"


def run_here(store, connection, jobs, request) -> str:
    """A job whose result this process makes, and leaves where a worker does."""
    from workers.leases import Ending, Leases
    from workers.local import LocalModel

    job: str = jobs.submit(Order(request=request, **LIFETIMES))
    leases = Leases(connection, "here")
    (lease,) = leases.claim({request.target.engine: 1})
    result = LocalModel(store.open(request.target.model)).run(request)
    leases.complete([Ending(lease, "finished", result=result)])
    return job


def test_changed_pictures_are_told_by_number(start_worker, jobs, wait_ended, store, replay, connection):
    start_worker()
    job = jobs.submit(Order(request=ImageRequest(target=store.open("faces").target(), seed=4, count=5), **LIFETIMES))
    key = wait_ended(job).result.pictures_key
    connection.lset(key, 3, connection.lindex(key, 2))
    ended = replay(job)
    assert ended.status == 1
    assert ended.out.splitlines()[0] == "differs at picture 3"


def one_line(ended) -> str:
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("Error: ")
    assert len(ended.err.splitlines()) == 1, ended.err
    return str(ended.err)


def test_only_a_succeeded_job_is_replayed(jobs, text, replay):
    queued = jobs.submit(Order(request=text, **LIFETIMES))
    assert f"{queued} is queued; only a succeeded job" in one_line(replay(queued))
    jobs.cancel(queued)
    assert f"{queued} is cancelled; only a succeeded job" in one_line(replay(queued))
    assert "There is no job 'unknown'" in one_line(replay("unknown"))


def test_without_a_redis_the_error_is_one_line(kamishibai, store, tmp_path):
    url = f"unix://secret:word@{tmp_path}/none.sock"
    said = one_line(kamishibai("replay", "job", "--store", store.root, "--redis-url", url))
    assert "Redis cannot be reached" in said
    assert "--redis-url" in said
    assert "word" not in said

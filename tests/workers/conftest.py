"""Requests by number, and the results that they get alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from contracts.jobs import JobQueue, JobRecord
from contracts.requests import ImageRequest, TextRequest
from contracts.results import ImageResult
from contracts.store import Store
from workers.local import LocalModel


@pytest.fixture(scope="session")
def local(store: Store) -> dict[str, LocalModel]:
    return {name: LocalModel(store.open(name)) for name in store.names()}


@pytest.fixture
def request_of(store: Store) -> Callable[..., TextRequest | ImageRequest]:
    """A request by number, which is its seed; all differ. Numbers 0, 3, 6, ... are for lstm, then gpt2, then faces."""

    def make(number: int, **changes):
        name = ("lstm", "gpt2", "faces")[number % 3]
        bundle = store.open(name)
        if name == "faces":
            return ImageRequest(target=bundle.target(), seed=number, count=1 + number % 5)
        tokens = bundle.tokenizer().encode("the quick brown fox jumps over the lazy dog "[: 3 + number % 40])
        fields = {
            "max_tokens": 5 + number,
            "temperature": (0.0, 1.0)[number % 2],
            "stream": number % 4 == 0,
            "n": 1 + number % 3,
            "num_beams": 4 if number % 7 == 1 else 1,
            "logprobs": (None, 2)[number % 2],
            "echo": number % 5 == 0,
            "stop": ("th", "qu") if number % 4 == 1 else (),
        } | changes
        return TextRequest(target=bundle.target(), seed=number, prompt_tokens=tuple(tokens), **fields)

    return make


@pytest.fixture
def assert_right(jobs: JobQueue, local: dict[str, LocalModel]) -> Callable[..., None]:
    """The result is the one that the request gets alone; `jobs` is where its pictures are."""

    def check(record: JobRecord, jobs: JobQueue = jobs) -> None:
        assert record.status == "succeeded", record.error
        expected = local[record.request.target.model].run(record.request)
        if isinstance(record.result, ImageResult) and isinstance(expected, ImageResult):
            assert jobs.pictures(record.result) == expected.pictures
        else:
            assert record.result == expected

    return check

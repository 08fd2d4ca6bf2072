"""Jobs and bundles that others wrote harm nobody but themselves, and a worker stays as large as it was."""

from __future__ import annotations

import json
import logging
import shutil
import time
import zlib
from itertools import cycle, islice
from typing import Any

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from safetensors.torch import load_file, save_file

from contracts.announcements import read_announcements
from contracts.bundle import MANIFEST, WEIGHTS, sha256_of
from contracts.enqueue import JOB_FUNCTION, MAX_DATA_BYTES
from contracts.errors import InvalidRequest, StoreError
from contracts.orders import Order
from contracts.requests import MAX_PICTURES, MAX_PROMPT_TOKENS, ImageRequest, TextRequest
from contracts.store import Store
from contracts.tokenizers import CharacterTokenizer
from workers.engines.loading import load_model
from workers.flight import Flight, take_off
from workers.leases import Lease
from workers.local import LocalModel
from workers.rq_worker import RqRegistration
from workers.tasks import _model, perform

often = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
GROWTH_BYTES = 32 << 20


@pytest.fixture(scope="module")
def payloads(store):
    """A good one for each model, with every field."""
    text = {"seed": 3, "prompt_tokens": (4, 5), "max_tokens": 9, "stop": ("x",), "stop_token_ids": (7,), "n": 2}
    settings = {"logit_bias": ((3, 1.5),), "logprobs": 2, "echo": True, "num_beams": 2, "stream": True}
    return [
        TextRequest.model_validate({"target": store.open("lstm").target(), **text, **settings}).model_dump(mode="json"),
        TextRequest.model_validate({"target": store.open("gpt2").target(), **text}).model_dump(mode="json"),
        ImageRequest(target=store.open("faces").target(), seed=3, count=2).model_dump(mode="json"),
    ]


def call_of(payload) -> list:
    return [JOB_FUNCTION, None, [payload], {}]


# Payloads


@often
@given(data=st.data())
def test_a_spoiled_job_is_taken_off_or_refused_in_one_line(store, payloads, spoiled, damaged, data):
    payload = data.draw(st.sampled_from(payloads))
    bundle = store.open(payload["target"]["model"])
    packed = zlib.compress(data.draw(spoiled(call_of(payload))))
    lease = Lease("job", "execution", bundle.target().queue(), data.draw(st.just(packed) | damaged(packed)), 60.0)
    try:
        assert isinstance(take_off(lease, bundle, "fingerprint"), Flight)
    except InvalidRequest as error:
        refusal = error.message
    else:
        return
    assert 20 < len(refusal) <= 2000
    assert refusal.isprintable()


@settings(often, max_examples=40)
@given(data=st.data())
def test_a_stock_worker_runs_or_refuses_a_spoiled_payload(store, payloads, spoiled, monkeypatch, data):
    monkeypatch.setenv("KAMISHIBAI_STORE", str(store.root))
    _model.cache_clear()
    try:
        payload = json.loads(data.draw(spoiled(data.draw(st.sampled_from(payloads)))))
    except (ValueError, RecursionError):
        return  # RQ itself would not have read it
    try:
        assert perform(payload)["task"] in ("text", "image")
    except (InvalidRequest, StoreError) as error:
        refusal = str(error)
    else:
        return
    assert 20 < len(refusal) <= 2000


@pytest.mark.parametrize(
    ("number", "fields", "named"),
    [
        (0, {"max_tokens": 2**31 - 1}, "writes at most 4096 at once"),
        (0, {"prompt_tokens": [1] * (MAX_PROMPT_TOKENS + 1)}, "at most 65536 items"),
        (0, {"stop": ["x" * 257]}, "at most 256 characters"),
        (0, {"stop": ["x"] * 5}, "at most 4 items"),
        (2, {"count": MAX_PICTURES + 1}, "less than or equal to 1024"),
        (2, {"latents": [[1e9], [0]]}, "less than or equal to 100"),
    ],
)
def test_a_job_larger_than_a_client_may_ask_for_is_refused(store, payloads, number, fields, named):
    bundle = store.open(payloads[number]["target"]["model"])
    data = zlib.compress(json.dumps(call_of(payloads[number] | fields)).encode())
    with pytest.raises(InvalidRequest, match=named):
        take_off(Lease("job", "execution", bundle.target().queue(), data, 60.0), bundle, "fingerprint")


def test_a_file_of_more_pixels_than_a_client_may_ask_for_is_refused(store, payloads, monkeypatch):
    monkeypatch.setattr("contracts.requests.MAX_FILE_PIXELS", 3 * 16 * 16)
    target = store.open("faces").target()

    def lease(count):
        data = zlib.compress(json.dumps(call_of(payloads[2] | {"count": count, "layout": "grid"})).encode())
        return Lease("job", "execution", target.queue(), data, 60.0)

    assert take_off(lease(3), store.open("faces"), "fingerprint")
    with pytest.raises(InvalidRequest, match="at most 3 in one file"):
        take_off(lease(4), store.open("faces"), "fingerprint")


def test_a_request_that_was_stopped_midway_leaves_nothing_to_the_next(store):
    local = LocalModel(store.open("lstm"))
    request = TextRequest(target=local.bundle.target(), seed=3, prompt_tokens=(4, 5), max_tokens=200)
    alone = local.run(request)

    def stop(text: str) -> None:
        raise TimeoutError(text)

    with pytest.raises(TimeoutError):
        local.text(request.model_copy(update={"seed": 4, "n": 3}), on_text=stop)
    assert local.run(request) == alone


@pytest.mark.parametrize("command", [b"", b"[", b"5", b'{"command": 5}', b'{"command": "stop-job"}', b"[" * 100_000])
def test_a_command_that_is_none_is_dropped(redis_url, connection, command, caplog):
    caplog.set_level(logging.WARNING)
    registration = RqRegistration(connection, "w", ["q"], lambda _: pytest.fail("nobody was to be stopped"))
    registration.handle_payload({"data": command})
    assert len(caplog.messages) <= 1


# A whole worker


JUNK: dict[Any, Any] = {
    "created_at": "yesterday",
    "timeout": "1e999",
    "result_ttl": "nan",
    "failure_ttl": "60",
    "retries_left": "x",
}


def planted(connection: Redis, payloads) -> dict[str, bytes]:
    """Bad jobs by their ids: data of many kinds, all on the queue of the character model."""
    text, queue = payloads[0], "lstm@1/pytorch-fp32/normal"
    changes = [
        {"max_tokens": 10**400},
        {"seed": "\ud800"},
        {"prompt_tokens": list(range(70_000))},
        {"prompt_tokens": [61] * 30_000 + [10**6]},
        {"stop": [["x"]] * 30_000},
        {"x" * 100_000: 1},
        {str(number): 1 for number in range(5000)},
        {"temperature": float("nan")},
        {"logit_bias": [[1, 1.0]] * 30_000},
    ]
    deep = b"[" * 500_000
    contents = [*(json.dumps(call_of(text | change)).encode() for change in changes), deep, b" " * (MAX_DATA_BYTES + 9)]
    raw = [*map(zlib.compress, contents), b"", b"\x80\x04pickle", zlib.compress(contents[0])[:-9]]
    jobs = {}
    for number, data in enumerate(islice(cycle(raw), 200)):
        jobs[f"bad-{number}"] = data
        connection.hset(f"rq:job:bad-{number}", mapping={"status": "queued", "origin": queue, "data": data, **JUNK})
        connection.rpush(f"rq:queue:{queue}", f"bad-{number}")
    return jobs


def test_hundreds_of_bad_jobs_fail_alone_and_leave_a_worker_as_large_as_before(
    start_worker, jobs, connection, payloads, wait_ended
):
    parent = psutil.Process(start_worker().pid)
    processes = [parent, *parent.children()]

    def run_all() -> None:
        bad = planted(connection, payloads)
        request = TextRequest.model_validate({**payloads[0], "max_tokens": 3, "num_beams": 1})
        good = jobs.submit(Order(request=request, result_seconds=60, timeout_seconds=60))
        assert wait_ended(good).status == "succeeded"
        deadline = time.monotonic() + 60
        while {connection.hget(f"rq:job:{job_id}", "status") for job_id in bad} != {b"failed"}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert all(0 < connection.ttl(f"rq:{kind}:{job_id}") <= 60 for job_id in bad for kind in ("job", "results"))
        connection.delete(*(f"rq:{kind}:{job_id}" for job_id in bad for kind in ("job", "results")))

    run_all()
    before = sum(process.memory_info().rss for process in processes)
    run_all()
    assert sum(process.memory_info().rss for process in processes) - before < GROWTH_BYTES
    assert [parent, *parent.children()] == processes, "neither parent nor child has died"
    assert not list(connection.scan_iter("rq:execution*"))
    assert not connection.zcard("rq:wip:lstm@1/pytorch-fp32/normal")


# Bundles


def change_manifest(bundle, **fields) -> None:
    path = bundle.path / MANIFEST
    manifest = json.loads(path.read_text())
    files = {
        name: {"sha256": sha256_of(bundle.path / name), "bytes": (bundle.path / name).stat().st_size}
        for name in manifest["files"]
    }
    path.write_text(json.dumps(manifest | {"files": files} | fields))


@pytest.fixture
def own_store(store, tmp_path) -> Store:
    shutil.copytree(store.root, tmp_path / "store")
    return Store(tmp_path / "store")


GPT2 = {"vocabulary_size": 300, "context_tokens": 256, "width": 32, "layers": 2, "heads": 2, "epsilon": 1e-5}
FACES = {"size": 16, "latent": 8, "width": 8, "channels": 3}
BAD_MANIFESTS = {
    "no config": ("gpt2", {"config": {}}),
    "a config of another family": ("gpt2", {"config": FACES}),
    "another family": ("gpt2", {"family": "lstm"}),
    "another task": ("faces", {"task": "text"}),
    "a billion layers": ("gpt2", {"config": GPT2 | {"layers": 10**9}}),
    "a number without end": ("gpt2", {"config": GPT2 | {"width": 10**400}}),
    "terabytes": ("gpt2", {"config": GPT2 | {"vocabulary_size": 2**31 - 1, "width": 2**20}}),
    "no heads": ("gpt2", {"config": GPT2 | {"heads": 0}}),
    "a context that it has not": ("gpt2", {"limits": {"context_tokens": 100_000}}),
    "a context without end": ("gpt2", {"limits": {}}),
    "terabytes of LSTM": ("lstm", {"config": {"vocabulary_size": 61, "layers": [2**31 - 1, 2**31 - 1]}}),
    "terabytes of picture": ("faces", {"config": FACES | {"size": 2**30}}),
    "pictures of no size": ("faces", {"limits": {}}),
    "pictures of another size": ("faces", {"limits": {"picture_pixels": [8, 8]}}),
    "pictures of four channels": ("faces", {"config": FACES | {"channels": 4}}),
}


@pytest.mark.parametrize(("name", "fields"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS.keys())
def test_a_bundle_that_promises_what_it_cannot_keep_is_refused_when_it_is_loaded(own_store, name, fields):
    change_manifest(own_store.open(name), **fields)
    with pytest.raises(StoreError) as caught:
        load_model(own_store.open(name), "pytorch:fp32", torch.device("cpu"))
    assert len(str(caught.value)) <= 2000


def test_weights_that_are_not_finite_or_not_there_are_refused_when_they_are_loaded(own_store):
    bundle = own_store.open("lstm")
    weights = load_file(bundle.path / WEIGHTS)
    for change in ({"head.bias": weights["head.bias"] * torch.nan}, {"head.bias": torch.ones(3)}, {"x": torch.ones(1)}):
        save_file(weights | change, bundle.path / WEIGHTS)
        change_manifest(bundle)
        with pytest.raises(StoreError, match="does not fit the manifest's config"):
            load_model(own_store.open("lstm"), "pytorch:fp32", torch.device("cpu"))
    (bundle.path / WEIGHTS).write_bytes(b"\xff" * 64)
    change_manifest(bundle)
    with pytest.raises(StoreError, match="is not a safetensors file"):
        load_model(own_store.open("lstm"), "pytorch:fp32", torch.device("cpu"))


def test_a_tokenizer_without_texts_for_all_that_the_model_writes_is_refused(own_store):
    bundle = own_store.open("lstm")
    CharacterTokenizer("Astory ").write(bundle.path / "tokenizer.json")
    change_manifest(bundle)
    with pytest.raises(StoreError, match="the tokenizer has 7 tokens, but the model"):
        load_model(own_store.open("lstm"), "pytorch:fp32", torch.device("cpu"))


def test_a_worker_serves_what_is_sound_beside_what_is_not(own_store, start_worker, connection, jobs, wait_ended):
    change_manifest(own_store.open("gpt2"), config=GPT2 | {"layers": 10**9})
    change_manifest(own_store.open("faces"), limits={})
    start_worker("careful", "--store", str(own_store.root))
    (announced,) = read_announcements(connection)
    assert [served.target.model for served in announced.models] == ["lstm"]
    request = TextRequest(target=own_store.open("lstm").target(), seed=1, prompt_tokens=(1,), max_tokens=3)
    assert wait_ended(jobs.submit(Order(request=request, result_seconds=60, timeout_seconds=60))).status == "succeeded"

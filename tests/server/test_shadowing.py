"""What is copied, what is dropped and what is counted, with a stand-in for the workers."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from contracts.announcements import Announcement, ServedModel, announce
from contracts.bundle import TOKENIZER
from contracts.errors import EngineFailed, InvalidRequest
from contracts.jobs import JobQueue
from contracts.shadows import COPY_OWNER, Shadow, Shadows
from contracts.store import Store
from contracts.tokenizers import CharacterTokenizer
from server import shadowing
from server.app import create_app
from server.catalogue import Catalogue
from server.shadowing import Shadowing
from tests.server.conftest import CHARACTERS, write_text_bundle

BODY: dict[str, Any] = {
    "model": "tiny-text",
    "input": {"prompt": "ab", "seed": 5, "max_tokens": 8},
    "webhook": "https://example.org/",
}


@pytest.fixture
def versions(tmp_path):
    """`tiny-text` in two versions, of which the first is the latest, and a third with another tokenizer."""
    made = Store(tmp_path / "versions", candidates=True)
    for _ in range(2):
        made.write("tiny-text", write_text_bundle)

    def fill(folder):
        fields = write_text_bundle(folder)
        CharacterTokenizer(CHARACTERS[::-1]).write(folder / TOKENIZER)
        return fields

    made.write("tiny-text", fill)
    return made


@pytest.fixture
def client(versions, settings, worker, redis):
    serve(versions, redis, "live", 1)
    serve(versions, redis, "candidates", 2, 3, candidate=True)
    worker.withdraw()
    return create_app(replace(settings, store=versions.root, model_control="on")).test_client()


def serve(versions, redis, name, *numbers, candidate=False):
    bundles = [versions.open("tiny-text", number) for number in numbers]
    models = tuple(ServedModel(target=each.target(), task="text", digest=each.digest) for each in bundles)
    announce(redis, Announcement(worker=name, device="cpu", ready=True, models=models, candidate=candidate))


@pytest.fixture
def begin(client, versions, settings, redis, monkeypatch, eventually):
    """Begin a comparison, with a clerk that carries it out."""
    monkeypatch.setattr(shadowing, "LOOK_SECONDS", 0.02)
    stopping = threading.Event()
    compares = Shadowing(settings, redis, JobQueue(redis), Catalogue(redis, versions))
    thread = threading.Thread(target=compares.run, args=(stopping.is_set, stopping.wait))

    def listeners():
        return redis.pubsub_numsub("kamishibai:ended")[0][1]

    def begin(candidate="2", share=1):
        before = listeners()  # servers of other tests
        answer = client.post("/v1/models/tiny-text/shadow", json={"candidate": candidate, "share": share})
        assert answer.status_code == 201, answer.json
        thread.start()
        eventually(lambda: listeners() == before + 1)

    yield begin
    stopping.set()
    if thread.ident:
        thread.join()


def take(worker, version):
    worker.queues = [f"rq:queue:tiny-text@{version}/pytorch-fp32/{priority}" for priority in ("normal", "low")]
    return worker.take()


@pytest.fixture
def requests(client):
    """The counts of the report."""
    return lambda: client.get("/v1/models/tiny-text/shadow").json["requests"]


def send(client, **changes):
    answer = client.post("/v1/jobs", json=BODY | {"input": BODY["input"] | changes})
    assert answer.status_code == 202
    return answer.json["id"]


def counts(**found):
    names = ("drawn", "compared", "equal", "dropped", "live_failed", "candidate_failed")
    return {name: found.get(name, 0) for name in names}


def test_a_copy_is_the_same_request_behind_all_others_and_nobodys(
    client, begin, worker, requests, redis, eventually, versions
):
    begin()
    live = send(client, stream=True)
    assert worker.finish(take(worker, 1), "hello") is None
    copy = take(worker, 2)
    record = JobQueue(redis).read(copy)
    ours = JobQueue(redis).read(live).request
    assert record.request == ours.model_copy(update={"target": versions.open("tiny-text", 2).target(), "stream": False})
    assert (record.priority, record.meta.owner, record.meta.webhook) == ("low", COPY_OWNER, None)
    assert record.meta.metadata == {"shadow_of": live}
    worker.finish(copy, "help!")
    for version in (1, 2):  # both score what the live one wrote
        scoring = take(worker, version)
        request = worker.request(scoring)
        assert (request.max_tokens, request.logprobs, request.echo) == (0, 20, True)
        assert "".join(CHARACTERS[token] for token in request.prompt_tokens) == "abhello"
        worker.finish(scoring, "")
    report = lambda: client.get("/v1/models/tiny-text/shadow").json  # noqa: E731
    eventually(lambda: report()["divergence"]["tokens"] == 5)
    assert report()["parts"]["agreement"] == pytest.approx(3 / 5)
    assert report()["divergence"]["mean"] == 0, "the stand-in scores all alike"
    assert requests() == counts(drawn=1, compared=1)
    assert [job["id"] for job in client.get("/v1/jobs").json["data"]] == [live]


def test_failures_are_counted_where_they_belong(client, begin, worker, requests, eventually):
    begin()
    send(client)
    worker.fail(take(worker, 1), InvalidRequest("no"))
    send(client)
    worker.fail(take(worker, 1), EngineFailed("broken"))
    send(client)
    worker.finish(take(worker, 1))
    worker.fail(take(worker, 2), EngineFailed("broken"))
    eventually(lambda: requests() == counts(drawn=2, live_failed=1, candidate_failed=1))


def test_copies_for_which_there_is_no_room_are_dropped(client, begin, worker, requests, eventually, redis, monkeypatch):
    monkeypatch.setattr(shadowing, "MOST_WAITING", 2)
    begin()
    for _ in range(5):
        send(client)
        worker.finish(take(worker, 1))
    eventually(lambda: requests() == counts(drawn=5, dropped=3))
    assert redis.llen("rq:queue:tiny-text@2/pytorch-fp32/low") == 2
    client.delete("/v1/models/tiny-text/shadow")
    eventually(lambda: redis.llen("rq:queue:tiny-text@2/pytorch-fp32/low") == 0)
    assert client.get("/v1/models/tiny-text/shadow").json["running"] is False


def test_without_a_worker_of_the_candidate_copies_are_dropped(client, begin, worker, requests, eventually):
    begin()
    worker.withdraw("candidates")
    send(client)
    worker.finish(take(worker, 1))
    eventually(lambda: requests() == counts(drawn=1, dropped=1))


def test_of_another_tokenizer_only_texts_are_compared(client, begin, worker, requests, eventually):
    begin("3")
    send(client)
    worker.finish(take(worker, 1), "hello")
    copy = take(worker, 3)
    assert "".join(CHARACTERS[::-1][token] for token in worker.request(copy).prompt_tokens) == "ab"
    worker.finish(copy, "hello")
    eventually(lambda: requests() == counts(drawn=1, compared=1, equal=1))
    report = client.get("/v1/models/tiny-text/shadow").json
    assert (report["parts"]["agreement"], report["divergence"]["tokens"]) == (None, 0)
    send(client, logit_bias={"1": 5})
    worker.finish(take(worker, 1))
    eventually(lambda: requests()["dropped"] == 1)


def test_one_clerk_compares_at_a_time(client, begin, worker, settings, redis, versions):
    begin()
    other = Shadowing(settings, redis, JobQueue(redis), Catalogue(redis, versions))
    assert not other._is_mine()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_a_share_of_all_jobs_is_drawn_by_their_ids(share, versions):
    target = versions.open("tiny-text", 1).target()
    shadow = Shadow(live=target, candidate=target, share=share)
    drawn = {number for number in range(10_000) if shadow.draws(f"job-{number}")}
    assert abs(len(drawn) / 10_000 - share) <= 0.015
    assert drawn == {number for number in range(10_000) if shadow.draws(f"job-{number}")}


def test_a_new_comparison_begins_at_nothing_and_takes_nothing_of_the_one_before(redis, versions):
    shadows, target = Shadows(redis), versions.open("tiny-text", 1).target()
    first, second = (Shadow(live=target, candidate=target, share=0.5, begun_at=time) for time in (1.0, 2.0))
    shadows.begin(first)
    shadows.add(first, drawn=2, largest_kl=0.5)
    shadows.add(first, drawn=1, largest_kl=0.25)
    (found,) = shadows.comparisons()
    assert (found.tally.drawn, found.tally.largest_kl) == (3, 0.5)
    shadows.begin(second)
    shadows.add(first, drawn=1)
    (found,) = shadows.comparisons()
    assert found.tally.drawn == 0
    redis.hset("kamishibai:shadow_report:tiny-text", "drawn", "many")
    assert shadows.comparison("tiny-text") is None
    redis.hset("kamishibai:shadows", "tiny-text", "{}")
    assert shadows.running() == {}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("tiny-text/shadow", {"candidate": "1"}, 400, "New requests run on tiny-text@1 as pytorch:fp32 already"),
        ("tiny-text/shadow", {"candidate": "9"}, 503, "kamishibai worker --candidate --models tiny-text@9"),
        ("tiny-text/shadow", {"candidate": "2/onnx:int8"}, 503, "--models tiny-text@2 --variant onnx:int8"),
        ("tiny-text/shadow", {"candidate": "latest"}, 400, "write it like 2 or 2/onnx:int8"),
        ("tiny-text/shadow", {"candidate": "2", "share": 0}, 400, "'share' is 0"),
        ("nothing/shadow", {"candidate": "2"}, 404, "does not exist"),
        ("tiny-text/promote", {}, 404, "Nothing is compared with 'tiny-text'"),
        ("tiny-text/promote", {"to": "9"}, 400, "has no model tiny-text@9"),
        ("tiny-text/rollback", {}, 400, "is the first version that is left"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_remedy(client, path, body, status, said):
    answer = client.post(f"/v1/models/{path}", json=body)
    assert (answer.status_code, said in answer.json["error"]["message"]) == (status, True), answer.json


def test_a_store_that_takes_no_writes_is_named(client, versions, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("contracts.store.replace_file", refuse)
    answer = client.post("/v1/models/tiny-text/promote", json={"to": "2"})
    assert answer.status_code == 400
    assert "cannot write to its store (Read-only file system)" in answer.json["error"]["message"]

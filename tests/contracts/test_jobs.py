"""The queue's client side, without any worker: what enqueue, read, cancel and delete leave in Redis."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from contracts import keys
from contracts.enqueue import JOB_FUNCTION, MAX_DATA_BYTES
from contracts.errors import BodyTooLarge, EngineFailed, InvalidRequest, NotFound
from contracts.jobs import JobQueue, check_job_id, request_of
from contracts.orders import Order, new_job_id
from contracts.requests import ClassifyRequest, ImageRequest, Target, TextRequest, TokenisedText
from contracts.results import Choice, ImageResult, TextResult

TARGET = Target(model="m", version=1, variant="pytorch:fp32")
QUEUE = TARGET.queue()
TEXT = TextRequest(target=TARGET, seed=7, prompt_tokens=(1, 2, 3), stop=("x",), stream=True)
PICTURE = ImageRequest(target=TARGET, seed=7, count=2)
LABELS = ClassifyRequest(target=TARGET, texts=(TokenisedText(windows=((1, 2),), truncated=True),), threshold=0.5)
LIFETIMES: dict[str, Any] = {"result_seconds": 120, "timeout_seconds": 60}


@pytest.fixture
def jobs(connection) -> JobQueue:
    return JobQueue(connection)


def data_of(call) -> bytes:
    return zlib.compress(json.dumps(call).encode())


def good_call(**changes):
    return [JOB_FUNCTION, None, [PICTURE.model_dump(mode="json") | changes], {}]


def end(connection, job_id: str, status: str, **result: str) -> None:
    """As a worker leaves a job."""
    connection.hset(f"rq:job:{job_id}", mapping={"status": status, "ended_at": "2026-01-02T03:04:05.000006Z"})
    connection.xadd(f"rq:results:{job_id}", result)


def encoded(result) -> str:
    return base64.b64encode(result.model_dump_json().encode()).decode()


# Enqueue and read


@pytest.mark.parametrize("request_", [TEXT, PICTURE, LABELS])
def test_an_enqueued_job_waits_with_its_request(connection, jobs, request_):
    before = time.time()
    job_id = jobs.submit(Order(request=request_, **LIFETIMES))
    record = jobs.read(job_id)
    assert (record.id, record.status, record.ended) == (job_id, "queued", False)
    assert record.request == request_
    assert before - 1 < record.created_at < time.time() + 1
    assert (record.started_at, record.ended_at, record.result, record.error) == (None, None, None, None)
    assert connection.lrange(f"rq:queue:{QUEUE}", 0, -1) == [job_id.encode()]
    assert jobs.depth([QUEUE, "other"]) == [1, 0]


def test_the_bell_is_rung_with_one_token_that_expires(connection, jobs):
    for _ in range(3):
        jobs.submit(Order(request=PICTURE, **LIFETIMES))
    assert connection.lrange(keys.bell(TARGET.engine), 0, -1) == [b"1"]
    assert 0 < connection.ttl(keys.bell(TARGET.engine)) <= keys.BELL_SECONDS


def test_a_stock_rq_sees_an_ordinary_job_that_may_lose_three_leases(connection, jobs):
    job = Job.fetch(jobs.submit(Order(request=PICTURE, **LIFETIMES)), connection=connection, serializer=JSONSerializer)
    assert (job.func_name, job.args) == (JOB_FUNCTION, [PICTURE.model_dump(mode="json")])
    assert (job.origin, job.timeout, job.result_ttl, job.failure_ttl) == (QUEUE, 60, 120, 120)
    assert (job.get_status(), job.retries_left) == ("queued", 3)


def test_jobs_are_queued_in_order_of_arrival(connection, jobs):
    ids = [jobs.submit(Order(request=PICTURE, job_id=f"job-{number}", **LIFETIMES)) for number in range(5)]
    assert [each.decode() for each in connection.lrange(f"rq:queue:{QUEUE}", 0, -1)] == ids
    assert ids == [f"job-{number}" for number in range(5)]


# Ends


def test_a_succeeded_job_has_its_result(connection, jobs):
    job_id = jobs.submit(Order(request=TEXT, **LIFETIMES))
    result = TextResult(choices=[Choice(text="日本", finish_reason="stop", tokens=2)], prompt_tokens=3)
    end(connection, job_id, "finished", return_value=encoded(result))
    record = jobs.read(job_id)
    assert (record.status, record.ended, record.result, record.error) == ("succeeded", True, result, None)
    assert record.ended_at == 1767323045.000006


def test_a_failed_job_has_its_error(connection, jobs):
    job_id = jobs.submit(Order(request=TEXT, **LIFETIMES))
    reason = base64.b64encode(zlib.compress(InvalidRequest("Too long.").record().encode())).decode()
    end(connection, job_id, "failed", exc_string=reason)
    record = jobs.read(job_id)
    assert (record.status, record.result) == ("failed", None)
    assert (type(record.error), record.error.message) == (InvalidRequest, "Too long.")


@pytest.mark.parametrize(
    "value", ["", "!", "AAAA", base64.b64encode(b"\xff").decode(), base64.b64encode(b"{}").decode()]
)
def test_a_damaged_result_is_no_result_and_a_damaged_reason_some_failure(connection, jobs, value):
    done, failed = (jobs.submit(Order(request=TEXT, **LIFETIMES)) for _ in range(2))
    end(connection, done, "finished", return_value=value)
    end(connection, failed, "failed", exc_string=value)
    assert (jobs.read(done).status, jobs.read(done).result) == ("succeeded", None)
    assert type(jobs.read(failed).error) is EngineFailed


def test_ends_without_an_entry_in_the_results_are_read(connection, jobs):
    for status, expected in (("finished", "succeeded"), ("failed", "failed"), ("stopped", "cancelled")):
        job_id = jobs.submit(Order(request=TEXT, **LIFETIMES))
        connection.hset(f"rq:job:{job_id}", "status", status)
        record = jobs.read(job_id)
        assert (record.status, record.ended, record.result) == (expected, True, None)
        assert (record.error is not None) == (status == "failed")


def test_pictures_come_from_the_result_or_from_their_own_key(connection, jobs):
    assert jobs.pictures(ImageResult(count=1, pictures=["AA=="])) == ["AA=="]
    connection.rpush("kamishibai:pictures:x:y", b"one", b"two")
    stored = ImageResult(count=2, pictures_key="kamishibai:pictures:x:y")
    assert [base64.b64decode(picture) for picture in jobs.pictures(stored)] == [b"one", b"two"]
    with pytest.raises(NotFound, match="draw them again with the same seed"):
        jobs.pictures(stored.model_copy(update={"count": 3}))


def test_the_text_of_a_stream_is_read_from_an_offset_on(connection, jobs):
    connection.set(keys.text("j", 0), "aä日")
    assert [jobs.text_from("j", 0, offset) for offset in (0, 1, 3, 6, 9)] == ["aä日", "ä日", "日", "", ""]
    assert jobs.text_from("none", 0, 0) == ""


# Cancel and delete


def test_a_queued_job_is_cancelled_once_and_told_of(connection, jobs):
    kept, cancelled = (jobs.submit(Order(request=TEXT, **LIFETIMES)) for _ in range(2))
    with connection.pubsub() as heard:
        heard.subscribe(keys.ENDED_CHANNEL)
        assert heard.get_message(timeout=1)["type"] == "subscribe"
        assert jobs.cancel(cancelled)
        assert not jobs.cancel(cancelled)
        assert json.loads(heard.get_message(timeout=1)["data"]) == [cancelled]
        assert heard.get_message(timeout=0.05) is None
    record = jobs.read(cancelled)
    assert (record.status, record.ended) == ("cancelled", True)
    assert abs(record.ended_at - time.time()) < 5
    assert connection.lrange(f"rq:queue:{QUEUE}", 0, -1) == [kept.encode()]
    assert 0 < connection.ttl(f"rq:job:{cancelled}") <= 120
    assert connection.ttl(f"rq:job:{kept}") == -1
    assert Queue(QUEUE, connection=connection).canceled_job_registry.get_job_ids() == [cancelled]


@pytest.mark.parametrize("status", ["finished", "failed", "stopped", "canceled"])
def test_an_ended_job_cannot_be_cancelled(connection, jobs, status):
    job_id = jobs.submit(Order(request=TEXT, **LIFETIMES))
    connection.hset(f"rq:job:{job_id}", "status", status)
    assert not jobs.cancel(job_id)
    assert connection.hget(f"rq:job:{job_id}", "status") == status.encode()


def test_a_deleted_job_leaves_nothing_behind(connection, jobs):
    before = set(connection.keys()) | {b"rq:queues", keys.bell(TARGET.engine).encode(), f"rq:queue:{QUEUE}".encode()}
    job_id = jobs.submit(Order(request=PICTURE, **LIFETIMES))
    connection.lpop(f"rq:queue:{QUEUE}")
    connection.rpush(keys.pictures(job_id, "e"), b"png", b"png")
    for registry in ("finished", "failed", "canceled"):
        connection.zadd(f"rq:{registry}:{QUEUE}", {job_id: 1})
    end(
        connection,
        job_id,
        "finished",
        return_value=encoded(ImageResult(count=2, pictures_key=keys.pictures(job_id, "e"))),
    )
    jobs.delete(jobs.read(job_id))
    assert set(connection.keys()) <= {*before, keys.load(TARGET.engine).encode()}
    with pytest.raises(NotFound):
        jobs.read(job_id)


def test_a_deleted_stream_leaves_none_of_its_texts(connection, jobs):
    job_id = jobs.submit(Order(request=TEXT.model_copy(update={"n": 2}), **LIFETIMES))
    for choice in range(2):
        connection.set(keys.text(job_id, choice), "text")
    end(connection, job_id, "failed", exc_string=base64.b64encode(zlib.compress(b"gone")).decode())
    jobs.delete(jobs.read(job_id))
    assert not list(connection.scan_iter("kamishibai:text:*"))


# Ids


@pytest.mark.parametrize("job_id", ["5a3f" * 8, "a", "A-1", "0" * 64, "job-7"])
def test_ids_that_can_be_ours(job_id):
    assert check_job_id(job_id) == job_id


@pytest.mark.parametrize(
    "job_id", ["", "-", "a:b", "a b", "a/b", "..", "*", "a\n", "a\0", "ä", "٣", "a_b", "x" * 65, "a{b}", "a?"]
)
def test_ids_that_cannot_be_ours_are_not_found_and_never_looked_for(jobs, job_id):
    for attempt in (check_job_id, jobs.read, jobs.cancel):
        with pytest.raises(NotFound) as caught:
            attempt(job_id)
        assert caught.value.param == "id"


def test_a_long_id_is_not_repeated_whole():
    with pytest.raises(NotFound) as caught:
        check_job_id("x" * 100_000)
    assert len(caught.value.message) < 200


def test_new_ids_differ():
    assert len({new_job_id() for _ in range(1000)}) == 1000


# What others left


def test_an_unknown_job_is_not_found(jobs):
    for attempt in (jobs.read, jobs.cancel):
        with pytest.raises(NotFound, match="There is no job 'abc'; perhaps it is past its lifetime"):
            attempt("abc")


def test_a_job_of_another_program_on_the_same_redis_is_not_ours_to_read(connection, jobs):
    other = Queue("other", connection=connection, serializer=JSONSerializer).enqueue("os.getcwd", job_id="other")
    with pytest.raises(NotFound):
        jobs.read("other")
    assert other.get_status() == "queued"
    pickled = Queue("other", connection=connection).enqueue("os.getcwd", job_id="pickled")
    with pytest.raises(NotFound):
        jobs.read(pickled.id)


@pytest.mark.parametrize("plant", ["set", "rpush", "zadd"])
def test_a_key_of_another_type_is_not_found(connection, jobs, plant):
    {
        "set": lambda: connection.set("rq:job:x", "y"),
        "rpush": lambda: connection.rpush("rq:job:x", "y"),
        "zadd": lambda: connection.zadd("rq:job:x", {"y": 1}),
    }[plant]()
    for attempt in (jobs.read, jobs.cancel):
        with pytest.raises(NotFound):
            attempt("x")


def test_results_of_another_type_are_not_found(connection, jobs):
    job_id = jobs.submit(Order(request=TEXT, **LIFETIMES))
    connection.set(f"rq:results:{job_id}", "y")
    with pytest.raises(NotFound):
        jobs.read(job_id)


def test_a_full_redis_refuses_a_job_as_a_whole(connection, jobs):
    job_id = jobs.submit(Order(request=TEXT, **LIFETIMES))
    before = set(connection.keys())
    connection.config_set("maxmemory", 1)
    try:
        with pytest.raises(ResponseError, match="maxmemory"):
            jobs.submit(Order(request=TEXT, **LIFETIMES))
    finally:
        connection.config_set("maxmemory", 0)
    assert set(connection.keys()) == before
    assert (jobs.read(job_id).status, jobs.depth([QUEUE])) == ("queued", [1])


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "queued"},
        {"data": data_of(good_call())},
        {"status": "queued", "data": ""},
        {"status": "queued", "data": b"\x80\x04pickle"},
        {"status": "queued", "data": data_of(5)},
        {"status": "queued", "data": data_of(["os.system", None, ["true"], {}])},
    ],
    ids=repr,
)
def test_a_damaged_job_is_not_found(connection, jobs, fields):
    connection.hset("rq:job:x", mapping=fields)
    with pytest.raises(NotFound):
        jobs.read("x")


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe", b"yesterday", b"0001-01-01T00:00:00", b"99999-01-01T00:00:00Z"])
def test_junk_in_status_and_times_is_read_as_unknown(connection, jobs, junk):
    job_id = jobs.submit(Order(request=PICTURE, **LIFETIMES))
    connection.hset(f"rq:job:{job_id}", mapping=dict.fromkeys(["status", "created_at", "started_at", "ended_at"], junk))
    record = jobs.read(job_id)
    assert (record.status, record.request) == ("queued", PICTURE)
    assert not record.created_at or junk.startswith(b"0001")


def test_a_job_without_its_queue_cannot_be_cancelled(connection, jobs):
    connection.hset("rq:job:x", mapping={"status": "queued", "data": data_of(good_call())})
    with pytest.raises(NotFound):
        jobs.cancel("x")


# Payloads


def test_the_request_of_a_job_is_read_from_its_data():
    assert request_of(data_of(good_call())) == PICTURE


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (["os.system", None, ["true"], {}], "only workers.tasks.perform"),
        ([JOB_FUNCTION, "self", good_call()[2], {}], "only workers.tasks.perform"),
        ([JOB_FUNCTION, None, good_call()[2], {"store": "/"}], "only workers.tasks.perform"),
        ([JOB_FUNCTION, None, [], {}], "with one request"),
        ([JOB_FUNCTION, None, good_call()[2] * 2, {}], "with one request"),
        ([JOB_FUNCTION, None, "x", {}], "with one request"),
        ([JOB_FUNCTION, None, {"0": good_call()[2][0]}, {}], "with one request"),
        (good_call(colour=1), "'image.colour' is not a field"),
        (good_call(schema_version=0), "'image.schema_version' is 0"),
        (good_call(schema_version=2), "its payload is image:2, and this one reads classify:1, image:1,"),
        (good_call(task="text"), "'text.prompt_tokens' is missing"),
        (good_call(task="dance"), "'dance'"),
        (good_call()[:3], "not JSON of ours"),
        (5, "not JSON of ours"),
        (None, "not JSON of ours"),
    ],
)
def test_a_payload_that_is_not_ours_is_refused(call, named):
    with pytest.raises(InvalidRequest) as caught:
        request_of(data_of(call))
    assert named in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CALLS = st.tuples(st.just(JOB_FUNCTION) | JSON, st.none() | JSON, st.lists(JSON, max_size=2) | JSON, st.just({}) | JSON)


@given(st.binary() | st.binary().map(zlib.compress) | (JSON | CALLS).map(data_of))
@example(data_of(good_call()) + b"more")
@example(data_of(good_call())[:-4])
@example(zlib.compress(b"[" * 100_000))
def test_any_bytes_are_a_request_or_refused(data):
    try:
        assert request_of(data) == PICTURE
    except InvalidRequest as error:
        assert error.status == 400  # noqa: PT017 - both ends are right


SPOILED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TEXT_CALL: list[object] = [JOB_FUNCTION, None, [TEXT.model_dump(mode="json")], {}]


@SPOILED
@given(data=st.data())
def test_a_spoiled_payload_is_a_request_or_refused_in_one_line(spoiled, damaged, data):
    packed = zlib.compress(data.draw(spoiled(data.draw(st.sampled_from([TEXT_CALL, good_call()])))))
    try:
        assert request_of(data.draw(st.just(packed) | damaged(packed))).target.version >= 0
    except InvalidRequest as error:
        refusal = error.message
    else:
        return
    assert 20 < len(refusal) <= 2000
    assert refusal.isprintable()


def bomb(size: int) -> bytes:
    """Zlib of so many spaces, a thousandth as large."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(b" " * (1 << 20)) for _ in range(size >> 20)), packer.flush()])


def test_a_bomb_in_a_job_is_refused_without_taking_its_memory(connection, jobs):
    packed = bomb(128 << 20)
    assert len(packed) < 1 << 20
    connection.hset("rq:job:x", mapping={"status": "failed", "data": packed})
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match="at most 16777216 bytes"):
        request_of(packed)
    with pytest.raises(NotFound):
        jobs.read("x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * MAX_DATA_BYTES


def test_a_bomb_in_a_jobs_reason_is_some_failure(connection, jobs):
    job_id = jobs.submit(Order(request=TEXT, **LIFETIMES))
    end(connection, job_id, "failed", exc_string=base64.b64encode(bomb(64 << 20)).decode())
    assert type(jobs.read(job_id).error) is EngineFailed


def test_a_request_too_large_for_a_job_is_refused_and_leaves_nothing(connection, jobs, monkeypatch):
    monkeypatch.setattr("contracts.enqueue.MAX_DATA_BYTES", 100)
    with pytest.raises(BodyTooLarge, match="over 100; send less"):
        jobs.submit(Order(request=TEXT, **LIFETIMES))
    assert not connection.keys()


@pytest.mark.parametrize(
    ("request_", "result"),
    [
        (PICTURE, TextResult(choices=[], prompt_tokens=3)),
        (TEXT, ImageResult(count=2, pictures=["", ""])),
        (TEXT, TextResult(choices=[], prompt_tokens=3)),
        (TEXT, TextResult(choices=[Choice(text="", finish_reason="stop", tokens=2)] * 2, prompt_tokens=3)),
        (PICTURE, ImageResult(count=1, pictures=[""])),
        (PICTURE, ImageResult(count=2, pictures_key="kamishibai:keys")),
    ],
    ids=repr,
)
def test_a_result_that_answers_another_request_is_no_result(connection, jobs, request_, result):
    job_id = jobs.submit(Order(request=request_, **LIFETIMES))
    end(connection, job_id, "finished", return_value=encoded(result))
    assert (jobs.read(job_id).status, jobs.read(job_id).result) == ("succeeded", None)


@SPOILED
@given(data=st.data())
def test_a_spoiled_result_or_reason_is_read_as_some_end(connection, jobs, spoiled, data):
    job_id = jobs.submit(Order(request=TEXT, **LIFETIMES))
    choice = Choice(text="日本", finish_reason="stop", tokens=2)
    good = TextResult(choices=[choice], prompt_tokens=3).model_dump(mode="json")
    raw = data.draw(spoiled(good) | spoiled({"code": "timeout", "message": "late"}))
    status, field = data.draw(st.sampled_from([("finished", "return_value"), ("failed", "exc_string")]))
    value = base64.b64encode(zlib.compress(raw) if status == "failed" else raw).decode()
    end(connection, job_id, status, **{field: data.draw(st.sampled_from([value, value[:-3], raw]))})
    record = jobs.read(job_id)
    assert record.ended
    if status == "failed":
        assert record.error.message.isprintable()
        assert len(record.error.message) <= 2000


@pytest.mark.parametrize("lifetime", ["nan", "inf", "-inf", "1.5", "-1", "1e999", "x", "", "9" * 40])
def test_a_job_with_a_lifetime_that_is_none_is_cancelled_as_a_whole(connection, jobs, lifetime):
    job_id = jobs.submit(Order(request=TEXT, **LIFETIMES))
    connection.hset(f"rq:job:{job_id}", "result_ttl", lifetime)
    assert jobs.cancel(job_id)
    assert jobs.read(job_id).status == "cancelled"
    assert 0 < connection.ttl(f"rq:job:{job_id}") <= 3600

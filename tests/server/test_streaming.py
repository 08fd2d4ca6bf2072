"""Streams: in order, whole, never the same text twice."""

from __future__ import annotations

import json

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from contracts.errors import EngineFailed
from contracts.jobs import JobQueue
from server import streaming, waiting

ROUTE = "/v1/completions"


class Events:
    """The events of a stream, one by one."""

    def __init__(self, client, **fields):
        self.response = client.post(ROUTE, json={"prompt": "ab", "stream": True, **fields}, buffered=False)
        self._pieces = self.response.iter_encoded()
        self.first = next(self._pieces).decode()

    def __iter__(self):
        return self

    def __next__(self):
        """(id or None, parsed data), [DONE] as a string, comments as they are."""
        piece = next(self._pieces).decode()
        assert piece.endswith("\n\n")
        event_id = None
        for line in piece.splitlines():
            if line.startswith(":"):
                return None, line
            if line.startswith("id: "):
                event_id = line.removeprefix("id: ")
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                return event_id, data if data == "[DONE]" else json.loads(data)
        return None

    def close(self):
        self.response.close()


@pytest.fixture
def stream(client):
    opened = []

    def start(**fields):
        opened.append(Events(client, **fields))
        return opened[-1]

    yield start
    for events in opened:
        events.close()


def only_data(events):
    """The chunks of a stream that is still going on, without its heartbeats."""
    return (event for event in events if isinstance(event[1], dict))


def texts(events):
    """(id, text) of each piece up to [DONE], and the rest."""
    found = list(events)
    assert found[-1] == (None, "[DONE]")
    pieces = [(event_id, data["choices"][0]["text"]) for event_id, data in found[:-1] if data["choices"]]
    return pieces, found[:-1]


def by_choice(events):
    """What a client puts together for each choice, the reasons that it is given, and the ids up to then."""
    found = list(events)
    assert found.pop() == (None, "[DONE]")
    together: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for _, data in found:
        for choice in data["choices"]:
            together[choice["index"]] = together.get(choice["index"], "") + choice["text"]
            if choice["finish_reason"]:
                assert choice["index"] not in reasons
                reasons[choice["index"]] = choice["finish_reason"]
    return together, reasons, [event_id for event_id, _ in found]


def test_headers_and_a_comment_are_sent_before_anything_has_happened(stream):
    events = stream()
    assert events.first.startswith(":")
    assert events.response.mimetype == "text/event-stream"
    assert events.response.headers["Cache-Control"] == "no-store"
    assert events.response.headers["X-Accel-Buffering"] == "no"
    assert "x-request-id" in events.response.headers


@pytest.fixture
def script(monkeypatch):
    """Mail that a stream gets in this order, as if Redis had published it."""

    def give(*mail):
        waiting_mail = list(mail)

        def get(self, timeout_seconds):
            step = waiting_mail.pop(0) if waiting_mail else waiting.Look.AGAIN
            news = step() if callable(step) else step
            return waiting.Mail(0, news or waiting.Look.AGAIN)

        monkeypatch.setattr(waiting.Mailbox, "get", get)

    return give


def only_job(worker):
    """The id of the job that waits or runs."""
    (job_key,) = worker.redis.keys("rq:job:*")
    return job_key.decode().removeprefix("rq:job:")


def test_text_arrives_in_order_with_the_offset_to_resume_from(stream, worker):
    events = stream()
    job_id = worker.take()
    worker.finish(job_id, "héllo", finish_reason="length")
    pieces, chunks = texts(events)
    assert pieces == [("6", "héllo"), ("6", "")]
    assert [chunk["choices"][0]["finish_reason"] for _, chunk in chunks] == [None, "length"]
    assert all(chunk["object"] == "text_completion" for _, chunk in chunks)
    assert {chunk["id"] for _, chunk in chunks} == {f"cmpl-{job_id}"}
    assert all("usage" not in chunk for _, chunk in chunks)


def test_published_deltas_are_passed_on_as_they_come(stream, worker, redis, eventually):
    events = stream()
    job_id = worker.take()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "HEARTBEAT_SECONDS", 0.05)
        patch.setattr(streaming, "GLANCE_SECONDS", 0.02)
        assert next(events) == (None, ": still working")  # now it listens
        eventually(lambda: redis.pubsub_numsub("kamishibai:deltas")[0][1] > 0)
        worker.delta(job_id, 0, "one ")
        worker.delta(job_id, 4, "two")
        data = only_data(events)
        found = [(event_id, chunk["choices"][0]["text"]) for event_id, chunk in (next(data), next(data))]
    assert found == [("4", "one "), ("7", "two")]
    worker.finish(job_id, "one two")
    pieces = [each for each in events if isinstance(each[1], dict)]
    assert [data["choices"][0]["text"] for _, data in pieces] == [""]


def test_text_that_is_published_again_is_not_sent_again(stream, worker, script):
    again = [(0, "ab"), (2, "cd"), (0, "ab"), (1, "b"), (2, "cd"), (2, "cdef"), (0, "abcdefg")]
    script(*(waiting.Delta(0, *delta) for delta in again), lambda: worker.finish(worker.take(), "abcdefg"))
    pieces, _ = texts(stream())
    assert pieces == [("2", "ab"), ("4", "cd"), ("6", "ef"), ("7", "g"), ("7", "")]


def test_a_gap_is_filled_from_the_text_so_far(stream, worker, script):
    def miss_two():
        worker.delta(only_job(worker), 0, "ébcd", publish=False)
        return waiting.Delta(0, 3, "cd")

    script(miss_two, waiting.Delta(0, 5, "e"), lambda: worker.finish(worker.take(), "ébcdef"))
    pieces, _ = texts(stream())
    assert pieces == [("5", "ébcd"), ("6", "e"), ("7", "f"), ("7", "")]


def test_a_gap_that_cannot_be_filled_is_left_to_the_result(stream, worker, script):
    script(waiting.Delta(0, 3, "d"), lambda: worker.finish(worker.take(), "abcd"))
    pieces, _ = texts(stream())
    assert pieces == [("4", "abcd"), ("4", "")]


def test_a_gap_met_while_redis_is_away_does_not_end_the_stream(stream, worker, script, monkeypatch):
    read, failures = JobQueue.text_from, [RedisConnectionError()]

    def fail_first(*arguments):
        if failures:
            raise failures.pop()
        return read(*arguments)

    def miss_three():
        worker.delta(only_job(worker), 0, "abcd", publish=False)
        monkeypatch.setattr(JobQueue, "text_from", fail_first)
        return waiting.Delta(0, 3, "d")

    script(miss_three, waiting.Delta(0, 4, "e"), lambda: worker.finish(worker.take(), "abcdef"))
    pieces, _ = texts(stream())
    assert pieces == [("4", "abcd"), ("5", "e"), ("6", "f"), ("6", "")]


def test_choices_are_passed_on_interleaved_each_under_its_index(stream, worker, redis, eventually, monkeypatch):
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(streaming, "GLANCE_SECONDS", 0.02)
    events = stream(n=2)
    job_id = worker.take()
    assert next(events) == (None, ": still working")  # now it listens
    eventually(lambda: redis.pubsub_numsub("kamishibai:deltas")[0][1] > 0)
    deltas = [(0, 0, "one "), (1, 0, "é"), (1, 2, "ins "), (0, 4, "two"), (1, 6, "zwei")]
    for choice, offset, text in deltas:
        worker.delta(job_id, offset, text, choice=choice)
    data = only_data(events)
    chunks = [next(data) for _ in deltas]
    assert [event_id for event_id, _ in chunks] == ["4,0", "4,2", "4,6", "7,6", "7,10"]
    assert [(chunk["choices"][0]["index"], chunk["choices"][0]["text"]) for _, chunk in chunks] == [
        (choice, text) for choice, _, text in deltas
    ]
    worker.finish(job_id, "one two", "éins zwei!", finish_reason="length")
    rest = [(event_id, chunk["choices"][0]) for event_id, chunk in only_data(events)]
    assert rest == [
        ("7,11", {"index": 1, "text": "!", "finish_reason": None, "logprobs": None}),
        ("7,11", {"index": 0, "text": "", "finish_reason": "length", "logprobs": None}),
        ("7,11", {"index": 1, "text": "", "finish_reason": "length", "logprobs": None}),
    ]


def test_choices_that_are_published_again_are_not_sent_again(stream, worker, script):
    again = [(0, 0, "ab"), (1, 0, "xy"), (0, 0, "ab"), (1, 0, "xyz"), (0, 1, "bc"), (1, 1, "yz")]
    script(*(waiting.Delta(*delta) for delta in again), lambda: worker.finish(worker.take(), "abcd", "xyz"))
    together, reasons, ids = by_choice(stream(n=2))
    assert together == {0: "abcd", 1: "xyz"}
    assert reasons == {0: "stop", 1: "stop"}
    assert ids == ["2,0", "2,2", "2,3", "3,3", "4,3", "4,3", "4,3"]


def test_a_gap_in_one_choice_is_filled_from_its_own_text(stream, worker, script):
    def miss_two():
        worker.delta(only_job(worker), 0, "ABCD", publish=False)
        worker.delta(only_job(worker), 0, "ébcd", choice=1, publish=False)
        return waiting.Delta(1, 3, "cd")

    script(waiting.Delta(0, 0, "A"), miss_two, lambda: worker.finish(worker.take(), "ABCD", "ébcde"))
    together, _, ids = by_choice(stream(n=2))
    assert together == {0: "ABCD", 1: "ébcde"}
    assert ids == ["1,0", "1,5", "4,5", "4,6", "4,6", "4,6"]


def test_choices_of_which_every_message_was_lost_come_from_the_result(stream, worker):
    events = stream(n=3)
    worker.finish(worker.take(), "abc", "", "é")
    together, reasons, ids = by_choice(events)
    assert together == {0: "abc", 1: "", 2: "é"}
    assert set(reasons) == {0, 1, 2}
    assert ids[-1] == "3,0,2"


def test_usage_of_a_stream_counts_all_choices(stream, worker):
    events = stream(n=2, stream_options={"include_usage": True})
    worker.finish(worker.take(), "abc", "de")
    _, chunks = texts(events)
    assert chunks[-1][1]["choices"] == []
    assert chunks[-1][1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}


def test_an_echoed_prompt_is_part_of_the_text_and_of_its_offsets(stream, worker, script):
    script(waiting.Delta(0, 0, "ab"), waiting.Delta(0, 2, "c"), lambda: worker.finish(worker.take(), "cd"))
    pieces, _ = texts(stream(echo=True))
    assert pieces == [("2", "ab"), ("3", "c"), ("4", "d"), ("4", "")]


def test_log_probabilities_of_a_stream_come_whole_with_the_end_of_each_choice(stream, worker, script):
    script(waiting.Delta(0, 0, "x"), lambda: worker.finish(worker.take(), "xy", "z"))
    _, chunks = texts(stream(n=2, logprobs=1))
    choices = [chunk["choices"][0] for _, chunk in chunks]
    assert all(choice["logprobs"] is None for choice in choices if choice["finish_reason"] is None)
    ends = [(each["index"], each["logprobs"]["tokens"]) for each in choices if each["finish_reason"] is not None]
    assert ends == [(0, ["x", "y"]), (1, ["z"])]


def test_usage_comes_only_on_request(stream, worker):
    events = stream(stream_options={"include_usage": True})
    worker.finish(worker.take(), "abc")
    _, chunks = texts(events)
    assert chunks[-1][1]["choices"] == []
    assert chunks[-1][1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


def test_an_error_in_mid_stream_is_the_last_event(stream, worker, script):
    script(waiting.Delta(0, 0, "ab"), lambda: worker.fail(worker.take(), EngineFailed("out of memory")))
    found = list(stream())
    assert found[0][1]["choices"][0]["text"] == "ab"
    assert found[1:] == [(None, EngineFailed("out of memory").body())]


def test_a_cancelled_job_ends_its_stream_with_an_error(stream, worker, redis):
    events = stream()
    JobQueue(redis).cancel(worker.take())
    ((_, error),) = list(events)
    assert error["error"]["code"] == "cancelled"


def test_a_job_that_takes_too_long_ends_its_stream_and_is_cancelled(stream, worker, redis, monkeypatch):
    monkeypatch.setattr(streaming, "longest_wait_seconds", lambda here: 0.05)
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(streaming, "GLANCE_SECONDS", 0.02)
    events = stream()
    job_id = worker.take()
    assert [data for _, data in events][-1]["error"]["code"] == "timeout"
    assert JobQueue(redis).read(job_id).status == "cancelled"


def test_closing_a_stream_cancels_its_job(stream, worker, redis):
    events = stream()
    job_id = worker.take()
    events.close()
    assert JobQueue(redis).read(job_id).status == "cancelled"


def test_a_stream_that_was_read_to_its_end_cancels_nothing(stream, worker, redis):
    events = stream()
    job_id = worker.take()
    worker.finish(job_id)
    texts(events)
    events.close()
    assert JobQueue(redis).read(job_id).status == "succeeded"

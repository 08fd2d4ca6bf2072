"""Batches over HTTP, carried out by a real clerk; a stand-in answers the jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis

from contracts import keys
from contracts.api_keys import ApiKeys, Scope, key_id
from contracts.errors import EngineFailed
from server import access, batches
from server.app import create_app
from server.batch_requests import job_id_of

ENDED = {"failed", "completed", "expired", "cancelled"}


@pytest.fixture
def settings(settings, tmp_path):
    return settings.__class__(**vars(settings) | {"files": str(tmp_path / "files"), "max_body_bytes": 2000})


@pytest.fixture
def app(settings, monkeypatch):
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)
    return create_app(settings)


@pytest.fixture
def root(settings):
    return Path(settings.files)


@pytest.fixture
def start_clerk(settings, tmp_path):
    started: list[subprocess.Popen[bytes]] = []

    def start(**changes):
        environment = os.environ | settings.__class__(**vars(settings) | changes).to_environment()
        with (tmp_path / f"clerk-{len(started)}.log").open("wb") as log:
            command = [sys.executable, "-P", "-W", "error", "-m", "cli.main", "clerk"]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            assert process.wait(20) == 0
    logged = "".join(path.read_text() for path in tmp_path.glob("clerk-*.log"))
    assert "Traceback" not in logged, logged


@pytest.fixture
def kill(redis):
    """Kill a clerk, and let its lease of a batch run out at once."""

    def kill(process, batch_id):
        process.kill()
        process.wait()
        redis.delete(keys.batch_lease(batch_id))

    return kill


@pytest.fixture
def clerk(start_clerk):
    return start_clerk()


def line(number, url="/v1/completions", **body):
    fields = body or {"model": "tiny-text", "prompt": "ab"}
    return json.dumps({"custom_id": f"line {number}", "method": "POST", "url": url, "body": fields}) + "\n"


def upload(client, content, headers=None):
    content = content.encode() if isinstance(content, str) else content
    form = b"--ks\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n"
    form += b'--ks\r\nContent-Disposition: form-data; name=file; filename="a"\r\n\r\n' + content + b"\r\n--ks--\r\n"
    response = client.post("/v1/files", data=form, headers=headers, content_type="multipart/form-data; boundary=ks")
    return response.get_json()["id"]


def post(client, file_id, headers=None, **fields):
    body = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h", **fields}
    return client.post("/v1/batches", json=body, headers=headers)


def begin(client, content, **fields):
    """The id of a batch of these lines."""
    response = post(client, upload(client, content), **fields)
    assert response.status_code == 200, response.get_json()
    return response.get_json()["id"]


def read(client, batch_id):
    return client.get(f"/v1/batches/{batch_id}").get_json()


def wait_for(client, batch_id, statuses=frozenset(ENDED), seconds=40, **counts):
    """The batch once it has one of these statuses and at least so many lines."""
    deadline = time.monotonic() + seconds
    while True:
        batch = read(client, batch_id)
        told = batch["request_counts"]
        if batch["status"] in statuses and all(told[name] >= least for name, least in counts.items()):
            return batch
        assert time.monotonic() < deadline, json.dumps(batch)
        time.sleep(0.05)


def lines_of(client, file_id):
    """By custom_id; each comes once."""
    if file_id is None:
        return {}
    written = client.get(f"/v1/files/{file_id}/content").get_data(as_text=True)
    assert written.endswith("\n")
    found = [json.loads(each) for each in written.splitlines()]
    by_id = {each["custom_id"]: each for each in found}
    assert len(by_id) == len(found)
    return by_id


def answers_of(client, batch):
    """Output and error lines; none in both."""
    output, errors = lines_of(client, batch["output_file_id"]), lines_of(client, batch["error_file_id"])
    assert not output.keys() & errors.keys()
    counts = batch["request_counts"]
    assert (len(output), len(errors), len(output) + len(errors)) == (
        counts["completed"],
        counts["failed"],
        counts["total"],
    )
    return output, errors


def test_a_batch_is_validated_run_and_read(client, worker, clerk, redis):
    lines = [line(number, model="tiny-text", prompt="ab", seed=number) for number in range(5)]
    created = post(client, upload(client, "".join(lines)), metadata={"night": "1"}).get_json()
    assert re.fullmatch("batch_[0-9a-f]{32}", created["id"])
    assert (created["object"], created["endpoint"], created["completion_window"]) == ("batch", "/v1/completions", "24h")
    assert created["expires_at"] == created["created_at"] + 24 * 3600
    assert (created["metadata"], created["errors"], created["output_file_id"]) == ({"night": "1"}, None, None)
    with worker.working():
        batch = wait_for(client, created["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    times = [batch[f"{name}_at"] for name in ("created", "in_progress", "finalizing", "completed")]
    assert times == sorted(times)
    assert [batch[f"{name}_at"] for name in ("failed", "expired", "cancelling", "cancelled")] == [None] * 4
    output, errors = answers_of(client, batch)
    assert errors == {}
    assert batch["error_file_id"] is None
    for number in range(5):
        answer = output[f"line {number}"]
        assert re.fullmatch(r"batch_req_[0-9a-f]{32}_\d+", answer["id"])
        assert answer["error"] is None
        assert answer["response"]["status_code"] == 200
        assert answer["response"]["request_id"] == job_id_of(batch["id"], number + 1)
        body = answer["response"]["body"]
        assert (body["object"], body["seed"], body["choices"][0]["text"]) == ("text_completion", number, "hello")
    file = client.get(f"/v1/files/{batch['output_file_id']}").get_json()
    assert (file["purpose"], file["filename"]) == ("batch_output", f"{batch['id']}_output.jsonl")
    assert redis.ttl(keys.batch(batch["id"])) > 29 * 24 * 3600
    assert redis.zcard(keys.OPEN_BATCHES) == 0


@pytest.mark.parametrize(
    ("endpoint", "fields", "kind"),
    [
        ("/v1/images/generations", {"model": "tiny-picture", "n": 2}, "output_format"),
        ("/v1/classify", {"model": "tiny-labels", "input": ["a pilot", "a fox"]}, "object"),
    ],
)
def test_pictures_and_labels_come_in_batches_too(client, worker, clerk, endpoint, fields, kind):
    with worker.working():
        direct = client.post(endpoint, json=fields).get_json()
        batch_id = begin(client, line(1, url=endpoint, **fields), endpoint=endpoint)
        output, _ = answers_of(client, wait_for(client, batch_id))
    body = output["line 1"]["response"]["body"]
    assert kind in body
    assert body.keys() == direct.keys()
    assert len(body["data"]) == 2


def test_a_line_that_is_refused_or_fails_is_in_the_error_file_and_harms_no_other(client, worker, clerk):
    lines = [
        line(1),
        line(2, model="tiny-text", prompt="ab", temperature=-1),
        line(3, model="nobody", prompt="ab"),
        line(4, model="tiny-text", prompt="ab", stream=True),
        line(5, model="tiny-text", prompt="broken"),
        line(6, model="tiny-text", prompt="a" * 500),
        line(7),
    ]

    def act(job_id):
        if len(worker.request(job_id).prompt_tokens) == 6:
            worker.fail(job_id, EngineFailed("it broke"))
        else:
            worker.finish(job_id)

    with worker.working(act):
        batch = wait_for(client, begin(client, "".join(lines)))
    assert batch["status"] == "completed"
    output, errors = answers_of(client, batch)
    assert sorted(output) == ["line 1", "line 7"]
    told = {
        name: (each["response"]["status_code"], each["response"]["body"]["error"]["code"], each["error"])
        for name, each in errors.items()
    }
    assert told == {
        "line 2": (400, "invalid_value", None),
        "line 3": (404, "model_not_found", None),
        "line 4": (400, "invalid_value", None),
        "line 5": (500, "engine_failed", None),
        "line 6": (400, "invalid_value", None),
    }


def test_a_line_without_a_seed_gets_one_of_its_own_that_a_restart_does_not_change(
    client, worker, start_clerk, redis, kill
):
    process = start_clerk()
    batch_id = begin(client, "".join(line(number) for number in range(3)))
    wait_for(client, batch_id, {"in_progress"})
    before = [worker.request(worker.take()).seed for _ in range(3)]
    assert len(set(before)) == 3
    kill(process, batch_id)
    for number in range(1, 4):
        redis.delete(f"rq:job:{job_id_of(batch_id, number)}")  # as if they were past their lifetime
    start_clerk()
    after = [worker.request(worker.take()).seed for _ in range(3)]
    assert after == before


# Files that cannot be run


def test_a_file_with_faults_fails_as_a_whole_and_names_line_and_reason(client, worker, clerk, redis):
    lines = [
        line(1),
        "\n",
        "{\n",
        '{"custom_id": "x", "method": "POST", "url": "/v1/completions"}\n',
        line(2, url="/v1/classify"),
        line(1),
        line(6).replace("POST", "GET"),
        line(7, prompt="a" * 2000),
        line(8).replace('"custom_id"', '"custom"'),
        line(9).replace("line 9", ""),
        "[]\n",
        '{"custom_id": "\\ud800", "method": "POST", "url": "/v1/completions", "body": {}}\n',
    ]
    batch = wait_for(client, begin(client, "".join(lines)))
    assert batch["status"] == "failed"
    assert batch["failed_at"] is not None
    told = [(fault["line"], fault["code"], fault["param"]) for fault in batch["errors"]["data"]]
    assert told == [
        (3, "invalid_json_line", None),
        (4, "invalid_line", "body"),
        (5, "invalid_line", "url"),
        (6, "duplicate_custom_id", "custom_id"),
        (7, "invalid_line", "method"),
        (8, "line_too_long", None),
        (9, "invalid_line", "custom_id"),
        (10, "invalid_line", "custom_id"),
        (11, "invalid_json_line", None),
        (12, "invalid_json_line", None),
    ]
    assert all(fault["message"] for fault in batch["errors"]["data"])
    assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)
    assert redis.zcard(keys.OPEN_BATCHES) == 0
    assert redis.keys("rq:job:*") == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\n \r\n\n", "empty_file"),
        (line(1).replace("ab", "ä").encode("latin1").replace(b"\\u00e4", b"\xe4"), "invalid_json_line"),
        (line(1).encode("utf-16"), "invalid_json_line"),
        (b"\x00" * 5000, "line_too_long"),
        (b"\xff\xfe\x00", "invalid_json_line"),
        ("".join(line(number, prompt="") for number in range(50_001)).encode(), "too_many_lines"),
    ],
    ids=["empty", "blank", "latin-1", "utf-16", "zeros", "bytes", "50,001 lines"],
)
def test_a_file_that_is_no_batch_fails(client, worker, clerk, content, code):
    batch = wait_for(client, begin(client, content))
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", code)
    assert len(batch["errors"]["data"]) <= 101


def test_a_batch_whose_file_was_deleted_before_it_began_fails(client, worker, start_clerk):
    file_id = upload(client, line(1))
    batch_id = post(client, file_id).get_json()["id"]
    client.delete(f"/v1/files/{file_id}")
    start_clerk()
    batch = wait_for(client, batch_id)
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", "file_not_found")


def test_a_batch_that_has_begun_does_not_need_the_clients_file(client, worker, clerk):
    file_id = upload(client, "".join(line(number) for number in range(3)))
    batch_id = post(client, file_id).get_json()["id"]
    wait_for(client, batch_id, {"in_progress"})
    client.delete(f"/v1/files/{file_id}")
    with worker.working():
        assert wait_for(client, batch_id)["request_counts"]["completed"] == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"input_file_id": "x" * 300}, "input_file_id"),
        ({"input_file_id": "../../etc/passwd"}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"a" * 65: ""}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after"),
        ({"nonsense": 1}, "nonsense"),
    ],
    ids=str,
)
def test_a_batch_that_makes_no_sense_is_refused_by_name(client, redis, fields, param):
    response = post(client, upload(client, line(1)), **fields)
    assert response.status_code in (400, 404)
    assert response.get_json()["error"]["param"] == param
    assert redis.keys("kamishibai:batch*") == []


def test_an_output_file_is_no_input(client, worker, clerk):
    with worker.working():
        batch = wait_for(client, begin(client, line(1)))
    response = post(client, batch["output_file_id"])
    assert (response.status_code, response.get_json()["error"]["param"]) == (400, "input_file_id")


def test_output_files_live_as_long_as_was_asked(client, worker, clerk):
    lives = {"anchor": "created_at", "seconds": 3600}
    with worker.working():
        batch = wait_for(client, begin(client, line(1), output_expires_after=lives))
    file = client.get(f"/v1/files/{batch['output_file_id']}").get_json()
    assert file["expires_at"] == file["created_at"] + 3600


# Ends before its time


def test_a_cancelled_batch_keeps_what_was_answered_and_cancels_what_runs(client, worker, start_clerk, redis):
    start_clerk(batch_jobs=4)
    batch_id = begin(client, "".join(line(number) for number in range(10)))
    for _ in range(2):
        worker.finish(worker.take())
    running = worker.take()
    wait_for(client, batch_id, {"in_progress"}, completed=2)
    cancelling = client.post(f"/v1/batches/{batch_id}/cancel").get_json()
    assert cancelling["status"] == "cancelling"
    assert cancelling["cancelling_at"] is not None
    batch = wait_for(client, batch_id)
    assert batch["status"] == "cancelled"
    output, errors = answers_of(client, batch)
    assert sorted(output) == ["line 0", "line 1"]
    assert {each["error"]["code"] for each in errors.values()} == {"batch_cancelled"}
    assert {each["response"] for each in errors.values()} == {None}
    assert redis.hget(f"rq:job:{running}", "status") == b"canceled"
    assert not any(redis.llen(queue) for queue in worker.queues)
    again = client.post(f"/v1/batches/{batch_id}/cancel")
    assert again.status_code == 400
    assert "is cancelled" in again.get_json()["error"]["message"]


def test_a_result_that_nobody_has_collected_is_kept_when_its_batch_is_cancelled(client, worker, start_clerk, kill):
    process = start_clerk()
    batch_id = begin(client, "".join(line(number) for number in range(3)))
    job_id = worker.take()
    kill(process, batch_id)
    worker.finish(job_id)
    client.post(f"/v1/batches/{batch_id}/cancel")
    start_clerk()
    batch = wait_for(client, batch_id)
    output, errors = answers_of(client, batch)
    assert (batch["status"], list(output), len(errors)) == ("cancelled", ["line 0"], 2)


def test_a_batch_that_nobody_has_begun_can_be_cancelled(client, worker, start_clerk):
    batch_id, bad_id = begin(client, line(1) + line(2)), begin(client, "{")
    for each in (batch_id, bad_id, batch_id):
        assert client.post(f"/v1/batches/{each}/cancel").get_json()["status"] == "cancelling"
    start_clerk()
    batch = wait_for(client, batch_id)
    output, errors = answers_of(client, batch)
    assert (batch["status"], len(output), len(errors)) == ("cancelled", 0, 2)
    bad = wait_for(client, bad_id)
    assert (bad["status"], bad["error_file_id"], bad["errors"]) == ("cancelled", None, None)


def test_a_batch_whose_window_is_over_keeps_what_was_answered(client, worker, start_clerk, redis):
    batch_id = begin(client, "".join(line(number) for number in range(10)))
    redis.hset(keys.batch(batch_id), "expires_at", int(time.time()) + 4)
    start_clerk(batch_jobs=4)
    for _ in range(3):
        worker.finish(worker.take())
    batch = wait_for(client, batch_id)
    output, errors = answers_of(client, batch)
    assert (batch["status"], len(output), len(errors)) == ("expired", 3, 7)
    assert batch["expired_at"] is not None
    assert {each["error"]["code"] for each in errors.values()} == {"batch_expired"}
    assert not any(redis.llen(queue) for queue in worker.queues)


# Through trouble


@pytest.mark.long
def test_a_clerk_that_is_killed_again_and_again_loses_and_doubles_nothing(client, worker, start_clerk, redis):
    total = 200
    batch_id = begin(client, "".join(line(number) for number in range(total)))
    ran = []

    def act(job_id):
        ran.append(job_id)
        worker.announce()  # it is forgotten after 20 s
        time.sleep(0.01)
        worker.finish(job_id)

    process = start_clerk(batch_jobs=64)
    with worker.working(act):
        for least in (40, 120):
            wait_for(client, batch_id, {"in_progress"}, completed=least)
            process.kill()
            process.wait()
            process = start_clerk(batch_jobs=64)
            worker.announce()
        batch = wait_for(client, batch_id, seconds=90)
    output, errors = answers_of(client, batch)
    assert (batch["status"], len(output), errors) == ("completed", total, {})
    assert len(ran) == len(set(ran)) == total, "a restarted clerk finds the jobs of the one before"
    assert not (Path(client.application.extensions["kamishibai"].files.root) / ".batches" / batch_id).exists()


def test_a_line_that_was_written_in_part_is_written_again(client, worker, start_clerk, root, kill):
    process = start_clerk(batch_jobs=4)
    batch_id = begin(client, "".join(line(number) for number in range(6)))
    for _ in range(2):
        worker.finish(worker.take())
    wait_for(client, batch_id, {"in_progress"}, completed=2)
    kill(process, batch_id)
    output = root / ".batches" / batch_id / "output"
    whole = output.read_bytes()
    output.write_bytes(whole[:-20])
    start_clerk()
    with worker.working():
        batch = wait_for(client, batch_id, seconds=20)
    answered, _ = answers_of(client, batch)
    assert len(answered) == 6


def test_results_that_were_lost_with_their_jobs_are_computed_again(client, worker, start_clerk, redis, kill):
    process = start_clerk()
    batch_id = begin(client, "".join(line(number) for number in range(3)))
    wait_for(client, batch_id, {"in_progress"})
    worker.finish(worker.take())
    taken = worker.take()
    kill(process, batch_id)
    redis.delete(f"rq:job:{taken}", f"rq:job:{job_id_of(batch_id, 1)}")
    start_clerk()
    with worker.working():
        batch = wait_for(client, batch_id, seconds=20)
    output, _ = answers_of(client, batch)
    assert len(output) == 3


def test_two_clerks_share_batches_and_do_none_twice(client, worker, start_clerk):
    for _ in range(2):
        start_clerk(batch_jobs=16)
    ids = [begin(client, "".join(line(number) for number in range(50))) for _ in range(4)]
    ran = []

    def act(job_id):
        ran.append(job_id)
        worker.finish(job_id)

    with worker.working(act):
        ended = [wait_for(client, batch_id) for batch_id in ids]
    for batch in ended:
        output, _ = answers_of(client, batch)
        assert len(output) == 50
    assert len(ran) == len(set(ran)) == 200


def test_a_clerk_that_stood_still_beyond_its_lease_writes_nothing_any_more(client, worker, start_clerk, redis):
    process = start_clerk(batch_jobs=4)
    batch_id = begin(client, "".join(line(number) for number in range(8)))
    for _ in range(2):
        worker.finish(worker.take())
    wait_for(client, batch_id, {"in_progress"}, completed=2)
    process.send_signal(signal.SIGSTOP)
    redis.delete(keys.batch_lease(batch_id))  # as if its time were over
    start_clerk(batch_jobs=4)
    with worker.working():
        time.sleep(3)
        assert read(client, batch_id)["status"] == "in_progress", "the one that stands still has the files"
        process.send_signal(signal.SIGCONT)
        batch = wait_for(client, batch_id, seconds=60)
    output, errors = answers_of(client, batch)
    assert (len(output), errors) == (8, {})


def test_a_batch_waits_for_a_worker_and_goes_on_by_itself(client, worker, clerk):
    worker.withdraw()
    batch_id = begin(client, line(1) + line(2, model="tiny-picture", prompt="a"))
    time.sleep(3)
    assert read(client, batch_id)["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    worker.announce()
    with worker.working():
        output, errors = answers_of(client, wait_for(client, batch_id))
    assert (list(output), list(errors)) == (["line 1"], ["line 2"])


def test_a_full_disk_stops_a_batch_until_there_is_room(client, worker, start_clerk, root):
    import resource

    process = start_clerk()
    batch_id = begin(client, "".join(line(number) for number in range(40)))
    wait_for(client, batch_id, {"in_progress"})
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    with worker.working():
        time.sleep(4)
        assert read(client, batch_id)["status"] == "in_progress"
        assert (root / ".batches" / batch_id / "output").stat().st_size <= 2000
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        batch = wait_for(client, batch_id)
    output, errors = answers_of(client, batch)
    assert (len(output), errors) == (40, {})


# Whose batches


def test_batches_of_others_are_answered_exactly_as_unknown_ones(client, redis):
    scopes: dict[str, Scope] = {"a": "infer", "b": "infer", "root": "admin"}
    texts = {name: ApiKeys(redis).create(name, scope) for name, scope in scopes.items()}
    headers = {name: {"Authorization": f"Bearer {text}"} for name, text in texts.items()}
    file_id = upload(client, line(1), headers["a"])
    assert post(client, file_id, headers["b"]).status_code == 404
    batch_id = post(client, file_id, headers["a"]).get_json()["id"]
    unknown = "batch_" + "0" * 32
    for method, path in (("get", ""), ("post", "/cancel")):
        anothers = getattr(client, method)(f"/v1/batches/{batch_id}{path}", headers=headers["b"])
        never = getattr(client, method)(f"/v1/batches/{unknown}{path}", headers=headers["b"])
        assert anothers.status_code == 404
        assert anothers.get_data(as_text=True).replace(batch_id, unknown) == never.get_data(as_text=True)
    seen = {name: len(client.get("/v1/batches", headers=each).get_json()["data"]) for name, each in headers.items()}
    assert seen == {"a": 1, "b": 0, "root": 1}
    assert client.get(f"/v1/batches/{batch_id}", headers=headers["root"]).get_json()["status"] == "validating"


def test_jobs_and_files_of_a_batch_belong_to_its_key(client, worker, clerk, redis):
    text = ApiKeys(redis).create("a", "infer")
    headers = {"Authorization": f"Bearer {text}"}
    batch_id = post(client, upload(client, line(1), headers), headers).get_json()["id"]
    job_id = worker.take(20)
    assert client.get(f"/v1/jobs/{job_id}", headers=headers).status_code == 200
    worker.finish(job_id)
    deadline = time.monotonic() + 20
    while (batch := client.get(f"/v1/batches/{batch_id}", headers=headers).get_json())["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    path = f"/v1/files/{batch['output_file_id']}/content"
    assert client.get(path, headers=headers).get_data(as_text=True).count("\n") == 1
    other = {"Authorization": f"Bearer {ApiKeys(redis).create('b', 'infer')}"}
    assert client.get(path, headers=other).status_code == 404


def test_a_list_has_pages(client):
    ids = [begin(client, line(1)) for _ in range(5)]

    def listed(query):
        found = client.get(f"/v1/batches?{query}").get_json()
        return [ids.index(batch["id"]) for batch in found["data"]], found["has_more"]

    assert listed("") == ([4, 3, 2, 1, 0], False)
    assert listed("limit=2") == ([4, 3], True)
    assert listed(f"limit=3&after={ids[3]}") == ([2, 1, 0], False)
    assert listed(f"after={ids[0]}") == ([], False)
    assert client.get("/v1/batches?limit=101").status_code == 400


def test_an_owner_may_have_so_many_open_batches_and_no_more(client, redis, monkeypatch):
    monkeypatch.setattr(batches, "MOST_OPEN_BATCHES", 3)
    file_id = upload(client, line(1))
    assert [post(client, file_id).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = post(client, file_id)
    assert refused.get_json()["error"]["code"] == "too_many_batches"
    assert refused.headers["Retry-After"]
    text = ApiKeys(redis).create("a", "infer")
    headers = {"Authorization": f"Bearer {text}"}
    assert post(client, upload(client, line(1), headers), headers).status_code == 200


def test_what_redis_holds_of_a_batch_has_a_lifetime(client, worker, clerk, redis: Redis):
    with worker.working():
        wait_for(client, begin(client, line(1)))
    begin(client, line(1))
    ours = [key for key in redis.keys("kamishibai:batch*") if key != keys.OPEN_BATCHES.encode()]
    assert len(ours) >= 4
    assert [key for key in ours if not 0 < redis.ttl(key) <= 31 * 24 * 3600 + 1] == []


@pytest.mark.parametrize("planted", [{"status": "x"}, {"total": "many"}, {"errors": "{"}, {"owner": b"\xff"}])
def test_a_batch_that_somebody_has_planted_is_none(client, redis, planted):
    batch_id = begin(client, line(1))
    redis.hset(keys.batch(batch_id), mapping=planted)
    assert client.get(f"/v1/batches/{batch_id}").status_code == 404
    assert client.get("/v1/batches").get_json()["data"] == []


# Beside others


def queued(redis, worker):
    return sum(redis.llen(queue) for queue in worker.queues)


def test_a_batch_leaves_half_of_the_queue_to_others(client, worker, start_clerk, redis, eventually):
    start_clerk(max_queued_jobs=8)
    batch_id = begin(client, "".join(line(number) for number in range(10)))
    eventually(lambda: queued(redis, worker) == 4)
    time.sleep(2)
    assert queued(redis, worker) == 4
    assert client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "ab"}}).status_code == 202
    with worker.working():
        output, errors = answers_of(client, wait_for(client, batch_id))
    assert (len(output), errors) == (10, {})


def test_lines_come_after_live_requests(client, worker, clerk, redis, eventually):
    begin(client, line(1) + line(2))
    eventually(lambda: queued(redis, worker) == 2)
    live = client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "ab"}}).get_json()["id"]
    assert worker.take() == live


def test_lines_count_against_the_limits_of_their_key_and_wait(client, worker, clerk, redis, eventually):
    text = ApiKeys(redis).create("a", "infer", unfinished_jobs=3)
    headers = {"Authorization": f"Bearer {text}"}
    file_id = upload(client, "".join(line(number) for number in range(8)), headers)
    batch_id = post(client, file_id, headers).get_json()["id"]
    eventually(lambda: queued(redis, worker) == 3)
    time.sleep(1)
    assert queued(redis, worker) == 3

    def act(job_id):
        worker.finish(job_id)
        redis.zrem(f"kamishibai:unfinished:{key_id(text)}", job_id)  # as a worker does

    with worker.working(act):
        deadline = time.monotonic() + 20
        while (batch := client.get(f"/v1/batches/{batch_id}", headers=headers).get_json())["status"] != "completed":
            assert time.monotonic() < deadline, batch
            time.sleep(0.1)
    assert batch["request_counts"] == {"total": 8, "completed": 8, "failed": 0}


def test_lines_are_not_among_the_jobs_that_their_owner_lists(client, worker, clerk, redis, eventually):
    begin(client, line(1))
    eventually(lambda: queued(redis, worker) == 1)
    assert client.get("/v1/jobs").get_json()["data"] == []

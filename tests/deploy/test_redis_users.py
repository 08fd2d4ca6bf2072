"""deploy/redis-users.acl: the whole product runs under its users, and what it does not need is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI, OpenAIError
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from contracts.connection import connect
from contracts.requests import Target
from contracts.shadows import Shadow, Shadows
from tests.ports import free_port
from workers.embedded_redis import find_server

SETTINGS = ("KAMISHIBAI_MODEL_CONTROL", "KAMISHIBAI_WEBHOOK_HTTP", "KAMISHIBAI_WEBHOOK_PRIVATE")
NAMES = ("server", "worker", "clerk", "operator")
REFUSED_TO_ALL = [
    "GET other",
    "HGETALL other",
    "DEL other",
    "KEYS *",
    "SCAN 0",
    "FLUSHALL",
    "CONFIG GET *",
    "CONFIG SET dir /tmp",
    "ACL LIST",
    "ACL WHOAMI",
    "SLOWLOG GET",
    "EVAL 1 0",
    "FUNCTION LIST",
    "MODULE LIST",
    "MONITOR",
    "REPLICAOF NO ONE",
    "SAVE",
    "SHUTDOWN",
    "SWAPDB 0 1",
    "CLIENT KILL ID 1",
    "PSUBSCRIBE *",
]
USERS = (Path(__file__).parents[2] / "deploy" / "redis-users.acl").read_text(encoding="utf-8")


class Guarded:
    """A Redis with these users, and processes of the product beside it."""

    def __init__(self, users: str, store: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ks-"))  # a socket's path has room for 107 bytes
        self._store = store
        self.socket, acl_file = self._folder / "s", self._folder / "users.acl"
        acl_file.write_text(users, encoding="utf-8")
        options = ["--port", "0", "--unixsocket", str(self.socket), "--aclfile", str(acl_file)]
        command = [find_server(), *options, "--save", "", "--loglevel", "warning"]
        self._processes = [subprocess.Popen(command, cwd=self._folder)]
        wait_until(self._answers)

    def _answers(self) -> bool:
        with connect(f"unix://{self.socket}") as client:
            try:
                return bool(client.ping())
            except AuthenticationError:
                return True
            except RedisConnectionError:
                return False

    def url(self, user: str) -> str:
        return f"unix://{user}:secret@{self.socket}"

    def start(self, user: str, *arguments: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"KAMISHIBAI_REDIS_URL": self.url(user), "KAMISHIBAI_STORE": str(self._store)}
        environment |= dict.fromkeys(SETTINGS, "on")
        command = [sys.executable, "-P", "-m", "cli.main", *arguments]
        self._processes.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return self._processes[-1]

    def command(self, *arguments: str) -> str:
        """What a command prints that the operator gives."""
        environment = os.environ | {"KAMISHIBAI_REDIS_URL": self.url("kamishibai-operator")}
        command = [sys.executable, "-P", "-m", "cli.main", *arguments, "--store", str(self._store)]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout

    def stop(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(40)
        shutil.rmtree(self._folder)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OpenAIError):
            if condition():
                return
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def product(store):
    """The file's users have a password, and a tester may do everything."""
    users = re.sub(r"^user (kamishibai-\w+) on ", r"user \1 on >secret ", USERS, flags=re.MULTILINE)
    guarded = Guarded(f"{users}user tester on >secret ~* &* +@all\n", store.root)
    yield guarded
    guarded.stop()


@pytest.fixture(scope="module")
def tester(product):
    with connect(product.url("tester")) as client:
        yield client


@pytest.fixture(scope="module")
def as_shipped(store):
    guarded = Guarded(USERS, store.root)
    yield guarded
    guarded.stop()


def post_job(client, **fields):
    return client.post("/jobs", body={"model": "lstm", "input": {"prompt": "the", **fields}}, cast_to=object)["id"]


def read_job(client, job_id, query=""):
    return client.get(f"/jobs/{job_id}{query}", cast_to=object)["status"]


def delete_job(client, job_id):
    return client.delete(f"/jobs/{job_id}", cast_to=object)


def use_everything(product, tester):
    """Every way through the product that meets Redis."""
    limits = ["--jobs-per-minute", "1000", "--unfinished-jobs", "100"]
    key = product.command("keys", "create", "ops", "--scope", "admin", *limits).strip()
    worker = product.start("kamishibai-worker", "worker", "--device", "cpu", "--name", "one")
    port = free_port()
    product.start("kamishibai-server", "serve", "--port", str(port))
    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client:
        wait_until(lambda: len(list(client.models.list())) == 3)
        use_calls(client)
        use_orders(client)
        use_control(client)
        use_batches(client, product)
        use_webhooks(client, tester)
        use_shadows(client, product, tester)
        use_jobs(client, product, tester, worker)
    assert "ops" in product.command("keys", "list")
    product.command("keys", "revoke", "ops")
    product.command("keys", "off", "--yes")


def use_calls(client):
    assert client.completions.create(model="gpt2", prompt="the", max_tokens=5).choices[0].text
    stream = client.completions.create(model="lstm", prompt="the", max_tokens=400, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream)
    assert client.images.generate(model="faces", prompt="", n=2).data
    (picture,) = client.images.generate(model="faces", prompt="", response_format="url").data or []
    with urllib.request.urlopen(str(picture.url)) as answer:
        assert answer.read().startswith(b"\x89PNG")
    assert "kamishibai_queue_depth" in client.get("/../metrics", cast_to=str)


def use_control(client):
    client.post("/models/faces/reload", cast_to=object)
    for word in ("drain", "resume"):
        client.post(f"/workers/one/{word}", cast_to=object)
    client.get("/workers", cast_to=object)


def use_orders(client):
    job = {"model": "lstm", "input": {"prompt": "the", "max_tokens": 5}, "webhook": "https://example.org/"}
    jobs = [{**job, "priority": priority, "deadline_seconds": 60} for priority in ("high", "normal", "low") * 4]
    headers = {"Idempotency-Key": "one"}
    made = [client.post("/jobs/bulk", body={"jobs": jobs}, cast_to=object, options={"headers": headers}) for _ in "ab"]
    assert [each["accepted"] for each in made] == [12, 12]
    ids = [each["id"] for each in made[0]["data"]]
    assert {read_job(client, job_id, "?wait=30") for job_id in ids} == {"succeeded"}
    page = client.get(f"/jobs?after={ids[-1]}", cast_to=object)
    assert len(page["data"]) == 11


def use_webhooks(client, tester):
    client.get("/webhooks/secret", cast_to=object)
    client.post("/webhooks/secret/rotate", cast_to=object)
    count = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            nonlocal count
            count += 1
            self.send_response(500 if count == 1 else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as receiver:
        threading.Thread(target=receiver.serve_forever).start()
        job = {"model": "lstm", "input": {"prompt": "the"}, "webhook": f"http://127.0.0.1:{receiver.server_port}/"}
        client.post("/jobs", body=job, cast_to=object)
        try:
            wait_until(lambda: tester.hget("kamishibai:webhook_counts", "delivered"))
        finally:
            receiver.shutdown()
    assert count == 2


def use_batches(client, product):
    product.start("kamishibai-clerk", "clerk")

    def begin(endpoint, body, count):
        line = {"custom_id": "", "method": "POST", "url": endpoint, "body": body}
        lines = "".join(json.dumps(line | {"custom_id": str(number)}) + "\n" for number in range(count))
        file = client.files.create(file=("lines.jsonl", lines.encode()), purpose="batch")
        return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h").id

    pictures = begin("/v1/images/generations", {"model": "faces"}, 2)
    wait_until(lambda: client.batches.retrieve(pictures).status == "completed")
    long = begin("/v1/completions", {"model": "lstm", "prompt": "the", "max_tokens": 4000}, 300)
    wait_until(lambda: client.batches.retrieve(long).request_counts.total == 300)
    client.batches.cancel(long)
    wait_until(lambda: client.batches.retrieve(long).status == "cancelled")
    assert [batch.id for batch in client.batches.list()] == [long, pictures]


def use_shadows(client, product, tester):
    """A version beside itself, so that one worker is enough."""
    target = Target(model="lstm", version=1, variant="pytorch:fp32")
    Shadows(tester).begin(Shadow(live=target, candidate=target, share=1))
    time.sleep(2)  # until the clerk has heard of it
    client.completions.create(model="lstm", prompt="the", max_tokens=5)
    wait_until(lambda: client.get("/models/lstm/shadow", cast_to=object)["divergence"]["tokens"])
    assert "on 100.0% of its requests" in product.command("models", "shadow", "lstm")
    product.command("models", "shadow", "lstm", "--stop")
    with suppress(NotFoundError):
        client.delete("/models/lstm/shadow", cast_to=object)


def use_jobs(client, product, tester, worker):
    done = post_job(client, max_tokens=5)
    assert read_job(client, done, "?wait=30") == "succeeded"
    assert product.command("replay", done, "--device", "cpu").startswith("identical")
    lost = post_job(client, max_tokens=4000)
    wait_until(lambda: read_job(client, lost) == "running")
    worker.kill()
    worker.wait()
    let_lease_run_out(tester, lost)
    worker = product.start("kamishibai-worker", "worker", "--device", "cpu", "--name", "two")
    wait_until(lambda: tester.hget(f"rq:job:{lost}", "retries_left") == b"2")
    assert delete_job(client, lost)["status"] == "cancelled"
    for job_id in (done, lost):
        assert delete_job(client, job_id)["deleted"]
    given_back = post_job(client, max_tokens=4000, n=16)
    wait_until(lambda: read_job(client, given_back) == "running")
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    worker.send_signal(signal.SIGTERM)  # in a hurry
    worker.wait(40)
    assert read_job(client, given_back) == "queued"


def let_lease_run_out(tester, job_id):
    (entry,) = tester.zrange(f"rq:executions:{job_id}", 0, -1)
    queue = tester.hget(f"rq:job:{job_id}", "origin").decode()
    tester.zadd(f"rq:wip:{queue}", {f"{job_id}:{entry.decode()}": 1})


def granted():
    return set(re.findall(r"\+(\S+)", USERS))


DISPENSABLE = {
    "info",  # RQ asks for the version, and does without it
    "client|setinfo",  # redis-py tells its name, and does not mind; Redis 7.0 does not know it
}
RARELY = {
    "hdel",  # of a secret whose time is over
    "select",  # for a Redis whose database is not 0
    "hexists",  # RQ asks it of a worker that comes back under its old name
    "getrange",  # of a stream that has missed a message
    "ping",  # of a connection that was idle
    "ttl",  # of a completion whose answer got lost
}


def test_the_product_runs_under_these_users_and_uses_all_that_they_may(product, tester):
    use_everything(product, tester)
    refused = {entry["object"] for entry in tester.acl_log(count=128)}
    assert refused <= DISPENSABLE
    statistics = tester.info("commandstats")
    used = {name.removeprefix("cmdstat_") for name, counts in statistics.items() if counts["calls"]}
    assert granted() - used - RARELY == set()


@pytest.mark.parametrize(
    ("user", "command"),
    [
        *((user, command) for user in NAMES for command in REFUSED_TO_ALL),
        ("server", "HSET kamishibai:keys id {}"),
        ("server", "DEL kamishibai:keys"),
        ("server", "SADD kamishibai:worker:x y"),
        ("server", "DEL kamishibai:janitor"),
        ("worker", "HSET kamishibai:keys id {}"),
        ("worker", "HMGET kamishibai:keys id"),
        ("worker", "HSET kamishibai:shadows x {}"),
        ("clerk", "HDEL kamishibai:shadows x"),
        ("worker", "DEL kamishibai:keys"),
        ("worker", "SUBSCRIBE rq:other"),
        ("server", "DEL kamishibai:batch_lease:x"),
        ("worker", "HSET kamishibai:batch:x status completed"),
        ("clerk", "HGETALL kamishibai:keys"),
        ("clerk", "HSET kamishibai:keys id {}"),
        ("clerk", "SET kamishibai:worker:x y"),
        ("clerk", "DEL kamishibai:janitor"),
        ("clerk", "SUBSCRIBE rq:other"),
        ("operator", "HSET rq:job:x status queued"),
        ("operator", "DEL rq:job:x"),
        ("operator", "PUBLISH kamishibai:ended []"),
        ("operator", "EVALSHA 0 0"),
    ],
)
def test_what_the_product_does_not_need_is_refused(product, user, command):
    client = connect(product.url(f"kamishibai-{user}"))
    with client, pytest.raises(NoPermissionError, match="permission"):
        client.execute_command(*command.split())


def test_a_script_may_do_no_more_than_its_user(product):
    client = connect(product.url("kamishibai-server"))
    for call in ("'HSET', 'kamishibai:keys', 'id', '{}'", "'GET', 'other'", "'KEYS', '*'"):
        with pytest.raises(ResponseError, match=r"ACL|permission|executing the script"):
            client.register_script(f"return redis.call({call})")()
    client.close()


@pytest.mark.parametrize("user", [*(f"kamishibai-{name}" for name in NAMES), "default"])
@pytest.mark.parametrize("password", ["", "secret", "wrong"])
def test_nobody_can_log_in_until_passwords_are_set(as_shipped, user, password):
    with pytest.raises(AuthenticationError):
        connect(f"unix://{user}:{password}@{as_shipped.socket}").ping()
    with pytest.raises(AuthenticationError):
        connect(f"unix://{as_shipped.socket}").ping()

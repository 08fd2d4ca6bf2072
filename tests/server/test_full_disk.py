"""The disk of Redis is full: no job is accepted that a kill could take."""

from __future__ import annotations

import resource
import subprocess

import pytest
from redis import Redis

from contracts.jobs import JobQueue
from contracts.settings import Settings
from server.app import create_app
from tests.server.conftest import StandInWorker
from workers.embedded_redis import EmbeddedRedis

# The shell becomes Redis, for which a write beyond the limit then fails instead of ending it.
COMMAND = ["/bin/sh", "-c", 'trap "" XFSZ; exec "$@"', "redis"]


@pytest.fixture
def embedded(tmp_path):
    embedded = EmbeddedRedis(tmp_path)
    yield embedded
    embedded.clean_up()


@pytest.fixture
def start_redis(embedded, eventually):
    started = []

    def start():
        started.append(subprocess.Popen([*COMMAND, *embedded.command()]))
        with Redis.from_url(embedded.url) as client:
            eventually(client.ping)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("room_bytes", [1000, 1700, 2500])
def test_a_job_that_was_accepted_as_the_disk_filled_up_outlives_a_killed_redis(
    tmp_path, embedded, start_redis, store, room_bytes
):
    process = start_redis()
    app = create_app(Settings(store=store.root, redis_url=embedded.url))
    with Redis.from_url(embedded.url) as client:
        StandInWorker(client, store).announce()
        size = max(path.stat().st_size for path in tmp_path.rglob("*.aof"))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + room_bytes, resource.RLIM_INFINITY))
        body = {"model": "tiny-text", "input": {"prompt": "ab"}}
        answers = [app.test_client().post("/v1/jobs", json=body) for _ in range(20)]
        assert answers[-1].status_code == 503
        assert answers[-1].get_json()["error"]["code"] == "queue_unavailable"
        accepted = [answer.get_json()["id"] for answer in answers if answer.status_code == 202]
        process.kill()
        process.wait()
    start_redis()
    with Redis.from_url(embedded.url) as client:
        assert [JobQueue(client).read(job_id).status for job_id in accepted] == ["queued"] * len(accepted)

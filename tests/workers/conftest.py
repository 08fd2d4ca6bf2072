"""A real worker (parent and engine child) on a real Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from contracts.announcements import read_announcements
from contracts.jobs import JobQueue, JobRecord
from contracts.store import Store


@pytest.fixture
def jobs(connection: Redis) -> JobQueue:
    return JobQueue(connection)


@pytest.fixture
def start_worker(redis_url: str, store: Store, connection: Redis) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start workers as `kamishibai worker` does; they are stopped at the test's end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str = "worker", *, wait: bool = True) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "cli.main", "worker", "--device", "cpu", "--name", name]
        environment = os.environ | {"KAMISHIBAI_STORE": str(store.root), "KAMISHIBAI_REDIS_URL": redis_url}
        process = subprocess.Popen([*command, "--store", str(store.root)], env=environment, start_new_session=True)
        started.append(process)
        deadline = time.monotonic() + 60
        while wait and not any(a.ready and a.worker == name for a in read_announcements(connection)):
            assert time.monotonic() < deadline, "the worker did not become ready within 60 s"
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in started:
        try:
            process.wait(30)
        finally:
            process.kill()


@pytest.fixture
def wait_ended(jobs: JobQueue) -> Callable[..., JobRecord]:
    def wait(job_id: str, seconds: float = 60) -> JobRecord:
        deadline = time.monotonic() + seconds
        while not (record := jobs.read(job_id)).ended:
            assert time.monotonic() < deadline, f"{job_id} is still {record.status} after {seconds} s"
            time.sleep(0.01)
        return record

    return wait

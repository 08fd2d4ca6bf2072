"""`kamishibai up` on a Redis behind a sentinel: its master dies, and the product goes on with the next one."""

from __future__ import annotations

import time

from contracts.connection import connect
from tests.sentinels import Watched


def test_accepted_jobs_outlive_the_master(start_product, tmp_path):
    with Watched(tmp_path) as watched:
        product = start_product("--redis-url", watched.url)
        product.wait_ready()
        body = {"model": "lstm", "input": {"prompt": "a", "max_tokens": 200, "seed": 1}}
        jobs = [product.post("/v1/jobs", body) for _ in range(20)]
        assert {status for status, _ in jobs} == {202}
        with connect(watched.url) as master:
            assert master.wait(1, 10_000) == 1  # the replica has them too
        watched.kill_master()
        watched.await_other_master()
        results = [_ended(product, job["id"]) for _, job in jobs]
        assert {result["status"] for result in results} == {"succeeded"}
        assert len({result["result"]["choices"][0]["text"] for result in results}) == 1
        status, _ = product.post("/v1/completions", {"model": "lstm", "prompt": "a", "max_tokens": 5})
        assert status == 200


def _ended(product, job_id):
    """The server says 503 until it has found the new master."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status, job = product.get(f"/v1/jobs/{job_id}?wait=10")
        if status == 200 and job["status"] in ("succeeded", "failed"):
            return job
        assert status in (200, 503), job
        time.sleep(0.2)
    raise AssertionError(f"job {job_id} has not ended")

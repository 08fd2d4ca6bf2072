"""`kamishibai replay` beside a running product."""

from __future__ import annotations

import os
import subprocess
import sys


def test_replay_finds_the_redis_of_a_running_up_by_its_store(product, store):
    ids = []
    for body in (
        {"model": "gpt2", "input": {"prompt": "the quick", "max_tokens": 30, "n": 2, "temperature": 1.1}},
        {"model": "faces", "input": {"n": 3}},
    ):
        status, job = product.post("/v1/jobs", body)
        assert status == 202, job
        assert product.get(f"/v1/jobs/{job['id']}?wait=60")[1]["status"] == "succeeded"
        ids.append(job["id"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAMISHIBAI_")}
    for job_id in ids:
        command = [sys.executable, "-P", "-m", "cli.main", "replay", job_id, "--store", str(store.root)]
        done = subprocess.run(
            [*command, "--device", "cpu"], env=environment, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("identical (fp_")

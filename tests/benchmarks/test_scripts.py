"""The benchmark scripts keep running; what they measure is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def test_the_engine_benchmark_prints_a_table_and_json():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "engines.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert len(results) == 4
    assert all(result["engine"] > 0 and result["peer"] > 0 for result in results)


@pytest.mark.long
def test_the_benchmark_of_bundles_prints_its_table_and_json():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "bundles.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert {row[0] for row in rows} == {"bert", "lstm", "gpt2", "dcgan"}
    assert f"| {rows[1][0]} | {rows[1][1]} |" in done.stdout
    assert "| cannot be | because |" in done.stdout


def test_the_text_engine_benchmark_compares_every_variant_with_its_peers():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "text_engines.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert {"pytorch:fp32", "transformers fp32", "eager nn.LSTM"} <= {result["engine"] for result in results}
    assert all(result["tokens_per_second"] > 0 for result in results)
    assert all(result["invariant"] for result in results if result["invariant"] is not None)


def test_the_benchmark_of_serving_measures_every_kind_of_request():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "serving.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    results = [row for row in json.loads(done.stdout.splitlines()[-1])["results"] if row["server"] == "Kamishibai"]
    assert [row["case"] for row in results] == ["health", "validation", "accept", "poll", "complete", "stream"]
    assert all(row["requests_per_second"] > 0 and row["p50_ms"] <= row["p99_ms"] for row in results)
    assert results[-1]["events_per_second"] > 0


def test_the_benchmark_of_the_queue_compares_it_with_rqs_own_worker():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "queue_alone.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["jobs_per_second"].keys() == {"Kamishibai", "RQ SimpleWorker"}
    assert document["ratio"] > 0

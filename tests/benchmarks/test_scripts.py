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


def test_the_benchmark_for_a_gpu_measures_graphs_beside_what_is_not_recorded():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "gpu.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    sections = {figure["section"] for figure in document["figures"]}
    assert sections >= {"engine", "invariance", "steps", "pictures", "together", "lengths", "host"}
    assert not document["left_out"] + document["failed"]
    rates = [figure["tokens_per_second"] for figure in document["figures"] if "tokens_per_second" in figure]
    assert min(rates) > 0
    assert all(figure["invariant"] for figure in document["figures"] if figure["section"] == "invariance")


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


def test_the_benchmark_of_labels_compares_every_variant_with_transformers_at_every_length():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "labels.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    for tokens in ("16", "64", "256", "mixed"):
        engines = {result["engine"]: result for result in results if result["tokens"] == tokens}
        assert {"pytorch:fp32", "onnx:fp32", "transformers fp32"} <= engines.keys()
        assert all(result["texts_per_second"] > 0 for result in engines.values())
        assert all(result["invariant"] for result in engines.values() if result["invariant"] is not None)


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


@pytest.mark.parametrize("curves", ["batch,context", "clients"])
def test_the_curves_are_measured_and_drawn(tmp_path, curves):
    command = [sys.executable, str(SCRIPTS / "curves.py"), "--quick", "--curves", curves, "--figures", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["curves"]
    assert list(found) == curves.split(",")
    for name, points in found.items():
        assert all(point["rate"] > 0 and point["p99_ms"] > 0 for point in points)
        assert (tmp_path / f"curve-{name}.png").stat().st_size > 10_000


@pytest.mark.long
def test_the_benchmark_of_pictures_measures_engines_and_servers():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "pictures.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert {row["engine"] for row in document["engines"]} >= {"pytorch:fp32", "plain module", "frozen TorchScript"}
    assert {row["server"] for row in document["served"]} >= {"Kamishibai pytorch:fp32", "Kamishibai onnx:fp32"}
    assert all(row["pictures_per_second"] > 0 for row in document["engines"] + document["served"])


@pytest.mark.long
def test_the_benchmark_of_a_start_waits_until_all_models_are_served(store):
    command = [sys.executable, str(SCRIPTS / "start.py"), "--store", str(store.root), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["models"] == store.names()
    assert document["seconds"] > 0


def test_the_benchmark_of_served_text_compares_it_with_the_engine_alone():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "served_text.py"), "--quick", "--cases", "characters"],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout.splitlines()[-1])["results"]
    assert result["served"] > 0
    assert result["levels"][0]["repeats"]["changed"] == 0


def test_the_benchmark_of_workers_tells_what_the_queue_costs():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "two_workers.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert [row["workers"] for row in document["results"]] == [1, 2]
    assert all(row["redis_us_per_job"] > 0 and row["bytes_per_queued_job"] > 0 for row in document["results"])


def test_the_page_of_performance_is_as_the_results_have_it():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "page.py"), "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_only_a_ratio_that_has_fallen_is_a_regression(tmp_path):
    def write(folder, ours):
        folder.mkdir()
        rows = [
            {"case": "complete", "clients": 32, "server": server, "requests_per_second": rate}
            for server, rate in (("Kamishibai", ours), ("LitServe", 1000.0))
        ]
        (folder / "serving-2026-01-31.json").write_text(json.dumps({"results": rows}))
        return str(folder)

    def compare(ours):
        new = write(tmp_path / str(ours), ours)
        command = [sys.executable, str(SCRIPTS / "regressions.py"), new, "--kept", str(tmp_path / "kept")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    write(tmp_path / "kept", 1000.0)
    assert compare(900.0).returncode == 0
    fallen = compare(700.0)
    assert fallen.returncode == 1
    assert "1x | 0.7x | -30%" in fallen.stdout
    assert "fallen by more than 20%: echo over HTTP" in fallen.stderr


def test_the_benchmark_of_redis_alone_says_how_full_its_core_was():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "redis_limit.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert [(row["what"], row["at_once"]) for row in results] == [("jobs", 1), ("jobs", 64), ("pieces", 64)]
    assert all(row["per_second"] > 0 and 0 < row["of_one_core"] < 1.1 for row in results)


def test_the_benchmark_of_sizes_weighs_jobs_on_their_way_and_idle_workers():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "sizing.py"), "--quick"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    streamed, pictures = document["results"]
    for row in (streamed, pictures):
        assert 0 < row["waiting_bytes"] < row["running_bytes"] < row["ended_bytes"]
        assert all(row[f"file_bytes_to_{step}"] > 0 for step in ("enqueue", "claim", "renew", "end"))
    assert pictures["ended_bytes"] > 10_000
    assert streamed["file_bytes_to_publish"] > 0 == pictures["file_bytes_to_publish"]
    assert document["idle"][0]["commands"] > 0

"""`kamishibai bench` on the product as a user runs it: texts, pictures and labels under load, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from cli.bench.results import read_results
from contracts.store import Store
from tests.conftest import write_faces, write_gpt2, write_lstm


@pytest.fixture(scope="module")
def root(tmp_path_factory, classifiers):
    store = Store(tmp_path_factory.mktemp("bench"))
    write_lstm(store)
    write_gpt2(store)
    write_faces(store)
    shutil.copytree(classifiers.root / "genres", store.root / "genres")
    return store.root


@pytest.fixture
def bench(shared_product):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAMISHIBAI_")}

    def run(*options):
        command = [sys.executable, "-P", "-m", "cli.main", "bench", f"{shared_product.url}/v1", *map(str, options)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_a_mix_of_all_tasks_is_measured_and_no_answer_changes_under_load(bench):
    models = [f"--model={name}" for name in ("lstm", "gpt2", "faces=0.5", "genres=0.5")]
    sizes = ["--new-tokens", 24, "--ignore-eos", "--prompt-tokens", "8-20", "--pictures", 3, "--texts", 2]
    done = bench(*models, *sizes, "--requests", 48, "--concurrency", 12, "--rate", 60, "--check", "all", "--warmup", 4)
    assert done.returncode == 0, done.stderr
    results = read_results(done.stdout.splitlines()[-1].encode(), "")
    assert [share.task for share in results.workload.mix] == ["text", "text", "image", "classify"]
    assert [(model.id, model.version) for model in results.models] == [
        ("lstm", 1), ("gpt2", 1), ("faces", 1), ("genres", 1)
    ]  # fmt: skip
    for level in results.levels:
        assert (level.requests, level.succeeded, level.errors) == (48, 48, ())
        assert level.repeats is not None
        assert level.repeats.model_dump() == {"repeated": 48, "changed": 0, "unsteady": 0, "failed": 0}
        lstm, gpt2, faces, genres = level.models
        for text in (lstm, gpt2):
            assert (text.counted, text.output_tokens_mean) == ("usage", 24)
            assert text.prompt_tokens_mean is not None
            assert 6 <= text.prompt_tokens_mean <= 24
            first, whole = text.latencies.time_to_first_token, text.latencies.end_to_end
            assert first is not None
            assert whole is not None
            assert 0 < first.p50 <= whole.p50
        assert faces.rates.pictures == pytest.approx(3 * faces.rates.requests)
        assert genres.rates.texts == pytest.approx(2 * genres.rates.requests)


def test_a_request_that_the_server_refuses_is_told_before_any_load(bench):
    done = bench("--model", "gpt2", "--new-tokens", 5000)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "before any load, a request to gpt2 failed (400 invalid_value): " in done.stderr
    assert "set max_tokens to at most 224" in done.stderr
    assert "the server has no model 'gone'" in bench("--model", "gone").stderr

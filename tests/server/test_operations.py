"""Models, health, readiness, metrics and the list of routes."""

from __future__ import annotations

from typing import Any, get_args

from prometheus_client.parser import text_string_to_metric_families

from contracts.announcements import BOUNDS, EngineCounters, Histogram
from contracts.bundle import Task
from server import metrics


def test_models_are_listed_in_openais_form(client, store):
    listed = client.get("/v1/models").get_json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["tiny-labels", "tiny-picture", "tiny-text"]
    text = listed["data"][2]
    assert (text["object"], text["owned_by"], text["version"], text["task"]) == ("model", "kamishibai", 1, "text")
    assert text["limits"] == {"context_tokens": 64, "max_tokens": 32}
    assert client.get("/v1/models/tiny-text").get_json() == text
    assert client.get("/v1/models/nope").status_code == 404
    assert client.get("/v1/models/unserved").status_code == 503


def test_health_says_nothing_about_workers_and_readiness_does(client, worker):
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").get_json() == {"status": "ready", "workers": ["worker-1"]}
    worker.announce(ready=False)
    starting = client.get("/readyz")
    assert (starting.status_code, "worker-1 still starting" in starting.get_data(as_text=True)) == (503, True)
    worker.withdraw()
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_metrics_tell_the_queue_and_the_engines(client, worker, redis):
    histograms = {
        "batch_size": Histogram(counts=(1, 0, 1, 0, 0, 0, 0, 0, 0, 0), sum=4),
        "queue_seconds": Histogram(counts=(0,) * 13 + (1, 2), sum=1234.5),
    }
    worker.announce(
        counters=EngineCounters(
            units=4,
            prompt_tokens=9,
            jobs={"finished": 2, "engine_failed": 1},
            histograms=histograms,
            slots=8,
            slots_used=2,
            waiting=1,
        )
    )
    for _ in range(3):
        client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "a"}})
    response = client.get("/metrics")
    assert response.mimetype == "text/plain"
    samples: dict[Any, Any] = {}  # by name, a histogram's buckets by name and bound, jobs by name and outcome
    for family in text_string_to_metric_families(response.get_data(as_text=True)):
        for sample in family.samples:
            if sample.labels.get("model", "tiny-text") == "tiny-text":
                detail = sample.labels.get("le") or sample.labels.get("outcome") or sample.labels.get("priority")
                samples.setdefault((sample.name, detail) if detail else sample.name, (sample.value, sample.labels))
    depth, labels = samples["kamishibai_queue_depth", "normal"]
    assert depth == 3
    assert (labels["version"], labels["variant"]) == ("1", "pytorch:fp32")
    expected = {
        "kamishibai_workers_ready": 1,
        "kamishibai_child_restarts_total": 0,
        "kamishibai_generated_tokens_total": 4,
        "kamishibai_prompt_tokens_total": 9,
        "kamishibai_slots": 8,
        "kamishibai_slots_used": 2,
        "kamishibai_engine_waiting": 1,
        "kamishibai_batch_size_count": 2,
        "kamishibai_batch_size_sum": 4,
        ("kamishibai_batch_size_bucket", "1.0"): 1,
        ("kamishibai_batch_size_bucket", "2.0"): 1,
        ("kamishibai_batch_size_bucket", "4.0"): 2,
        ("kamishibai_batch_size_bucket", "+Inf"): 2,
        ("kamishibai_queue_wait_seconds_bucket", "120.0"): 0,
        ("kamishibai_queue_wait_seconds_bucket", "300.0"): 1,
        ("kamishibai_queue_wait_seconds_bucket", "+Inf"): 3,
        ("kamishibai_jobs_total", "finished"): 2,
        ("kamishibai_jobs_total", "engine_failed"): 1,
    }
    assert {name: samples[name][0] for name in expected} == expected


def test_every_kind_of_model_has_a_counter_of_its_own_for_what_it_makes():
    assert set(metrics._UNITS) == set(get_args(Task))
    assert set(metrics._HISTOGRAMS) == set(BOUNDS)


def test_a_queue_is_counted_while_no_worker_is_there(client, worker):
    client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "a"}})
    worker.withdraw()
    line = 'kamishibai_queue_depth{model="tiny-text",priority="normal",variant="pytorch:fp32",version="1"} 1.0'
    assert line in client.get("/metrics").get_data(as_text=True)


def test_the_index_names_every_route_with_a_line_about_it(client):
    routes = client.get("/").get_json()["routes"]
    assert {"POST /v1/completions", "GET /v1/jobs/<job_id>", "DELETE /v1/jobs/<job_id>", "GET /metrics"} <= set(routes)
    assert all(routes.values())

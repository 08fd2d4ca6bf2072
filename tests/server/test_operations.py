"""Models, health, readiness, metrics and the list of routes."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from contracts.announcements import EngineCounters


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
    worker.announce(counters=EngineCounters(running=2, waiting=1).after_call(1, 1, 0.5).after_call(3, 3, 0.5))
    for _ in range(3):
        client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "a"}})
    response = client.get("/metrics")
    assert response.mimetype == "text/plain"
    samples: dict[Any, Any] = {}  # by name, a histogram's buckets by name and bound
    for family in text_string_to_metric_families(response.get_data(as_text=True)):
        for sample in family.samples:
            if sample.labels.get("model", "tiny-text") == "tiny-text":
                key = (sample.name, sample.labels["le"]) if "le" in sample.labels else sample.name
                samples.setdefault(key, (sample.value, sample.labels))
    depth, labels = samples["kamishibai_queue_depth"]
    assert depth == 3
    assert (labels["version"], labels["variant"]) == ("1", "pytorch:fp32")
    expected = {
        "kamishibai_workers_ready": 1,
        "kamishibai_child_restarts_total": 0,
        "kamishibai_engine_calls_total": 2,
        "kamishibai_engine_call_seconds_total": 1.0,
        "kamishibai_units_total": 4,
        "kamishibai_running": 2,
        "kamishibai_waiting": 1,
        "kamishibai_batch_size_count": 2,
        "kamishibai_batch_size_sum": 4,
        ("kamishibai_batch_size_bucket", "1.0"): 1,
        ("kamishibai_batch_size_bucket", "2.0"): 1,
        ("kamishibai_batch_size_bucket", "4.0"): 2,
        ("kamishibai_batch_size_bucket", "+Inf"): 2,
    }
    assert {name: samples[name][0] for name in expected} == expected


def test_a_queue_is_counted_while_no_worker_is_there(client, worker):
    client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "a"}})
    worker.withdraw()
    line = 'kamishibai_queue_depth{model="tiny-text",variant="pytorch:fp32",version="1"} 1.0'
    assert line in client.get("/metrics").get_data(as_text=True)


def test_the_index_names_every_route_with_a_line_about_it(client):
    routes = client.get("/").get_json()["routes"]
    assert {"POST /v1/completions", "GET /v1/jobs/<job_id>", "DELETE /v1/jobs/<job_id>", "GET /metrics"} <= set(routes)
    assert all(routes.values())

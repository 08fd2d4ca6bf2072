"""What an operator sees of the running product: metrics of servers and workers, and log lines that belong together."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

PROMPT = "quick brown secret"
KEY = "kmb_0123456789ab_" + "5ec2e7" * 10 + "0000"


@pytest.fixture
def product(start_product, tmp_path):
    settings = {"KAMISHIBAI_LOG_FORMAT": "json", "KAMISHIBAI_SERVER_PROCESSES": "2"}
    product = start_product(settings=settings, log=tmp_path / "log")
    product.wait_ready()
    return product


@pytest.fixture
def log(tmp_path):
    """All that its processes have written, and the lines of JSON in it."""

    def read():
        text = (tmp_path / "log").read_text()
        return text, [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    return read


def send(product, path, body, **headers):
    request = urllib.request.Request(
        product.url + path, json.dumps(body).encode(), {"Authorization": f"Bearer {KEY}", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        return error.read()


def test_server_and_worker_tell_of_a_request_under_its_ids_and_nobody_tells_what_was_asked(product, log):
    send(product, "/v1/completions", {"model": "gpt2", "prompt": PROMPT}, **{"x-request-id": "first"})
    job = json.loads(send(product, "/v1/jobs", {"model": "gpt2", "input": {"prompt": PROMPT}}, **{"x-request-id": "b"}))
    product.get(f"/v1/jobs/{job['id']}?wait=30")
    send(product, "/v1/completions", {"model": "gpt2", "prompt": PROMPT, "stop": 5}, **{"x-request-id": "bad"})
    send(product, "/v1/completions", {"model": "gpt2", "prompt": PROMPT, "stream": True}, **{"x-request-id": "stream"})
    for request_id, status in (("first", 200), ("b", 202), ("stream", 200)):
        by_server, by_worker = lines(log, request_id, 2)
        assert (by_server["status"], by_server["job_id"]) == (status, by_worker["job_id"])
        assert (by_worker["outcome"], by_worker["model"]) == ("finished", "gpt2@1/pytorch-fp32/normal")
        assert by_worker["worker"]
        assert 0 <= by_worker["waited_seconds"] < 60
        assert 0 < by_worker["seconds"] < 60
    (refused,) = lines(log, "bad", 1)
    assert (refused["status"], refused["code"], refused["route"]) == (400, "invalid_value", "/v1/completions")
    with urllib.request.urlopen(f"{product.url}/metrics"):
        pass
    product.stop()
    text, _ = log()
    assert "secret" not in text
    assert "5ec2e7" not in text
    children = [line for line in log()[1] if line["logger"] == "kamishibai.engine"]
    assert all(line["worker"] for line in children)


def lines(log, request_id, count):
    """A server's line comes before a worker's."""
    deadline = time.monotonic() + 10
    while len(found := [line for line in log()[1] if line.get("request_id") == request_id]) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return sorted(found, key=lambda line: "outcome" in line)


def test_metrics_tell_what_was_done_whichever_process_is_asked(product):
    began = time.monotonic()
    for seed in range(3):
        body = {"model": "lstm", "prompt": "A story", "max_tokens": 300, "ignore_eos": True, "seed": seed}
        assert product.post("/v1/completions", body)[0] == 200
    assert product.post("/v1/images/generations", {"model": "faces", "n": 5})[0] == 200
    took = time.monotonic() - began
    time.sleep(3.5)  # workers announce their counters every 3 s
    assert product.metric('kamishibai_generated_tokens_total{model="lstm"') == 900
    assert product.metric('kamishibai_prompt_tokens_total{model="lstm"') == 21
    assert product.metric("kamishibai_generated_pictures_total") == 5
    assert product.metric('kamishibai_jobs_total{model="lstm",outcome="finished"') == 3
    assert product.metric('kamishibai_queue_wait_seconds_count{model="lstm"') == 3
    assert product.metric('kamishibai_time_to_first_token_seconds_count{model="lstm"') == 3
    first = product.metric('kamishibai_time_to_first_token_seconds_sum{model="lstm"')
    between = product.metric('kamishibai_time_between_tokens_seconds_sum{model="lstm"')
    waited = product.metric('kamishibai_queue_wait_seconds_sum{model="lstm"')
    assert 0 < waited < first
    assert first + between < took
    assert 600 < product.metric('kamishibai_time_between_tokens_seconds_count{model="lstm"') < 900
    assert product.metric('kamishibai_slots{model="lstm"') > 0
    assert product.metric("kamishibai_slots_used") == 0
    asked = r'kamishibai_http_requests_total{code="",method="POST",route="/v1/(completions|images/generations)"'
    assert [product.metric(asked) for _ in range(6)] == [4] * 6
    with urllib.request.urlopen(f"{product.url}/metrics") as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(family.documentation for family in families)

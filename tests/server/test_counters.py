"""What servers count of their requests, alone and as several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.errors import EngineFailed
from server.shared_folder import SharedFolder


def samples_of(text):
    """(name, labels as a sorted tuple) -> value, as Prometheus' own parser reads it."""
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def total(samples, name, **labels):
    wanted = set(labels.items())
    return sum(value for (found, own), value in samples.items() if found == name and wanted <= set(own))


@pytest.fixture
def read(client):
    return lambda: samples_of(client.get("/metrics").get_data(as_text=True))


@pytest.fixture
def requests(read):
    """How many requests were counted with these labels since the last time it was asked."""
    last = read()

    def count(**labels):
        nonlocal last
        before, last = last, read()
        return total(last, "kamishibai_http_requests_total", **labels) - total(
            before, "kamishibai_http_requests_total", **labels
        )

    return count


def test_a_request_is_counted_by_rule_method_status_and_code(client, requests):
    client.get("/v1/jobs/1234")
    assert requests(method="GET", route="/v1/jobs/<job_id>", status="404", code="not_found") == 1
    client.post("/v1/completions", json={"prompt": "a", "colour": 1})
    assert requests(method="POST", route="/v1/completions", status="400", code="invalid_value") == 1
    client.get("/healthz")
    assert requests(method="GET", route="/healthz", status="200", code="") == 1


def test_unknown_paths_and_methods_add_one_label_each(client, read):
    for number in range(20):
        client.get(f"/nowhere/{number}")
        client.open("/healthz", method=f"X{number}")
    labels = [dict(own) for name, own in read() if name == "kamishibai_http_requests_total"]
    assert {own["route"] for own in labels if "nowhere" in own["route"]} == set()
    assert {own["method"] for own in labels if own["method"].startswith("X")} == set()
    assert {own["method"] for own in labels if own["code"] == "method_not_allowed"} == {"other"}


def test_the_time_of_a_request_is_until_its_last_byte(client, worker, read):
    before = total(read(), "kamishibai_http_request_seconds_sum", route="/v1/jobs/<job_id>/events")
    created = client.post("/v1/jobs", json={"model": "tiny-text", "input": {"prompt": "a"}}).get_json()
    response = client.get(f"/v1/jobs/{created['id']}/events")
    events = iter(response.response)
    next(events)
    time.sleep(0.3)
    worker.finish(worker.take())
    list(events)
    response.close()
    after = total(read(), "kamishibai_http_request_seconds_sum", route="/v1/jobs/<job_id>/events")
    assert 0.3 <= after - before < 5


def test_a_stream_that_breaks_is_counted_with_its_error(client, worker, requests):
    response = client.post("/v1/completions", json={"prompt": "a", "stream": True})
    events = iter(response.response)
    next(events)
    worker.fail(worker.take(), EngineFailed("it broke"))
    list(events)
    response.close()
    assert requests(route="/v1/completions", status="200", code="engine_failed") == 1


def test_clients_that_wait_and_open_streams_are_gauged(server, worker, redis, eventually, read_all):
    def waiting(kind):
        return total(scrape(server), "kamishibai_waiting_clients", kind=kind)

    call = server.request("POST", "/v1/completions", '{"prompt": "a"}')
    stream = server.request("POST", "/v1/completions", '{"prompt": "a", "stream": true}')
    eventually(lambda: (waiting("answer"), waiting("stream")) == (1, 1))
    worker.finish(worker.take())
    worker.finish(worker.take())
    assert b"hello" in read_all(call)
    assert b"[DONE]" in read_all(stream)
    eventually(lambda: (waiting("answer"), waiting("stream")) == (0, 0))


def scrape(server):
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        return samples_of(answer.read().decode())


@pytest.fixture
def start_two(start, tmp_path, eventually, monkeypatch):
    """A server of two processes, its folder, a function that gives both processes once they serve."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = start(server_processes=2)
    (folder,) = tmp_path.glob("kamishibai-counters-*")

    def processes():
        # NOTE: gunicorn loses a SIGTERM to a process that is just starting, and waits for it for 25 s.
        eventually(lambda: all((folder / f"gauge_livesum_{number}.db").exists() for number in range(2)))
        return psutil.Process(server.process.pid).children()

    return server, folder, processes


def test_two_processes_count_together_and_one_that_is_killed_takes_nothing_with_it(start_two, eventually):
    server, _, processes = start_two

    def counted():
        return total(scrape(server), "kamishibai_http_requests_total", route="/healthz", status="200")

    def ask(times):
        for _ in range(times):
            assert server.alive()

    began = counted()
    ask(40)
    assert counted() == began + 40
    assert counted() == began + 40
    victim = processes()[0]
    streams = [server.request("POST", "/v1/completions", '{"prompt": "a", "stream": true}') for _ in range(8)]
    eventually(lambda: total(scrape(server), "kamishibai_waiting_clients", kind="stream") == 8)
    os.kill(victim.pid, signal.SIGKILL)
    eventually(lambda: victim.pid not in {each.pid for each in processes()})
    eventually(lambda: counted() == began + 40)
    ask(40)
    assert counted() == began + 80
    left = total(scrape(server), "kamishibai_waiting_clients", kind="stream")
    broken = sum(_has_ended(connection) for connection in streams)
    assert left == 8 - broken
    for connection in streams:
        connection.close()
    assert server.stop() == 0


def _has_ended(connection):
    connection.settimeout(0.2)
    try:
        while True:
            if not connection.recv(65536):
                return True
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_restarts_of_processes_make_no_new_files_and_the_end_leaves_none(start_two, eventually):
    server, folder, processes = start_two
    assert folder.stat().st_mode & 0o777 == 0o700
    for _ in range(3):
        victim = processes()[0]
        victim.kill()
        eventually(lambda gone=victim.pid: gone not in {each.pid for each in processes()})
    assert {file.name.rpartition("_")[2] for file in folder.iterdir()} <= {"0.db", "1.db"}
    assert server.stop() == 0
    assert not folder.exists()


HOLD = "import sys; from pathlib import Path; from server.shared_folder import SharedFolder; \
SharedFolder(Path(sys.argv[1])); print(flush=True); input()"


def test_a_folder_that_a_killed_server_left_is_removed_by_the_next_and_one_in_use_is_not(tmp_path):
    command = [sys.executable, "-P", "-c", HOLD, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    (left,) = tmp_path.iterdir()
    own = SharedFolder(tmp_path)
    assert left.exists()
    holder.kill()
    holder.communicate()
    other = SharedFolder(tmp_path)
    assert not left.exists()
    assert own.path.exists()
    own.remove()
    other.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_place_of_a_dead_process_keeps_its_counters_and_forgets_who_waited(tmp_path):
    """In processes of their own, since a process counts in one place for good."""
    script = """
import json, sys
from pathlib import Path
from prometheus_client import CollectorRegistry, generate_latest
from server.counters import RequestCounters
from server.shared_folder import Place
registry = CollectorRegistry()
counters = RequestCounters(registry, Place(Path(sys.argv[1]), int(sys.argv[2])))
counters.count("GET", "/", 200, "", 0.5)
counters.open_streams.inc()
print(json.dumps(generate_latest(registry).decode()))
"""
    folder = SharedFolder(tmp_path)

    def run(number):
        command = [sys.executable, "-P", "-c", script, str(folder.path), str(number)]
        return samples_of(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))

    assert total(run(0), "kamishibai_http_requests_total") == 1
    assert total(run(1), "kamishibai_http_requests_total") == 2
    folder.forget_open(0)
    again = run(0)
    assert total(again, "kamishibai_http_requests_total") == 3
    assert total(again, "kamishibai_http_request_seconds_count") == 3
    assert total(again, "kamishibai_waiting_clients") == 2
    folder.remove()

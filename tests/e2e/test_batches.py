"""Batches as a user of the `openai` SDK runs them, on the whole product."""

from __future__ import annotations

import json
import signal
import time

import pytest
from openai import APIStatusError, OpenAI


@pytest.fixture
def client(product):
    with OpenAI(base_url=f"{product.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def lines(bodies, url="/v1/completions"):
    rows = (
        {"custom_id": str(number), "method": "POST", "url": url, "body": body} for number, body in enumerate(bodies)
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def wait_ended(client, batch_id, seconds=90):
    deadline = time.monotonic() + seconds
    while (batch := client.batches.retrieve(batch_id)).status not in {"completed", "failed", "expired", "cancelled"}:
        assert time.monotonic() < deadline, batch
        time.sleep(0.2)
    return batch


def answers(client, file_id):
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    assert len({each["custom_id"] for each in found}) == len(found)
    return {each["custom_id"]: each for each in found}


def body_of(number):
    return {"model": ("lstm", "gpt2")[number % 2], "prompt": "the fox", "max_tokens": 5 + number % 7, "seed": number}


def test_the_sdk_uploads_runs_and_reads_a_batch(client):
    bodies = [body_of(number) for number in range(20)] + [{"model": "lstm", "prompt": "a", "temperature": -1}]
    file = client.files.create(file=("night.jsonl", lines(bodies)), purpose="batch")
    assert (file.filename, file.purpose, file.status) == ("night.jsonl", "batch", "processed")
    assert [each.id for each in client.files.list()] == [file.id]
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/completions",
        completion_window="24h",
        metadata={"night": "1"},
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert (batch.status, batch.metadata) == ("validating", {"night": "1"})
    assert [each.id for each in client.batches.list()] == [batch.id]
    ended = wait_ended(client, batch.id)
    assert (ended.status, ended.request_counts.completed, ended.request_counts.failed) == ("completed", 20, 1)
    output = answers(client, ended.output_file_id)
    for number in range(20):
        alone = client.completions.create(**body_of(number))
        assert output[str(number)]["response"]["body"]["choices"][0]["text"] == alone.choices[0].text
    (error,) = answers(client, ended.error_file_id).values()
    assert (error["custom_id"], error["response"]["status_code"]) == ("20", 400)
    assert client.files.delete(file.id).deleted
    with pytest.raises(APIStatusError, match="no file"):
        client.files.retrieve(file.id)


def test_a_clerk_that_is_killed_is_started_again_and_doubles_nothing(product, client):
    file = client.files.create(file=lines([body_of(number) for number in range(300)]), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    while client.batches.retrieve(batch.id).request_counts.completed < 30:
        time.sleep(0.02)
    (clerk,) = product.processes("cli.main clerk")
    clerk.send_signal(signal.SIGKILL)
    ended = wait_ended(client, batch.id)
    assert (ended.status, ended.request_counts.completed, ended.error_file_id) == ("completed", 300, None)
    output = answers(client, ended.output_file_id)
    assert {each["response"]["body"]["seed"] for each in output.values()} == set(range(300))


def test_a_batch_of_pictures_is_cancelled(client):
    bodies = [{"model": "faces", "n": 4, "seed": number} for number in range(5000)]
    file = client.files.create(file=lines(bodies, "/v1/images/generations"), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h")
    while client.batches.retrieve(batch.id).request_counts.completed < 10:
        time.sleep(0.05)
    assert client.batches.cancel(batch.id).status == "cancelling"
    ended = wait_ended(client, batch.id)
    assert ended.status == "cancelled"
    output, errors = answers(client, ended.output_file_id), answers(client, ended.error_file_id)
    assert output.keys() | errors.keys() == set(map(str, range(5000)))
    assert not output.keys() & errors.keys()
    assert len(output["0"]["response"]["body"]["data"]) == 4
    assert {each["error"]["code"] for each in errors.values()} == {"batch_cancelled"}

"""The README's examples, run as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BASH = shutil.which("bash") or "/bin/bash"
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def examples():
    """The shell blocks of the section "Try it"."""
    section = README.read_text(encoding="utf-8").split("## Try it")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def test_the_readmes_examples_do_what_it_says(start_product, demo_store, examples, tmp_path):
    product = start_product(root=demo_store.root)
    product.wait_ready()

    def run(example: str) -> str:
        command = example.replace("127.0.0.1:8000", f"127.0.0.1:{product.port}")
        done = subprocess.run(
            [BASH, "-euo", "pipefail", "-c", command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    text, streamed, picture, genres, job, resumed, operations = examples
    completion = json.loads(run(text))
    assert completion["choices"][0]["text"]
    events = [line.removeprefix("data: ") for line in run(streamed).splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    parts = [json.loads(event)["choices"][0]["text"] for event in events[:-1]]
    assert "".join(parts) == completion["choices"][0]["text"]
    run(picture)
    assert (tmp_path / "face.png").read_bytes().startswith(b"\x89PNG")
    tagged = json.loads(run(genres))["data"]
    assert [len(found["scores"]) for found in tagged] == [3, 3]
    assert json.loads(run(job))["status"] == "succeeded"
    whole, rest = run(resumed).split("data: [DONE]")[:2]
    assert _text_of(whole).encode()[100:] == _text_of(rest).encode()
    assert "kamishibai_queue_depth" in run(operations)


def _text_of(events: str) -> str:
    chunks = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: {")]
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])

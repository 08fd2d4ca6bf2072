"""The examples of docs/api.md, run as they stand and in the page's order, against tiny models with the demo's names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.examples import Example, examples, missing

BASH = shutil.which("bash") or "/bin/bash"
EXAMPLES = examples((Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8"))
PLACE = "127.0.0.1:8000"  # of the server, in the page


@pytest.fixture(scope="module")
def root(demo_store, tmp_path_factory):
    """A store with a model of each kind."""
    return shutil.copytree(demo_store.root, tmp_path_factory.mktemp("all") / "store")


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory):
    """Where the examples run: the product's commands are there, and curl fails at an answer that is an error."""
    folder = tmp_path_factory.mktemp("reader")
    command = folder / "bin" / "kamishibai"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m cli.main "$@"\n')
    command.chmod(0o755)
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    return folder


@pytest.fixture
def run(shared_product, root, folder):
    """Run an example for a reader whose server is the product; the finished process."""
    environment = os.environ | {
        "KAMISHIBAI_STORE": str(root),
        "CURL_HOME": str(folder),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }

    def run(example: Example) -> subprocess.CompletedProcess[str]:
        _wait_open(shared_product.url)
        code = example.code.replace(PLACE, f"127.0.0.1:{shared_product.port}")
        shell = [BASH, "-euo", "pipefail", "-c", code]
        command = [sys.executable, "-c", code] if example.language == "python" else shell
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)

    return run


def _wait_open(url):
    """An example may have made keys and forgotten them, which servers notice within a second."""
    deadline = time.monotonic() + 5
    while True:
        try:
            urllib.request.urlopen(f"{url}/v1/models").close()
            return
        except urllib.error.HTTPError:
            assert time.monotonic() < deadline, "an example has left the server closed"
            time.sleep(0.1)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_runs_and_prints_what_the_page_shows(run, shared_product, example):
    if example.reason:
        pytest.skip(example.reason)
    done = run(example)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    printed = done.stdout.replace(f"127.0.0.1:{shared_product.port}", PLACE)
    assert missing(example, printed) == [], printed

"""Keys beside a running `kamishibai up`: made by the command, needed at once, and still there after a restart."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest


@pytest.fixture
def root(store, tmp_path):
    """A store of its own: keys outlive the product."""
    return shutil.copytree(store.root, tmp_path / "store")


@pytest.fixture
def keys(root):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAMISHIBAI_")}

    def run(*arguments):
        command = [sys.executable, "-P", "-m", "cli.main", "keys", *arguments, "--store", str(root)]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=30).stdout

    return run


def status(product, key):
    request = urllib.request.Request(f"{product.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def wait_status(product, key, expected):
    deadline = time.monotonic() + 5
    while status(product, key) != expected:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_key_works_until_it_is_revoked_through_a_restart_of_everything(start_product, root, keys):
    product = start_product(root=root)
    product.wait_ready()
    assert status(product, "none") == 200
    key = keys("create", "mine").strip()
    wait_status(product, "none", 401)
    assert status(product, key) == 200
    product.stop()
    product = start_product(root=root)
    product.wait_ready()
    assert (status(product, "none"), status(product, key)) == (401, 200)
    keys("revoke", "mine")
    wait_status(product, key, 401)
    assert product.get("/readyz")[0] == 200

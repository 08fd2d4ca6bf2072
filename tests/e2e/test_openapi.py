"""The running product against its own OpenAPI document: schemathesis draws requests and reads the answers."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

RUN = "from schemathesis.cli import schemathesis; schemathesis()"

# Of all checks these do not fit: what a schema cannot say (a model's limits) is refused with a 400; a job that was
# cancelled can still be read; and this server has no keys.
EXCLUDED = "positive_data_acceptance,use_after_free,ignored_auth"

# Bad input may be too long as well; schemathesis does not count these statuses as refusals by itself.
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 408, 409, 413, 414, 431, 503]
"""


@pytest.fixture
def product(start_product, demo_store, tmp_path):
    """With a model of each kind, under the names of the document's examples."""
    root = shutil.copytree(demo_store.root, tmp_path / "store")
    product = start_product(root=root)
    product.wait_ready()
    return product


def test_schemathesis_finds_no_failure_no_unknown_status_and_no_answer_of_another_shape(product, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    options = ["--checks", "all", "--exclude-checks", EXCLUDED, "--continue-on-failure", "--max-examples", "8"]
    options += ["--seed", "1", "--max-time", "60", "--request-timeout", "30", "--generation-database", "none"]
    command = [sys.executable, "-P", "-c", RUN, "run", f"{product.url}/openapi.json", "--no-color", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout
    operations = sum(map(len, product.get("/openapi.json")[1]["paths"].values()))
    assert f"Tested: {operations - 1}\n" in done.stdout, "all but the document itself"
    assert product.get("/readyz")[0] == 200

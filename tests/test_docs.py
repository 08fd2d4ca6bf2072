"""The documentation names everything that a client or operator can meet."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from contracts import errors
from contracts.announcements import BOUNDS, Announcement, EngineCounters, Histogram, ServedModel
from contracts.logs import FIELDS
from contracts.requests import CompletionBody, ImageBody, JobBody, Target
from contracts.settings import Settings, variable
from server import metrics
from server.app import create_app
from server.counters import RequestCounters

ROOT = Path(__file__).parents[1]
FROM_REDIS = (
    "kamishibai_queue_depth",
    "kamishibai_open_batches",
    "kamishibai_webhooks_total",
    "kamishibai_webhooks_waiting",
    "kamishibai_shadow_requests_total",
    "kamishibai_shadow_divergence_nats",
    "kamishibai_shadow_seconds_per_unit",
)
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("body", [CompletionBody, ImageBody, JobBody])
def test_every_field_of_every_body_is_explained(body):
    assert [name for name in body.model_fields if f"`{name}" not in API and f'"{name}"' not in API] == []


def test_every_setting_is_listed():
    assert [field.name for field in fields(Settings) if variable(field.name) not in API] == []


def test_every_error_code_is_listed():
    known = {
        error.code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.KamishibaiError)
    }
    assert [code for code in sorted(known - {"internal_error"}) if f"`{code}`" not in API] == []


def test_every_route_is_documented():
    app = create_app(Settings())
    routes = {rule.rule.split("/<")[0] for rule in app.url_map.iter_rules()}
    assert [route for route in sorted(routes) if route not in API] == []


def test_every_metric_and_every_field_of_a_log_line_is_explained():
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    served = ServedModel(
        target=Target(model="m", version=1, variant="v"),
        task="text",
        digest="",
        counters=EngineCounters(histograms={name: Histogram(counts=(), sum=0) for name in BOUNDS}),
    )
    announced = [Announcement(worker="w", device="cpu", ready=True, models=(served,))]
    registry = CollectorRegistry()
    RequestCounters(registry)
    families = [*metrics._workers(announced), *metrics._engines(announced), *registry.collect()]
    names = [family.name + ("_total" if family.type == "counter" else "") for family in families]
    assert len(names) > 15
    assert [name for name in (*names, *FROM_REDIS, *FIELDS) if f"`{name}`" not in page] == []


def test_every_dependency_has_its_reason():
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = project.split("dependencies = [")[1].split("]\n")[0]
    names = [line.split(">")[0].split("[")[0].strip(' "') for line in listed.splitlines() if '"' in line]
    assert [name for name in names if name not in contributing] == []


def test_every_claim_about_security_has_its_test():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [row for row in page.split("## Threats")[1].split("\n## ")[0].splitlines() if row.startswith("|")][2:]
    named = [re.findall(r"`([\w/]+\.py)::(\w+)`", row) for row in rows]
    assert all(named)
    tests = {file: (ROOT / "tests" / file).read_text(encoding="utf-8") for row in named for file, _ in row}
    assert [name for row in named for file, name in row if f"def {name}(" not in tests[file]] == []

"""The short run. `make soak` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.checker import check
from tests.chaos.references import references
from tests.chaos.run import make_store
from tests.soak.judge import judge
from tests.soak.report import report
from tests.soak.run import Plan, run


@pytest.mark.timeout(400)
def test_memory_descriptors_redis_and_logs_stay_within_their_limits_under_load(tmp_path):
    store = make_store(tmp_path / "store")
    plan = Plan(seed=1, load_seconds=24, requests_per_second=12, result_seconds=12, sample_seconds=1)
    samples, entries = run(plan, store, tmp_path)
    violations = judge(samples)
    assert not violations, report(samples, violations)
    assert not check(entries, references(store))

"""The short run: a minute of faults of most kinds. `make chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.checker import check
from tests.chaos.references import references
from tests.chaos.report import report
from tests.chaos.run import Plan, make_store, run


@pytest.mark.timeout(400)
def test_no_promise_is_broken_when_children_workers_servers_and_redis_are_killed(tmp_path):
    plan = Plan(seed=1, jobs=120, kills=1, away_seconds=0, result_seconds=20)
    right = references(make_store(tmp_path / "references"))
    (tmp_path / "run").mkdir()
    entries = run(plan, tmp_path / "run")
    violations = check(entries, right)
    assert not violations, report(entries, right, violations)

"""The function that RQ jobs name. Our workers never call it; a stock `rq worker --serializer json` does, one at a time.

A stock worker needs `KAMISHIBAI_STORE`, as ours does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from contracts.requests import Target, parse_request
from contracts.settings import from_environment
from contracts.store import Store
from workers.local import LocalModel


def perform(payload: dict[str, Any]) -> dict[str, Any]:
    """Run a job's payload: the same result as a shared batch gives. Raises InvalidRequest, StoreError."""
    request = parse_request(payload)
    return _model(request.target).run(request).model_dump(mode="json", exclude_none=True)


@lru_cache(maxsize=4)
def _model(target: Target) -> LocalModel:
    return LocalModel(Store(from_environment().store).open(target.model, target.version), target.variant)

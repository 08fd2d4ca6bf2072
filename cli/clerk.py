"""`kamishibai clerk`: one clerk."""

from __future__ import annotations

from logging.config import dictConfig
from pathlib import Path

from contracts.logs import configuration
from contracts.settings import from_environment
from server import clerk


def run_clerk(store: Path, redis_url: str | None) -> None:
    """Until SIGTERM. Raises ValueError for a bad URL of Redis."""
    settings = from_environment(store=store, redis_url=redis_url)
    dictConfig(configuration(settings))
    clerk.run_clerk(settings)

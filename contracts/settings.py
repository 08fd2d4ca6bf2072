"""What the processes of one installation are told: one frozen dataclass, read from the environment in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

ENVIRONMENT_PREFIX = "KAMISHIBAI_"


@dataclass(frozen=True)
class Settings:
    """Each field can be given as `KAMISHIBAI_<FIELD>` in the environment; the command's options win over it."""

    store: Path = Path("store")
    redis_url: str = "redis://127.0.0.1:6379/0"
    host: str = "127.0.0.1"
    port: int = 8000
    server_processes: int = 1
    max_body_bytes: int = 1 << 20
    max_wait_seconds: float = 60.0
    max_pictures: int = 64
    sync_result_seconds: int = 30  # how long a synchronous request's job lives on after its answer
    job_result_seconds: int = 3600  # how long an ended job of /v1/jobs can be read
    job_timeout_seconds: int = 600

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"port is {self.port}; it must lie between 1 and 65535")
        for name in ("max_body_bytes", "max_wait_seconds", "max_pictures", "sync_result_seconds", "job_result_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")

    def to_environment(self) -> dict[str, str]:
        """The environment variables that make `from_environment` give these settings again."""
        return {ENVIRONMENT_PREFIX + field.name.upper(): str(getattr(self, field.name)) for field in fields(self)}


def from_environment(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from `KAMISHIBAI_*` variables; overrides that are not None win.

    Raises ValueError that names the variable, its value and the type it should have.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for field in fields(Settings):
        variable = ENVIRONMENT_PREFIX + field.name.upper()
        if variable in environment:
            kind = type(getattr(Settings, field.name))
            try:
                values[field.name] = (
                    Path(environment[variable]) if kind is type(Path()) else kind(environment[variable])
                )
            except ValueError:
                message = f"{variable} is {environment[variable]!r}; it must be of type {kind.__name__}"
                raise ValueError(message) from None
    values.update({name: value for name, value in overrides.items() if value is not None})
    return replace(Settings(), **values)

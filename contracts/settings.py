"""What the processes of one installation are told: one frozen dataclass, read from the environment in one place."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from contracts.requests import MAX_PICTURES

ENVIRONMENT_PREFIX = "KAMISHIBAI_"
DEFAULT_KV_BYTES = 2 << 30
_MAY_BE_ZERO = frozenset({"jobs_per_minute", "unfinished_jobs", "result_cache_bytes"})
CHOICES = {
    "log_format": ("text", "json"),
    "log_requests": ("auto", "on", "off"),
    "keys": ("auto", "required"),
    "model_control": ("off", "on"),
    "share_store": ("auto", "off", "on"),
    "without_worker": ("refuse", "accept"),
    "webhook_http": ("off", "on"),
    "webhook_private": ("off", "on"),
}


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
    slow_client_seconds: float = 60.0  # a client may take so long to send its body, and to take a piece of its answer
    keep_alive_seconds: float = 75.0  # a connection may be idle so long between two requests
    max_bulk_bytes: int = 16 << 20  # of a body with many jobs
    max_pictures: int = 64
    max_queued_jobs: int = 20_000  # that wait for one engine, of all priorities
    max_queued_work: int = 50_000_000  # tokens or pictures, at most, that they ask for
    max_queued_bytes: int = 1 << 28  # that they take in Redis
    result_cache_bytes: int = 0  # of one server process; 0: every call is computed
    jobs_per_minute: int = 0  # of one API key that has no limit of its own; 0: no limit
    unfinished_jobs: int = 0  # the same, of jobs that have not ended
    sync_result_seconds: int = 30  # how long a synchronous request's job lives on after its answer
    unread_result_seconds: int = 300  # the same before it, so that a server that was cut off still finds it
    job_result_seconds: int = 3600  # how long an ended job of /v1/jobs can be read
    job_timeout_seconds: int = 600
    kv_bytes: int = DEFAULT_KV_BYTES  # of KV cache in one worker, shared by its models
    step_seconds: float = 30.0  # an engine that has work and is silent for longer hangs, and is replaced
    load_seconds: float = 600.0  # the same while it loads and warms up
    ready_file: str = ""  # which a worker touches every 3 s while it takes jobs; empty: none
    log_format: str = "text"  # or "json"
    log_requests: str = "auto"  # a line per request and job: "on", "off"; "auto" is on for JSON
    model_control: str = "off"  # or "on": routes with which admins load and unload models and drain workers
    share_store: str = "auto"  # routes with which workers elsewhere pull models: "auto" where there are API keys
    store_from: str = ""  # server whose models a worker pulls into its store; empty: none
    without_worker: str = "refuse"  # requests for a model of the store that no worker serves; or "accept" them
    keys: str = "auto"  # a server needs API keys once there are some; "required": even while Redis has none
    files: str = ""  # folder of uploaded files and of what batches write; empty: `.files` in the store
    max_file_bytes: int = 100 << 20
    file_seconds: int = 30 * 24 * 3600  # how long a file is kept whose maker does not say
    batch_jobs: int = 256  # of one batch that wait or run at once
    webhook_hosts: str = ""  # names of hosts, separated by commas, that webhooks may go to; empty: all
    webhook_http: str = "off"  # or "on": webhooks may go to http:// URLs
    webhook_private: str = "off"  # or "on": and to private addresses, as those of a closed network

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"port ({variable('port')}) is {self.port}; it must lie between 1 and 65535")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                given = f"{name} ({variable(name)}) is {getattr(self, name)!r}"
                raise ValueError(f"{given}; it must be {', '.join(choices[:-1])} or {choices[-1]}")
        if self.max_pictures > MAX_PICTURES:
            raise ValueError(
                f"max_pictures ({variable('max_pictures')}) is {self.max_pictures}; a job draws at most {MAX_PICTURES}"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            may_be_zero = field.name in _MAY_BE_ZERO
            if isinstance(value, int | float) and not (0 < value < math.inf or (may_be_zero and value == 0)):
                least = "0 or more" if may_be_zero else "greater than 0"
                raise ValueError(f"{field.name} ({variable(field.name)}) is {value}; it must be {least}")

    @property
    def logs_requests(self) -> bool:
        """Whether every request and job has its line in the log."""
        return self.log_requests == "on" or (self.log_requests == "auto" and self.log_format == "json")

    @property
    def files_folder(self) -> Path:
        return Path(self.files) if self.files else self.store / ".files"

    def to_environment(self) -> dict[str, str]:
        """The environment variables that make `from_environment` give these settings again."""
        return {variable(field.name): str(getattr(self, field.name)) for field in fields(self)}


def parse_bytes(text: str) -> int:
    """`2GiB`, `500 MB`, `1.5G` or plain bytes. Raises ValueError that shows the forms."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B?)\s*", text, re.IGNORECASE)
    number, unit, binary = match.groups() if match else ("inf", None, None)
    power = "KMGT".index(unit.upper()) + 1 if unit else 0
    size = float(number) * (1024 if binary else 1000) ** power
    if not math.isfinite(size):
        raise ValueError(f"{text!r} is not an amount of memory; write it like 2GiB, 500MB or 1073741824")
    return int(size)


def variable(field: str) -> str:
    """The environment variable of a field."""
    return ENVIRONMENT_PREFIX + field.upper()


def from_environment(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from `KAMISHIBAI_*` variables; overrides that are not None win.

    Raises ValueError that names the variable, its value and the type it should have.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for field in fields(Settings):
        if (given := environment.get(variable(field.name))) is not None:
            kind = type(getattr(Settings, field.name))
            try:
                values[field.name] = Path(given) if kind is type(Path()) else kind(given)
            except ValueError:
                message = f"{variable(field.name)} is {given!r}; it must be of type {kind.__name__}"
                raise ValueError(message) from None
    values.update({name: value for name, value in overrides.items() if value is not None})
    return replace(Settings(), **values)

"""Ids of files and batches: in the order of their making, so a sorted list of ids is one by time."""

from __future__ import annotations

import secrets
import time


def new_id(prefix: str) -> str:
    """The prefix and 32 hexadecimal digits: 12 of milliseconds, 20 of chance."""
    return f"{id_at(prefix, time.time())}{secrets.token_hex(10)}"


def id_at(prefix: str, unix_seconds: float) -> str:
    """What the ids that are made at this time begin with."""
    return f"{prefix}{int(unix_seconds * 1000):012x}"

"""What every benchmark ends with: its figures with machine, versions and time, as one line of JSON and in a file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cli.devices import device_class

PEER_PACKAGES = ("litserve", "mosec", "torch", "pillow")
_TELL_ALL = """
import importlib.metadata, json
print(json.dumps({each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}))
"""


def record(file: Path | None, packages: Iterable[str], figures: dict[str, Any]) -> None:
    """Prints the line, and writes it into `file`. `packages` are those whose versions matter."""
    document = {
        "processor": device_class("cpu").rpartition(",")[0],
        "cores": os.cpu_count(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | versions(packages),
        **figures,
    }
    line = json.dumps(document)
    if file:
        file.write_text(line + "\n", encoding="utf-8")
    print(line)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are there."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def versions_of(python: str, packages: Iterable[str]) -> dict[str, str]:
    """Of another interpreter."""
    done = subprocess.run([python, "-c", _TELL_ALL], capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    found = json.loads(done.stdout)
    return {name: found[name] for name in packages if name in found}

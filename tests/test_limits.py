"""docs/limits.md states the limits that the code has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from contracts.settings import Settings
from tests.soak.limits import LIMITS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def rows() -> Iterator[list[str]]:
    """The cells of every row of every table."""
    for line in PAGE.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


STATED = {row[-1].strip("`"): row[1] for row in rows() if re.fullmatch(r"`[\w.]+`", row[-1])}
HELD = {row[0].split(",")[0]: row[1:4] for row in rows()}


def number(text: str) -> float | None:
    """`1,024 tokens`, `16 MiB` or `2^31 - 1`; None for an empty cell."""
    if power := re.match(r"2\^(\d+) - 1", text):
        return 2 ** int(power[1]) - 1
    match = re.match(r"([\d,.]+)(?: ([KMG]iB))?", text)
    return float(match[1].replace(",", "")) * UNITS.get(match[2], 1) if match else None


def value(path: str) -> Any:
    """What a dotted path names: as much of it as there is a module, then attributes."""
    module = path.split(".")
    names: list[str] = []
    while True:
        try:
            found: Any = import_module(".".join(module))
            break
        except ModuleNotFoundError:
            names.insert(0, module.pop())
    for name in names:
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("path", STATED)
def test_a_stated_limit_is_that_of_the_code(path):
    assert number(STATED[path]) == value(path)


@pytest.mark.parametrize("gauge", LIMITS)
def test_a_stated_limit_is_that_of_the_soak(gauge):
    limit = LIMITS[gauge]
    assert [number(cell) for cell in HELD[gauge]] == [limit.most, limit.growth, limit.at_rest]


def test_every_limit_in_the_code_is_stated():
    named = re.compile(r"^(?:MAX|MOST)_\w+(?= = )", re.MULTILINE)
    found = [
        ".".join([*path.relative_to(ROOT).with_suffix("").parts, name])
        for package in ("contracts", "server", "workers")
        for path in (ROOT / package).rglob("*.py")
        for name in named.findall(path.read_text(encoding="utf-8"))
    ]
    assert sorted(set(found) - set(STATED)) == []


def test_every_setting_that_is_a_limit_is_stated():
    limits = [field.name for field in fields(Settings) if re.search(r"^max_|_seconds$|_bytes$", field.name)]
    assert [name for name in limits if f"contracts.settings.Settings.{name}" not in STATED] == []

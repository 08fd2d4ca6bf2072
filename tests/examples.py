"""The examples of a page of the documentation, and whether they print what the page shows.

A block fenced as `sh`, `bash` or `python` is run, unless a comment right before it gives the reason why it cannot be:

    <!-- not run: it needs a second machine -->

A block fenced as `json` or `text` right behind an example shows what it prints. `...` stands for anything, also in the
middle of a text. Of JSON as much has to be there as is shown, in its place; numbers may be others, since they are the
model's. Of text each line has to be there, in this order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
RUN = frozenset({"sh", "bash", "python"})
SHOWN = frozenset({"json", "text"})


@dataclass(frozen=True)
class Example:
    """A block that a reader may copy and run."""

    line: int  # of the page
    language: str
    code: str
    shows: tuple[str, str] | None  # language and text of what the page says it prints
    reason: str | None  # why it is not run

    def __str__(self) -> str:
        return f"line {self.line}"


def examples(page: str) -> list[Example]:
    """In the page's order."""
    blocks = list(FENCE.finditer(page))
    found = []
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block[1] not in RUN:
            continue
        shows = None
        if following and following[1] in SHOWN and not page[block.end() : following.start()].strip():
            shows = following[1], following[2]
        comment = COMMENT.search(page, 0, block.start())
        line = page.count("\n", 0, block.start()) + 1
        found.append(Example(line, block[1], block[2], shows, comment[1] if comment else None))
    return found


def missing(example: Example, printed: str) -> list[str]:
    """What the page shows and the example did not print."""
    if example.shows is None:
        return []
    language, shown = example.shows
    if language == "text":
        return list(_missing_lines(shown.splitlines(), printed.splitlines()))
    try:
        return list(_differences(json.loads(shown), json.loads(printed), "answer"))
    except ValueError as error:
        return [f"{error}: {printed[:200]!r}"]


def _missing_lines(shown: list[str], printed: list[str]) -> Iterator[str]:
    left = iter(printed)
    for line in shown:
        if not any(_fits(line, other) for other in left):
            yield line


def _fits(shown: str, printed: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, shown.split("..."))), printed, re.DOTALL) is not None


def _differences(shown: Any, got: Any, place: str) -> Iterator[str]:
    if isinstance(shown, dict) and isinstance(got, dict):
        for name, value in shown.items():
            if name in got:
                yield from _differences(value, got[name], f"{place}.{name}")
            else:
                yield f"{place}.{name} is not there"
    elif isinstance(shown, list) and isinstance(got, list) and len(shown) <= len(got):
        for index, value in enumerate(shown):
            yield from _differences(value, got[index], f"{place}.{index}")
    elif not _alike(shown, got):
        yield f"{place} is {got!r}, not {shown!r}"


def _alike(shown: Any, got: Any) -> bool:
    if isinstance(shown, str) and isinstance(got, str):
        return _fits(shown, got)
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (shown, got)]
    return all(numbers) or (type(shown) is type(got) and shown == got)

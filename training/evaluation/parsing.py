"""One line of a dump: its parts, and what is broken in it. Any line can be read; none raises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from contracts.prompt_fields import PromptFields

_MARKER = re.compile(r"<\|[^|<>\n]+\|>")


@dataclass(frozen=True)
class Parsed:
    """`text` is the last part of the format, or empty where it cannot be told from the others; no part has markers."""

    text: str
    parts: dict[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def parse_line(fields: PromptFields, line: str, *, is_whole: bool = True) -> Parsed:
    """A line in a format. One that is not whole may lack the format's first and last marker, as what a model has
    written does: the first is part of the prompt, and the last is no text but a token that ends it."""
    parts = {name: without_markers(part) for name, part in fields.parse(line).items()}
    last = fields.fields[-1].name
    faults = list(_faults(fields, line, is_whole))
    if parts.get(last) == "":
        faults.append(f"no {last}")
    return Parsed(parts.pop(last, ""), parts, tuple(faults))


def without_markers(part: str) -> str:
    return _MARKER.sub(" ", part).strip()


def _faults(fields: PromptFields, line: str, is_whole: bool) -> Iterator[str]:
    """Kinds of faults, each with the marker that it is about."""
    places = {marker: line.find(marker) for marker in fields.markers}
    if all(place < 0 for place in places.values()):
        yield "no markers"
        return
    end = fields.fields[-1].end
    optional = set() if is_whole else {fields.start, end}
    for marker, place in places.items():
        if place < 0 and marker not in optional:
            yield f"missing {marker}"
        elif line.count(marker) > 1:
            yield f"doubled {marker}"
    found = [place for place in places.values() if place >= 0]
    if found != sorted(found):
        yield "markers in another order"
    if set(_MARKER.findall(line)) - set(fields.markers):
        yield "unknown marker"
    if line.count(end) == 1 and line.partition(end)[2].strip():
        yield "text after the end"

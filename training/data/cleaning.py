"""Rules in a fixed order, and what each of them has dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

Record = TypeVar("Record")


class Rule(NamedTuple, Generic[Record]):
    """`apply` gives the record, perhaps changed, or None to drop it."""

    name: str
    apply: Callable[[Record], Record | None]


@dataclass
class Cleaning(Generic[Record]):
    """Counts while it cleans."""

    rules: tuple[Rule[Record], ...]
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dropped = {rule.name: 0 for rule in self.rules}

    def clean(self, records: Iterable[Record]) -> Iterator[Record]:
        """Those that every rule lets through."""
        for record in records:
            self.read += 1
            if (clean := self._apply_all(record)) is not None:
                self.kept += 1
                yield clean

    def _apply_all(self, record: Record) -> Record | None:
        for rule in self.rules:
            changed = rule.apply(record)
            if changed is None:
                self.dropped[rule.name] += 1
                return None
            record = changed
        return record

    def table(self) -> list[tuple[str, str, str]]:
        """For people: what was dropped by each rule, and what was left behind it."""
        rows = [("RULE", "DROPPED", "LEFT"), ("read", "", f"{self.read:,}")]
        left = self.read
        for name, dropped in self.dropped.items():
            left -= dropped
            rows.append((name, f"{dropped:,}", f"{left:,}"))
        return rows

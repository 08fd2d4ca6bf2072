"""Who writes the texts of a dump."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, Protocol

from cli.dump_plan import Plan, PlannedText, WritingModel


class Written(NamedTuple):
    """What a model made of a planned text."""

    text: str  # with its beginning and, of a model with named parts, with its markers
    fields: dict[str, str]  # the parts
    finish_reason: str
    fingerprint: str


Texts = Generator[tuple[PlannedText, Written], None, None]


class Writer(Protocol):
    """A model here or on a server; for the same plan both give the same."""

    @property
    def model(self) -> WritingModel: ...

    def write(self, plan: Plan) -> Texts:
        """Every text of the plan, in any order. Closing it gives up those that are not there yet."""

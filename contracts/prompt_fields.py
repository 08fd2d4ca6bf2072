"""Prompt fields: models whose texts have named parts with markers between them.

    genre<|endofgenre|>title<|endoftitle|>plot<|endoftext|>

A client gives some of the parts, in the order of the format; the model writes the others. `prefix` is the beginning of
the last part.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import InvalidRequest, StoreError

PREFIX = "prefix"
_MARKER = re.compile(r"(<\|[^|<>]+\|>)")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptField(_Frozen):
    """A part of a text and the marker behind it."""

    name: Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]
    end: Annotated[str, Field(min_length=1)]


class PromptFields(_Frozen):
    """The format of a model's texts; `start` stands before the first part."""

    start: str = ""
    fields: Annotated[tuple[PromptField, ...], Field(min_length=1)]

    @classmethod
    def from_format(cls, text: str) -> PromptFields:
        """From a line as above. Raises StoreError that shows the form."""
        pieces = [piece for piece in _MARKER.split(text.strip()) if piece]
        start = pieces.pop(0) if pieces and _MARKER.fullmatch(pieces[0]) else ""
        names, ends = pieces[::2], pieces[1::2]
        if len(names) != len(ends) or not names or not all(map(_NAME.fullmatch, names)) or len(set(names)) < len(names):
            raise StoreError(f"{text!r} is not a format of fields; write it like genre<|endofgenre|>plot<|endoftext|>")
        return cls(start=start, fields=tuple(PromptField(name=n, end=e) for n, e in zip(names, ends, strict=True)))

    @property
    def markers(self) -> list[str]:
        return [marker for marker in (self.start, *(field.end for field in self.fields)) if marker]

    def compose(self, given: dict[str, str]) -> str:
        """The prompt for the parts that are given. Raises InvalidRequest that names what is wrong with which part."""
        *before, last = self.fields
        known = [field.name for field in before] + [PREFIX]
        if unknown := sorted(given.keys() - set(known)):
            raise InvalidRequest(f"'fields.{unknown[0]}' is not a field of this model; it has {', '.join(known)}")
        for name, value in given.items():
            if any(marker in value for marker in self.markers):
                raise InvalidRequest(f"'fields.{name}' holds a marker of the format; leave it out")
        prompt, missing = self.start, ""
        for field in before:
            if field.name not in given:
                missing = missing or field.name
            elif missing:
                raise InvalidRequest(f"'fields.{missing}' is missing, but it stands before '{field.name}'; give it too")
            else:
                prompt += given[field.name] + field.end
        if missing and given.get(PREFIX):
            raise InvalidRequest(f"'fields.{missing}' is missing, but it stands before the {last.name}; give it too")
        return prompt + given.get(PREFIX, "")

    def parse(self, text: str) -> dict[str, str]:
        """The parts of a text with its markers. Where one is missing, the part before it is all the rest."""
        rest = text.removeprefix(self.start)
        parts: dict[str, str] = {}
        for field in self.fields:
            part, end, rest = rest.partition(field.end)
            parts[field.name] = part.strip()
            if not end:
                break
        return parts

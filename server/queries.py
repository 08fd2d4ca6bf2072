"""What stands behind the `?` of a list's URL."""

from __future__ import annotations

from typing import TypeVar

from flask import request

from contracts.errors import InvalidRequest

Word = TypeVar("Word", bound=str)


def count(name: str, most: int, default: int) -> int:
    """A number from 1 to `most`. Raises InvalidRequest."""
    given = _given(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= most):
        raise InvalidRequest(f"'{name}' is {given[:40]!r}; give a number from 1 to {most}", param=name)
    return int(given)


def word(name: str, choices: tuple[Word, ...]) -> Word | None:
    """One of these words, or None where there is none. Raises InvalidRequest."""
    given = _given(name)
    for choice in choices:
        if given == choice:
            return choice
    if given is None:
        return None
    raise InvalidRequest(f"'{name}' is {given[:40]!r}; it may be {' or '.join(choices)}", param=name)


def text(name: str) -> str | None:
    """Raises InvalidRequest."""
    return _given(name)


def _given(name: str) -> str | None:
    values = request.args.getlist(name)
    if len(values) > 1:
        raise InvalidRequest(f"'{name}' is given {len(values)} times; give it once", param=name)
    return values[0] if values else None

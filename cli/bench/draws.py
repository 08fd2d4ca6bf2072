"""Random numbers that a seed fixes, whatever else is drawn and in whichever order."""

from __future__ import annotations

from random import Random


def draws(*key: object) -> Random:
    """A generator for this key alone."""
    return Random("/".join(map(str, key)))  # noqa: S311 - a load has no secrets

"""Sizes of models, as files that others wrote claim them."""

from __future__ import annotations

from typing import Any

from contracts.requests import MAX_COUNT


def is_size(value: Any) -> bool:
    """Whether this is a whole number that a tensor can have along one side."""
    return type(value) is int and 1 <= value <= MAX_COUNT


def check_sizes(**sizes: Any) -> None:
    """Raises ValueError that names the first that is none."""
    for name, value in sizes.items():
        if not is_size(value):
            raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to {MAX_COUNT}")

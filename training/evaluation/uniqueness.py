"""How many texts or titles are different from each other, and from those of the training."""

from __future__ import annotations

from collections.abc import Iterable

from training.evaluation.report import Uniqueness


def plain(text: str) -> str:
    """What is compared: case and white space make no difference."""
    return " ".join(text.casefold().split())


def uniqueness(texts: Iterable[str], known: frozenset[str]) -> Uniqueness:
    """`known` are the plain texts of the training."""
    all_plain = [plain(text) for text in texts]
    distinct = set(all_plain)
    return Uniqueness(total=len(all_plain), distinct=len(distinct), known=len(distinct & known))

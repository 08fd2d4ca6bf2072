"""Words of a text, as all measures count them."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """Letters and digits in lower case, with apostrophes inside: punctuation is no word."""
    return _WORD.findall(text.lower())

"""From tokens to text, one by one."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from contracts.tokenizers.tokenizer import Tokenizer


class Detokenizer:
    """Puts text together token by token; what it returns is always whole characters."""

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        """`after`: the tokens before the text; without any, a text begins here."""
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._before = next((token for token in reversed(after) if tokenizer.token_bytes(token)), None)

    def feed(self, token: int) -> str:
        """The characters that this token completes."""
        content = self._tokenizer.token_bytes(token)
        if self._tokenizer.drops_space_after(self._before):
            content = content.removeprefix(b" ")
        if content:
            self._before = token
        return self._decoder.decode(content)

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that never came whole."""
        return self._decoder.decode(b"", final=True)

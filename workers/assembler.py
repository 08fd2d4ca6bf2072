"""From token ids to text: whole characters, cut before a stop string, never showing what one later removes."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.tokenizers import Detokenizer, Tokenizer


class TextAssembler:
    """The text of one choice, put together token by token. Concatenated, what `feed` and `finish` return is `text`."""

    def __init__(
        self, tokenizer: Tokenizer, stops: tuple[str, ...], ending_tokens: frozenset[int], prompt: Sequence[int] = ()
    ) -> None:
        """`ending_tokens` end a text and are no part of it; `prompt` stands before it."""
        self._detokenizer = Detokenizer(tokenizer, prompt)
        self._stops = stops
        self._ending_tokens = ending_tokens
        self._held = ""  # read but not yet shown: it may be the beginning of a stop string
        self.text = ""
        self.token_ids: list[int] = []  # tokens that have been read
        self.offsets: list[int] = []  # characters read before each of them
        self.stopped = False  # a stop string was found; what comes after it is ignored

    @property
    def tokens(self) -> int:
        """How many tokens have been read."""
        return len(self.token_ids)

    def feed(self, tokens: list[int]) -> str:
        """Read tokens; returns the text that can be shown now."""
        shown = ""
        for token in tokens:
            if self.stopped:
                break
            self.token_ids.append(token)
            self.offsets.append(len(self.text) + len(shown) + len(self._held))
            if token not in self._ending_tokens:
                shown += self._show(self._detokenizer.feed(token))
        self.text += shown
        return shown

    def finish(self) -> str:
        """No more tokens come; returns the rest of the text."""
        rest = ""
        if not self.stopped:
            rest = self._show(self._detokenizer.finish())
            if not self.stopped:
                rest += self._held
        self.text += rest
        return rest

    def _show(self, characters: str) -> str:
        if not self._stops:
            return characters
        known = self._held + characters
        found = [place for stop in self._stops if (place := known.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return known[: min(found)]
        keep = max((_overlap(known, stop) for stop in self._stops), default=0)
        self._held = known[len(known) - keep :]
        return known[: len(known) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if stop.startswith(text[-length:])), 0)

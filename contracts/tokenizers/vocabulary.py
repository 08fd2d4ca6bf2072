"""The texts of tokens by their ids, and what becomes of a text outside of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from contracts.errors import InvalidRequest, StoreError

UnknownPolicy = Literal["skip", "replace", "error"]

MOST_NAMED = 20  # unknown texts that an error names
LONGEST_NAMED = 40  # characters of each


class Vocabulary:
    """A token's id is its position in `tokens`, which are `noun`: "characters" or "words".

    Unknown texts are left out ("skip"), read as the token `unknown_token` ("replace"), or an error that names them.
    """

    def __init__(
        self, noun: str, tokens: Sequence[str], unknown: UnknownPolicy, unknown_token: str | None = None
    ) -> None:
        """Raises StoreError where this is no vocabulary."""
        self.tokens = tuple(tokens)
        self.unknown = unknown
        self.unknown_token = unknown_token
        self.index = {token: number for number, token in enumerate(tokens)}
        self._noun = noun
        self._check()
        self._replacement = self.index[unknown_token] if unknown == "replace" and unknown_token is not None else None

    def ids(self, texts: Iterable[str]) -> list[int]:
        """The tokens of these texts. Raises InvalidRequest that names the unknown ones, where they are an error."""
        texts = list(texts)
        if self.unknown == "error" and (
            unknown := list(dict.fromkeys(text for text in texts if text not in self.index))
        ):
            raise InvalidRequest(f"This model does not know the {self._noun} {_named(unknown)}; leave them out.")
        find, replacement = self.index.get, self._replacement
        return [token for text in texts if (token := find(text, replacement)) is not None]

    def _check(self) -> None:
        if not self.tokens:
            raise StoreError(f"there are no {self._noun}")
        if twice := [token for token, count in Counter(self.tokens).items() if count > 1]:
            raise StoreError(f"{_named(twice)} stand twice among the {self._noun}")
        try:
            "".join(self.tokens).encode()
        except UnicodeEncodeError as error:
            raise StoreError(f"the {self._noun} hold {error.object[error.start]!r}, which has no UTF-8") from None
        if self.unknown not in get_args(UnknownPolicy):
            raise StoreError(
                f"'unknown' is {self.unknown!r}, not one of {', '.join(map(repr, get_args(UnknownPolicy)))}"
            )
        if self.unknown_token is not None and self.unknown_token not in self.index:
            raise StoreError(f"'unknown_token' is {self.unknown_token!r}, which is not among the {self._noun}")
        if self.unknown == "replace" and self.unknown_token is None:
            raise StoreError("'unknown' is 'replace', but no 'unknown_token' is named to replace with")


def _named(texts: list[str]) -> str:
    named = ", ".join(repr(text[:LONGEST_NAMED]) for text in texts[:MOST_NAMED])
    return named if len(texts) <= MOST_NAMED else f"{named} and {len(texts) - MOST_NAMED} more"

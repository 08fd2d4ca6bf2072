"""What prompts are made of: the lines of a file, or common words."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random
from typing import Any

from cli.bench.workload import Lengths, PromptFile
from contracts.errors import InvalidRequest

# Words that a model of English knows; a model of characters knows their letters.
_TEXT = (
    "the of and to in a is was he for it with as his on be at by had not are but from or have an they which one you"
    " were her all she there would their we him been has when who will more no if out so said what up its about into"
    " than them can only other new some could time these two may then do first any my now such like our over man me"
    " even most made after also did many before must through back years where much your way well down should because"
    " each just those people how too little state good very make world still own see men work long get here between"
    " both life being under never day same another know while last might us great old year off come since against go"
    " came right used take three"
)
WORDS = _TEXT.split()

SAMPLE_CHARACTERS = 80  # of the text whose tokens a server is asked to count; short contexts hold it, too


def words(draw: Random, characters: int) -> str:
    """Common words, as many as give so many characters."""
    text = ""
    while len(text) < characters:
        text += " ".join(draw.choices(WORDS, k=1 + characters // 4)) + " "
    return text[:characters].rstrip().ljust(characters, "a")  # a blank at the end is a token of its own


class CommonWords:
    """Prompts of about so many tokens, each another one. How many characters a token has, the server has told by
    counting the tokens of a sample: for models of characters that is exact."""

    def __init__(self, lengths: Lengths, characters_per_token: float) -> None:
        self._lengths = lengths
        self._characters_per_token = characters_per_token

    def prompt(self, draw: Random) -> str:
        tokens = draw.randint(self._lengths.least, self._lengths.most)
        return words(draw, max(1, round(tokens * self._characters_per_token)))


class FilePrompts:
    def __init__(self, path: Path) -> None:
        """Lines of text; of a .jsonl file JSON strings, or objects with a `prompt` or a `text`. Blank lines are passed
        over. Raises InvalidRequest, OSError."""
        content = path.read_bytes()
        try:
            lines = content.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{path} is not UTF-8 (byte {error.start}); save it as such") from None
        numbered = [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1) if line.strip()]
        as_json = path.suffix.lower() == ".jsonl"
        self._prompts = [_prompt(path, number, line) if as_json else line for number, line in numbered]
        if not self._prompts:
            raise InvalidRequest(f"{path} is empty; write one prompt on a line")
        digest = hashlib.sha256(content).hexdigest()
        self.file = PromptFile(name=path.name, prompts=len(self._prompts), sha256=digest)

    def prompt(self, draw: Random) -> str:
        return draw.choice(self._prompts)


def _prompt(path: Path, number: int, line: str) -> str:
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        found = found.get("prompt", found.get("text"))
    if isinstance(found, str) and found:
        return found
    raise InvalidRequest(f'line {number} of {path} is neither "a text" nor {{"prompt": "a text"}} in JSON; mend it')

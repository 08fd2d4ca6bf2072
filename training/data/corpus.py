"""One text corpus from a folder of texts, pages and exports of messages or blogs."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

from contracts.errors import StoreError

MAX_FILE_BYTES = 256 << 20  # of a page or an export, which are read as a whole; plain texts may be any size
SEPARATOR = "\n\n"

_UNSEEN = frozenset({"script", "style", "head", "template", "noscript", "svg"})
_BLOCKS = frozenset({"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article"})
_BLOCKS |= {"blockquote", "pre", "ul", "ol", "table", "header", "footer"}
_TEXT_KEYS = ("text", "content", "body", "message", "caption", "post")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Gathered(NamedTuple):
    """What came of one file; `fault` says why nothing did."""

    path: Path
    characters: int
    fault: str | None = None


def gather(folder: Path, write: Callable[[str], object]) -> Iterator[Gathered]:
    """Write the text of every file below a folder that is known, in the order of their names. Raises StoreError."""
    if not folder.is_dir():
        raise StoreError(f"{folder} is no folder")
    writer = _Writer(write)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in READERS):
        before = writer.characters
        fault = None
        try:
            for piece in READERS[path.suffix.lower()](path):
                writer.write(piece)
        except (OSError, ValueError, RecursionError) as error:
            fault = str(error) or type(error).__name__
        characters = writer.characters - before
        if characters:
            writer.write(SEPARATOR)
        yield Gathered(path, characters, fault or (None if characters else "it has no text"))


class _Writer:
    """Writes clean text; what comes in pieces has no more empty lines than what comes whole."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._line_ends = 2  # at the end of what was written; the corpus begins with no empty line
        self.characters = 0  # other than white space at the ends of pieces

    def write(self, piece: str) -> None:
        text = clean(piece)
        body = text.lstrip("\n")
        begins_with = min(len(text) - len(body), 2 - self._line_ends)
        if body or begins_with:
            self._write("\n" * begins_with + body)
            ends = len(body) - len(body.rstrip("\n"))
            self._line_ends = min(2, ends if body.strip("\n") else self._line_ends + begins_with)
            self.characters += len(body.strip())


def clean(text: str) -> str:
    """Composed characters, no control characters, line ends as \\n, no white space before them, no three in a row."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = re.sub(r"[ \t\u00a0]+\n", "\n", _CONTROL.sub("", text))
    return re.sub(r"\n{3,}", "\n\n", text)


def _plain(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        yield from lines


def _page(path: Path) -> Iterator[str]:
    reader = _PageReader()
    reader.feed(_whole(path))
    reader.close()
    yield "".join(reader.pieces).strip() + "\n"


def _export(path: Path) -> Iterator[str]:
    """Every message of an export, one a line, wherever it lies in it."""
    for text in _messages(json.loads(_whole(path))):
        yield text.strip() + "\n"


def _lines_of_json(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for line in filter(str.strip, lines):
            for text in _messages(json.loads(line)):
                yield text.strip() + "\n"


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".txt": _plain,
    ".text": _plain,
    ".md": _plain,
    ".html": _page,
    ".htm": _page,
    ".json": _export,
    ".jsonl": _lines_of_json,
}


def _whole(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"it has {size:,} bytes, over {MAX_FILE_BYTES:,}; cut it into smaller files")
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _messages(value: Any) -> Iterator[str]:
    """Texts under the names that exports use for them. A text may be cut into pieces, some of them objects."""
    if isinstance(value, list):
        for each in value:
            yield from _messages(each)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in _TEXT_KEYS and (text := _joined(inner)):
                yield text
            elif isinstance(inner, dict | list):
                yield from _messages(inner)


def _joined(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, str) or _is_piece(each) for each in value):
        return "".join(each if isinstance(each, str) else each["text"] for each in value)
    return ""


def _is_piece(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("text"), str)


class _PageReader(HTMLParser):
    """The text that a page shows, a line for each block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        elif tag in _BLOCKS:
            self._begin_line()

    def handle_endtag(self, tag: str) -> None:
        if self._unseen and tag == self._unseen[-1]:
            self._unseen.pop()
        elif tag in _BLOCKS:
            self._begin_line()

    def handle_data(self, data: str) -> None:
        if not self._unseen and (words := " ".join(data.split())):
            glue = " " if data[:1].isspace() and self.pieces and not self.pieces[-1].endswith("\n") else ""
            self.pieces.append(glue + words + (" " if data[-1:].isspace() else ""))

    def _begin_line(self) -> None:
        if self.pieces and not self.pieces[-1].endswith("\n"):
            self.pieces.append("\n")

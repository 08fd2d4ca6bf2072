"""The folder of a dump: a file per setting, whole or not there."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contracts.errors import InvalidRequest
from contracts.files import replace_file

_LINE_END = re.compile(r"\r\n|\r|\n")  # what a reader of text files takes for one


class DumpFolder:
    """A new folder, gone again if nothing was written into it.

    Lines may come in any order; a file is written when all of its lines are here. So whatever ends the dump leaves
    whole files alone.
    """

    def __init__(self, path: Path, lines_per_file: int, plain: bool) -> None:
        self.path = path
        self.files = 0  # that have been written
        self._lines_per_file = lines_per_file
        self._plain = plain
        self._lines: dict[str, dict[int, str]] = {}  # by file and number, of the files that are not written yet

    def __enter__(self) -> Self:
        check_new(self.path)
        self.path.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # it holds something, as it mostly does
            self.path.rmdir()

    def put(self, file: str, number: int, content: dict[str, Any]) -> None:
        """Line `number` of a file, from 1 on. Raises OSError if the file was to be written and could not be."""
        lines = self._lines.setdefault(file, {})
        lines[number] = plain_line(content["text"]) if self._plain else json.dumps(content, ensure_ascii=False)
        if len(lines) == self._lines_per_file:
            whole = "".join(f"{line}\n" for _, line in sorted(self._lines.pop(file).items()))
            replace_file(self.path / f"{file}{'.txt' if self._plain else '.jsonl'}", whole.encode())
            self.files += 1


def check_new(path: Path) -> None:
    """Raises InvalidRequest for a folder that is there."""
    if path.exists():
        raise InvalidRequest(f"{path} is there already; name another folder with --output, or remove it")


def plain_line(text: str) -> str:
    """A text on one line: line ends inside it become spaces."""
    return _LINE_END.sub(" ", text)

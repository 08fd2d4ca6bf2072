"""Dumps of generated texts: text files, one per sampling setting, and the JSON Lines that `kamishibai dump` writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import StoreError
from contracts.prompt_fields import PromptFields
from training.evaluation.parsing import Parsed, parse_line, without_markers
from training.evaluation.report import Setting

ENDINGS = (".txt", ".jsonl")
# Those of the public movie plots; a file is read by the format that fits most of its lines.
FORMATS = (
    PromptFields.from_format("genre<|endofgenre|>title<|endoftitle|>plot<|endoftext|>"),
    PromptFields.from_format("<|startoftext|>genre<|endofgenre|>plot<|endoftext|>"),
)
_NAME = re.compile(r"temp_(?P<temperature>\d+(?:_\d+)?)_topp_(?P<top_p>\d+(?:_\d+)?)")


@dataclass(frozen=True)
class Generated:
    """One line of a dump. `source` is what wrote it: the model or, of a text file, the folder that it lies in."""

    source: str
    setting: Setting
    place: str  # file and line, for people
    parsed: Parsed

    @property
    def text(self) -> str:
        return self.parsed.text

    @property
    def genre(self) -> str | None:
        return self.parsed.parts.get("genre", "").lower() or None

    @property
    def title(self) -> str | None:
        return self.parsed.parts.get("title") or None


class DumpRecord(BaseModel):
    """A line of `kamishibai dump`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    text: str
    fields: dict[str, str] | None = None  # parts that were parsed from the text, in the format's order
    settings: Setting
    model: str
    seed: int | None = None
    finish_reason: str | None = None


def read_dumps(paths: Iterable[Path], formats: Sequence[PromptFields] = FORMATS) -> list[Generated]:
    """All lines of files, and of the files below folders, the broken ones too.

    Raises StoreError for what cannot be read, a text file whose name says no setting, and one that no format fits.
    """
    return [line for path in _files(paths) for line in _read_dump(path, formats)]


def setting_of(name: str) -> Setting:
    """What a file's name says: `temp_0_7_topp_0_9` is temperature 0.7, top-p 0.9; `topp_0` is no top-p.

    Raises StoreError for other names, and for a setting that cannot be.
    """
    match = _NAME.fullmatch(name.removesuffix(".txt"))
    try:
        if match is not None:
            temperature, top_p = (float(match[group].replace("_", ".")) for group in ("temperature", "top_p"))
            return Setting(temperature=temperature, top_p=top_p or None)
    except ValidationError:
        pass
    raise StoreError(f"the name {name} says no sampling setting; name the file like temp_0_7_topp_0_9.txt")


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix in ENDINGS and file.is_file())
        if not found:
            raise StoreError(f"{path} has no dumps; files are known by their endings: {', '.join(ENDINGS)}")
        yield from found


def _read_dump(path: Path, formats: Sequence[PromptFields]) -> list[Generated]:
    """Blank lines say nothing and are not counted."""
    try:
        # Not `splitlines`: models write the other characters that it takes for line ends.
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    read = _read_records if path.suffix == ".jsonl" else _read_lines
    return list(read(path, numbered, formats))


def _read_lines(path: Path, lines: list[tuple[int, str]], formats: Sequence[PromptFields]) -> Iterator[Generated]:
    setting, source = setting_of(path.name), path.resolve().parent.name
    best = _best_reading([[parse_line(fields, line) for _, line in lines] for fields in formats])
    if lines and not any(parsed.text for parsed in best):
        known = " or ".join(map(_form, formats))
        raise StoreError(f"no line of {path} has the form {known}; give the form of its lines with --format")
    for (number, _), parsed in zip(lines, best, strict=True):
        yield Generated(source, setting, f"{path.name}:{number}", parsed)


def _read_records(path: Path, lines: list[tuple[int, str]], formats: Sequence[PromptFields]) -> Iterator[Generated]:
    """What is no record belongs to the model and setting of the record before it."""
    records = [_record(line) for _, line in lines]
    known = [record for record in records if isinstance(record, DumpRecord)]
    if not known:
        raise StoreError(
            f"{path} has no line that `kamishibai dump` could have written: {records[:1] or 'it is empty'}"
        )
    readings = [[_parse_record(fields, record) for record in known] for fields in formats]
    parsed, last = iter(_best_reading(readings)), known[0]
    for (number, _), record in zip(lines, records, strict=True):
        last = record if isinstance(record, DumpRecord) else last
        content = next(parsed) if isinstance(record, DumpRecord) else Parsed("", faults=(record,))
        yield Generated(last.model, last.settings, f"{path.name}:{number}", content)


def _form(fields: PromptFields) -> str:
    """A format as `PromptFields.from_format` reads it."""
    return fields.start + "".join(field.name + field.end for field in fields.fields)


def _best_reading(readings: list[list[Parsed]]) -> list[Parsed]:
    """That of the format in which most lines are whole, or else, of equals, most texts can be read."""
    return max(readings, key=lambda lines: (sum(not p.faults for p in lines), sum(bool(p.text) for p in lines)))


def _record(line: str) -> DumpRecord | str:
    """Or the kind of fault."""
    try:
        return DumpRecord.model_validate_json(line)
    except ValidationError as error:
        return "not JSON" if error.errors()[0]["type"] == "json_invalid" else "not a record of a dump"


def _parse_record(fields: PromptFields, record: DumpRecord) -> Parsed:
    """The parts that the record names go before those in its text; a text without any of both is its own."""
    in_text = parse_line(fields, record.text, is_whole=False)
    has_markers = any(marker in record.text for marker in fields.markers)
    if record.fields:
        parts = {name: without_markers(part) for name, part in record.fields.items()}
        last = fields.fields[-1].name if fields.fields[-1].name in parts else list(parts)[-1]
        text = parts.pop(last)
        faults = in_text.faults if has_markers else () if text else (f"no {last}",)
        return Parsed(text, parts, faults)
    if has_markers:
        return in_text
    text = without_markers(record.text)
    return Parsed(text, faults=() if text else ("no text",))

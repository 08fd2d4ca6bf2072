"""How the texts of a dump begin: values of named parts, or whole prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from cli.dump_plan import WritingModel, distinct, split_list
from contracts.errors import InvalidRequest
from contracts.prompt_fields import PromptFields
from training.data.records import read_rows


@dataclass(frozen=True)
class Beginnings:
    """What the command line says of them; lists have been read, records have not."""

    fields: dict[str, list[str]]  # values by field
    records: Path | None
    prompts: list[str] | None

    @classmethod
    def read(
        cls, genres: str | None, fields: tuple[str, ...], records: Path | None, prompts: Path | None
    ) -> Beginnings:
        """Raises InvalidRequest for options that do not go together, empty lists and files that are no text."""
        lists = [*([f"genre={genres}"] if genres is not None else []), *fields]
        named: dict[str, list[str]] = {}
        for given in lists:
            name, equals, values = given.partition("=")
            if not equals:
                raise InvalidRequest(f"--field is {given!r}, which has no values; write it like genre=action,drama")
            if name in named:
                raise InvalidRequest(f"the field {name!r} is given twice; give all its values in one list")
            named[name] = _values(values)
        if sum([bool(named), records is not None, prompts is not None]) != 1:
            raise InvalidRequest("say how the texts begin by one of --genres or --field, --from and --prompts")
        return cls(named, records, None if prompts is None else _lines(prompts))

    def of(self, model: WritingModel) -> tuple[str, ...]:
        """The prompts for a model. Raises InvalidRequest for a field that it lacks, StoreError for broken records."""
        if self.prompts is not None:
            return tuple(self.prompts)
        format_ = model.prompt_fields
        if format_ is None:
            raise InvalidRequest(f"{model.name} has no fields; give it the beginnings of its texts with --prompts FILE")
        fields = self.fields if self.records is None else _values_of_records(self.records, format_)
        return tuple(format_.compose(dict(zip(fields, values, strict=True))) for values in product(*fields.values()))


def _values(text: str) -> list[str]:
    """The lines of a file, if there is one of that name, else a list with commas."""
    if values := distinct(_lines(Path(text))) if _is_file(text) else split_list(text):
        return values
    raise InvalidRequest(f"{text!r} holds no value; give some with commas between them, or a file with one on a line")


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a list is longer than a name may be
        return False


def _lines(path: Path) -> list[str]:
    """Those that are not blank, as they are: a blank at a prompt's end is a part of it."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 (byte {error.start}); save it as such") from None
    if found := [line for line in lines if line.strip()]:
        return found
    raise InvalidRequest(f"{path} is empty; write one beginning on a line")


def _values_of_records(path: Path, format_: PromptFields) -> dict[str, list[str]]:
    """All values that the records have of the format's first field, sorted. `genre` is found under `genres`, too."""
    name = format_.fields[0].name
    if found := sorted(distinct(_found(path, name))):
        return {name: found}
    raise InvalidRequest(f"{path} has no record with {name!r} or {name + 's'!r}; give values with --field {name}=...")


def _found(path: Path, name: str) -> Iterator[str]:
    for row in read_rows(path):
        value = row.get(name, row.get(f"{name}s")) if isinstance(row, dict) else None
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str):
                yield each.lower() if name == "genre" else each  # as training tells them

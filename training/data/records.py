"""Files of records: JSON Lines, or Parquet for those who have many. Written whole or not at all, read as streams."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.errors import StoreError
from contracts.requests import describe
from training.data.splits import Split

FORMATS = (".jsonl", ".parquet")
ROWS_AT_ONCE = 1024  # that are in memory together


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SynopsisRecord(_Record):
    title: str
    text: Annotated[str, Field(min_length=1)]
    genres: list[str]
    split: Split


class PlotRecord(_Record):
    """`primary`, `secondary`, `year` and `episode` are parts of the title, where it has them."""

    title: str
    plot: Annotated[str, Field(min_length=1)]
    genres: Annotated[list[str], Field(min_length=1)]
    primary: str
    secondary: str | None = None
    year: int | None = None
    episode: str | None = None
    split: Split


Record = TypeVar("Record", bound=_Record)


def write_records(path: Path, records: Iterable[_Record]) -> int:
    """How many there were. The file appears when all are in it. Raises StoreError for a name without a format."""
    if path.suffix not in FORMATS:
        raise StoreError(f"{path} must end in {' or '.join(FORMATS)}, which says how it is written")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".incoming-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    incoming = Path(name)
    try:
        write = _write_lines if path.suffix == ".jsonl" else _write_parquet
        count = write(incoming, iter(records))
        incoming.chmod(0o644)
        incoming.replace(path)
    finally:
        incoming.unlink(missing_ok=True)
    return count


def read_records(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Raises StoreError that names the file, the record and what is wrong with it."""
    for number, fields in enumerate(read_rows(path), start=1):
        try:
            yield kind.model_validate(fields)
        except ValidationError as error:
            raise StoreError(f"{path}: record {number}: {describe(error)}") from None


def kind_of(path: Path) -> type[PlotRecord] | type[SynopsisRecord]:
    """Which records a file has, by the first. Raises StoreError for a file without any."""
    for fields in read_rows(path):
        return PlotRecord if isinstance(fields, dict) and "plot" in fields else SynopsisRecord
    raise StoreError(f"{path} has no records; write some with `kamishibai data`")


def read_rows(path: Path) -> Iterator[Any]:
    """Records of any kind, as they are. Raises StoreError that names the file and the line."""
    return _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path)


def _write_lines(path: Path, records: Iterator[_Record]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as lines:
        for record in records:
            lines.write(record.model_dump_json() + "\n")
            count += 1
    return count


def _write_parquet(path: Path, records: Iterator[_Record]) -> int:
    pyarrow, parquet = _pyarrow()
    count, writer = 0, None
    try:
        while rows := [record.model_dump() for record in islice(records, ROWS_AT_ONCE)]:
            count += len(rows)
            if writer is None:
                kind = PlotRecord if "plot" in rows[0] else SynopsisRecord
                writer = parquet.ParquetWriter(path, _schema(pyarrow, kind))
            writer.write_table(pyarrow.Table.from_pylist(rows, writer.schema))
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise StoreError("no record is left; see the table of what was dropped")
    return count


def _schema(pyarrow: Any, kind: type[_Record]) -> Any:
    types = {"genres": pyarrow.list_(pyarrow.string()), "year": pyarrow.int32()}
    return pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in kind.model_fields])


def _read_lines(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):
                    raise StoreError(f"{path}: line {number} is not JSON") from None
    except (OSError, UnicodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None


def _read_parquet(path: Path) -> Iterator[Any]:
    pyarrow, parquet = _pyarrow()
    try:
        for batch in parquet.ParquetFile(path).iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise StoreError("Parquet needs pyarrow; install it with: pip install 'kamishibai[parquet]'") from None
    return pyarrow, parquet

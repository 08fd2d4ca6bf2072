"""The folder that a bundle is made from."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from contracts.bundle import sha256_of
from contracts.errors import StoreError
from contracts.files import read_small
from contracts.requests import describe

Model = TypeVar("Model", bound=BaseModel)


class Source:
    """Hands out the files of a folder and remembers the digest of each, for the bundle's provenance."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}  # file name -> sha256, in order of first use

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def file(self, name: str) -> Path:
        """The path of a file right in this folder.

        Raises StoreError if there is none, and for names that lead elsewhere: they come from files that others wrote.
        """
        if Path(name).name != name or "\\" in name:
            raise StoreError(f"{self.folder} names a file {name!r}: only plain names of files beside it can be used")
        path = self.folder / name
        try:
            if path.exists() and not path.is_file():
                raise StoreError(f"{path} is not a file")
            self.digests[name] = sha256_of(path)
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        return path


def read_json(model: type[Model], path: Path) -> Model:
    """A JSON file as `model`. Raises StoreError that names every field that cannot be used."""
    try:
        return model.model_validate_json(read_small(path))
    except ValidationError as error:
        raise StoreError(f"{path} cannot be used: {describe(error, limit=20)}") from None


def read_text(path: Path) -> str:
    """A text file. Raises StoreError for what is not UTF-8 or cannot be read."""
    try:
        return read_small(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is not UTF-8 text: {error}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None

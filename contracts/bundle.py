"""The bundle on disk: a folder `STORE/<model>/<version>/` with a manifest, weights and a tokenizer.

`Manifest` is the specification; `Bundle` reads and verifies one; `contracts.store` finds and writes them.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from contracts.errors import StoreError
from contracts.files import read_small
from contracts.labels import Labels
from contracts.prompt_fields import PromptFields
from contracts.requests import MAX_COUNT, Target, describe
from contracts.tokenizers import EncoderTokenizer, Tokenizer, TokenizerKind, read_encoder_tokenizer, read_tokenizer

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"
FP32_GRAPH = "fp32.onnx"
INT8_GRAPH = "int8.onnx"
INT8_WEIGHTS = "int8.safetensors"
GRAPH_WEIGHTS = "graph.safetensors"  # fp32 weights in an arrangement that only graphs use
DEFAULT_VARIANT = "pytorch:fp32"

Family = Literal["lstm", "gpt2", "dcgan", "bert", "roberta"]
Task = Literal["text", "image", "classify"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Variant(_Frozen):
    """One way to run the model: a format and a precision, and the files that hold it."""

    format: Literal["pytorch", "onnx"]
    precision: Literal["fp32", "int8"]
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.format}:{self.precision}"


class Limits(_Frozen):
    context_tokens: Annotated[int, Field(ge=2)] | None = (
        None  # prompt and output together, or a text to classify; None: no limit of the model's
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    picture_pixels: tuple[int, int] | None = None  # width, height


class Example(_Frozen):
    """What warm-up runs: a prompt for text, a text to classify, nothing for pictures."""

    prompt: str | None = None


class Manifest(_Frozen):
    """Everything that a server or worker must know before it opens a weight file."""

    schema_version: Literal[1] = 1
    name: str
    version: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    family: Family
    task: Task
    config: dict[str, Any]  # the family's own; models/ reads it
    limits: Limits
    tokenizer: TokenizerKind | None = None
    prompt_fields: PromptFields | None = None
    labels: Labels | None = None  # of a classifier
    variants: tuple[Variant, ...]
    files: dict[str, FileEntry]
    example: Example
    provenance: dict[str, Any] = {}

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            if Path(name).name != name or "\0" in name or name in {"", ".", "..", MANIFEST}:
                raise ValueError(f"{name!r} is not a plain file name")
        return files


class Bundle:
    """A verified bundle."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._tokenizer: Tokenizer | None = None
        self._encoder_tokenizer: EncoderTokenizer | None = None

    @classmethod
    def open(cls, path: Path, *, only: tuple[str, ...] | None = None) -> Bundle:
        """Read the manifest and check the hash of every file (or of those in `only`).

        Raises StoreError with all faults at once.
        """
        try:
            manifest = Manifest.model_validate_json(read_small(path / MANIFEST))
        except OSError as error:
            raise StoreError(f"{path} is not a bundle: its {MANIFEST} cannot be read ({error.strerror})") from None
        except ValidationError as error:
            raise StoreError(f"{path / MANIFEST} is not a manifest: {describe(error, limit=20)}") from None
        faults = [
            fault
            for name, entry in manifest.files.items()
            if only is None or name in only
            if (fault := _file_fault(path / name, entry))
        ]
        known = {TOKENIZER} if manifest.tokenizer else set()
        for missing in sorted(known.union(*(variant.files for variant in manifest.variants)) - set(manifest.files)):
            faults.append(f"{missing} is needed but not listed")
        if not manifest.variants:
            faults.append("no variant is listed")
        if (path.parent.name, path.name) != (manifest.name, str(manifest.version)):
            faults.append(f"its manifest is that of {manifest.name}@{manifest.version}")
        if faults:
            raise StoreError(f"{path} cannot be used: " + "; ".join(faults))
        return cls(path, manifest)

    @cached_property
    def digest(self) -> str:
        """Changes when any byte of the bundle does, since the manifest holds every file's hash."""
        return sha256_of(self.path / MANIFEST)

    def variants(self) -> list[str]:
        """Names of the ways to run it, as in `pytorch:fp32`."""
        return [variant.name for variant in self.manifest.variants]

    def target(self, variant: str = DEFAULT_VARIANT) -> Target:
        return Target(model=self.manifest.name, version=self.manifest.version, variant=variant)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of a bundle that writes text, read once. Raises StoreError for a bundle without one."""
        if self._tokenizer is None:
            self._tokenizer = read_tokenizer(self._tokenizer_kind(), self.path / TOKENIZER)
        return self._tokenizer

    def encoder_tokenizer(self) -> EncoderTokenizer:
        """The same for a classifier."""
        if self._encoder_tokenizer is None:
            self._encoder_tokenizer = read_encoder_tokenizer(self._tokenizer_kind(), self.path / TOKENIZER)
        return self._encoder_tokenizer

    def labels(self) -> Labels:
        """A classifier's labels. Raises StoreError for a bundle without."""
        if self.manifest.labels is None:
            raise StoreError(f"{self.path} has no labels: its task is {self.manifest.task}")
        return self.manifest.labels

    def _tokenizer_kind(self) -> TokenizerKind:
        if self.manifest.tokenizer is None:
            raise StoreError(f"{self.path} has no tokenizer: its task is {self.manifest.task}")
        return self.manifest.tokenizer


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_fault(path: Path, entry: FileEntry) -> str | None:
    try:
        if path.exists() and not path.is_file():
            return f"{path.name} is not a file"
        size = path.stat().st_size
        if size != entry.bytes:
            return f"{path.name} has {size} bytes instead of {entry.bytes}"
        if sha256_of(path) != entry.sha256:
            return f"{path.name} was changed: its sha256 differs from the manifest's"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None

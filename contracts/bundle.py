"""The bundle on disk: a folder `STORE/<model>/<version>/` with a manifest, weights and a tokenizer.

`Manifest` is the specification; `Bundle` reads and verifies one; `contracts.store` finds and writes them.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from contracts.errors import StoreError
from contracts.files import read_small
from contracts.labels import Labels
from contracts.prompt_fields import PromptFields
from contracts.requests import MAX_COUNT, Target, describe
from contracts.tokenizers import EncoderTokenizer, Tokenizer, TokenizerKind, read_encoder_tokenizer, read_tokenizer

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"
FP16_WEIGHTS = "fp16.safetensors"
INT8_WEIGHTS = "int8.safetensors"
GRAPH_WEIGHTS = "graph.safetensors"  # fp32 weights in an arrangement that only graphs use
DEFAULT_VARIANT = "pytorch:fp32"

Family = Literal["lstm", "gpt2", "dcgan", "bert", "roberta"]
Task = Literal["text", "image", "classify"]
Format = Literal["pytorch", "torchscript", "pt2", "onnx"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

PROGRAMS: frozenset[str] = frozenset({"torchscript", "pt2"})  # formats of files with code, and the ends of their names
REPORTS = {".gif": "image/gif", ".png": "image/png"}  # what training draws for people, by the end of its name

GRAPHS: dict[Precision, str] = {"fp32": "fp32.onnx", "fp16": "fp16.onnx", "int8": "int8.onnx"}
WRITERS: dict[Precision, str] = {"fp32": "fp32-writer.onnx", "int8": "int8-writer.onnx"}  # that draw tokens themselves

Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # how large a difference is
Share = Annotated[float, Field(ge=0, le=1)]


def _plain_json(values: dict[str, Any]) -> dict[str, Any]:
    json.dumps(values, allow_nan=False)  # its ValueError says it: NaN and infinities would be written as null
    return values


Facts = Annotated[dict[str, Any], AfterValidator(_plain_json)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Parity(_Frozen):
    """How far a variant's numbers are from those of `pytorch:fp32`, measured when the bundle was written, on a CPU.

    Differences are of probabilities, or of pixels from 0 to 1; what does not apply or could not be judged is None.
    """

    max_difference: Size
    mean_difference: Size
    max_logit_difference: Size | None = None
    reference_error: Size | None = None  # the largest difference of the reference's own logits from those of fp64
    mean_kl: Size | None = None  # nats, of next-token distributions
    equal_greedy_share: Share | None = None  # of a greedy text, until it first differs
    perplexity_ratio: Size | None = None  # on held-out text; below 1: the variant predicts it better
    equal_labels_share: Share | None = None  # of texts to which the very same labels apply
    psnr_db: Size | None = None  # of pictures; None also where no pixel differs
    batch_invariant: bool  # whether a row keeps its bits in every batch and place
    trained: bool  # whether the weights were trained; the bounds of int8 mean nothing for others
    faults: tuple[str, ...] = ()  # bounds that were missed


class Variant(_Frozen):
    """One way to run the model: a format and a precision, and the files that hold it."""

    format: Format
    precision: Precision
    files: tuple[str, ...]
    parity: Parity | None = None  # None: the reference itself, or a bundle from before this was measured

    @property
    def name(self) -> str:
        return variant_name(self.format, self.precision)

    @property
    def faults(self) -> tuple[str, ...]:
        """Bounds that it misses."""
        return self.parity.faults if self.parity else ()

    @property
    def forced(self) -> bool:
        """Whether it misses a bound and is here only since somebody insisted; no choice of ours may fall on it."""
        return bool(self.faults)


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
    config: Facts  # the family's own; models/ reads it
    limits: Limits
    tokenizer: TokenizerKind | None = None
    prompt_fields: PromptFields | None = None
    labels: Labels | None = None  # of a classifier
    variants: tuple[Variant, ...]
    left_out: dict[str, str] = {}  # variants that missed a bound, and which
    files: dict[str, FileEntry]
    example: Example
    provenance: Facts = {}

    @property
    def reports(self) -> list[str]:
        """Files that nothing runs: pictures of the training, such as curves and samples."""
        return sorted(name for name in self.files if Path(name).suffix in REPORTS)

    @property
    def holds_code(self) -> bool:
        """Whether a file of it is a program, which may do more than compute when it is loaded."""
        return any(variant.format in PROGRAMS for variant in self.variants) or any(
            Path(name).suffix.removeprefix(".") in PROGRAMS for name in self.files
        )

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
            manifest = read_manifest(read_small(path / MANIFEST), str(path / MANIFEST))
        except OSError as error:
            raise StoreError(f"{path} is not a bundle: its {MANIFEST} cannot be read ({error.strerror})") from None
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

    def variant(self, name: str) -> Variant:
        """The variant of a name. Raises StoreError that names those there are."""
        for variant in self.manifest.variants:
            if variant.name == name:
                return variant
        raise StoreError(f"{self.path} has no variant {name!r}; it has {', '.join(self.variants())}")

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


def read_manifest(content: bytes, place: str) -> Manifest:
    """Raises StoreError that names the place it is from."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise StoreError(f"{place} is not a manifest: {describe(error, limit=20)}") from None


def variant_name(format_: Format, precision: Precision) -> str:
    return f"{format_}:{precision}"


def archive(format_: Format, precision: Precision) -> str:
    """Name of the file that holds a whole program: `fp16.torchscript`, `fp32.pt2`."""
    return f"{precision}.{format_}"


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

"""The run folder while it is trained. `contracts.run` says what of it export reads; the rest is

plan.json            what is trained by which recipe on which data: enough to go on
checkpoint-000001234/  the state between two steps, the last one only
metrics.jsonl        a line for every few steps and for each validation
skipped.txt          pictures that could not be read, each with the reason
loss.png, tensorboard/, samples/ and the like   to look at
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from contracts.bundle import TOKENIZER, WEIGHTS, sha256_of
from contracts.errors import StoreError
from contracts.run import HELD_OUT, RUN, RunDescription
from contracts.tokenizers import EncoderTokenizer, Tokenizer
from models.weights import write_safetensors
from training.pictures import files_below

PLAN = "plan.json"
SKIPPED = "skipped.txt"
HELD_OUT_CHARACTERS = 1_000_000  # export judges by far less
Model = Literal["char-lstm", "word-lstm", "gpt2", "dcgan", "genres"]


class Plan(BaseModel):
    """What a run is trained by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Model
    recipe: dict[str, Any]
    data: str
    data_sha256: str

    @classmethod
    def of(cls, model: Model, recipe: BaseModel, data: Path) -> Plan:
        """Raises StoreError for data that cannot be read."""
        try:
            return cls(model=model, recipe=recipe.model_dump(), data=str(data.resolve()), data_sha256=_digest(data))
        except OSError as error:
            raise StoreError(f"{data} cannot be read: {error.strerror}") from None

    def check_data(self) -> None:
        """Raises StoreError where the data are not what the run began with."""
        path = Path(self.data)
        if not path.exists():
            raise StoreError(f"{path}, which this run is trained on, is not there; put it back to go on")
        if _digest(path) != self.data_sha256:
            raise StoreError(f"{path} is not what this run began with: it has been changed; put the old data back")


def _digest(data: Path) -> str:
    """SHA-256 of a file; of a folder, over the names and contents of its files."""
    if not data.is_dir():
        return sha256_of(data)
    digest = hashlib.sha256()
    for path in files_below(data):
        digest.update(f"{path.relative_to(data).as_posix()}\0{sha256_of(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def is_first_process() -> bool:
    """The one that writes, where several train together: their launcher tells each its place."""
    return os.environ.get("RANK", "0") == "0"


class RunFolder:
    def __init__(self, path: Path) -> None:
        """A new one. Raises StoreError where the path is taken, so that no run is trained in vain."""
        if path.exists() and is_first_process():
            raise StoreError(f"{path} exists already: go on with it (--resume), remove it, or name another folder")
        self.path = path

    @classmethod
    def of_run(cls, path: Path) -> tuple[RunFolder, Plan]:
        """One that exists, to go on with. Raises StoreError for what is none."""
        try:
            plan = Plan.model_validate_json((path / PLAN).read_bytes())
        except (OSError, ValidationError):
            raise StoreError(f"{path} is not the folder of a run that can be gone on with: it has no {PLAN}") from None
        return cls.of_existing(path), plan

    @classmethod
    def of_existing(cls, path: Path) -> RunFolder:
        """One that may have been begun, as it is."""
        folder = cls.__new__(cls)
        folder.path = path
        return folder

    def begin(self, plan: Plan) -> None:
        if is_first_process():
            self.path.mkdir(parents=True, exist_ok=True)
            self._write(PLAN, plan.model_dump_json(indent=2) + "\n")

    def note_skipped(self, files: dict[str, str]) -> None:
        """Files of the data that could not be read, each with its reason."""
        if files:
            self._write(SKIPPED, "".join(f"{file}: {reason}\n" for file, reason in files.items()))

    def keep(
        self,
        description: RunDescription,
        weights: dict[str, Tensor],
        tokenizer: Tokenizer | EncoderTokenizer | None = None,
        held_out: str = "",
    ) -> Path:
        """Write what export reads; the description last, so that a folder that has one has all. `held_out` is text
        kept from training."""
        self.path.mkdir(parents=True, exist_ok=True)
        incoming = self.path / f".incoming-{WEIGHTS}"
        write_safetensors({name: weight.detach().cpu() for name, weight in weights.items()}, incoming)
        incoming.replace(self.path / WEIGHTS)
        if tokenizer is not None:
            tokenizer.write(self.path / TOKENIZER)
        if held_out:
            self._write(HELD_OUT, held_out[:HELD_OUT_CHARACTERS])
        self._write(RUN, description.model_dump_json(indent=2) + "\n")
        return self.path

    def describe(self, description: RunDescription) -> None:
        """Another description of what is kept already."""
        self._write(RUN, description.model_dump_json(indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        incoming = self.path / f".incoming-{name}"
        incoming.write_text(text, encoding="utf-8")
        incoming.replace(self.path / name)

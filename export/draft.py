"""A model in memory that is about to become a bundle."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contracts.bundle import TOKENIZER, WEIGHTS, Bundle, Example, Limits, Manifest, Variant
from contracts.errors import InvalidRequest, StoreError
from contracts.labels import Labels
from contracts.prompt_fields import PromptFields
from contracts.store import Store
from contracts.tokenizers import EncoderTokenizer, Tokenizer, vocabulary_faults
from export import parity
from export.formats import REFERENCE, Kind, Wishes, choose, write
from export.parity import Judge
from models.bert import BertConfig, RobertaConfig
from models.dcgan import DcganConfig
from models.gpt2 import Gpt2Config
from models.weights import Config, Weights, family_of, weight_faults, write_safetensors

LSTM_MAX_TOKENS = 4096  # an LSTM has no limit of its own, but a request must have one


@dataclass(frozen=True)
class Draft:
    """Config, fp32 weights by the names of the family's module in models/, tokenizer and where all this is from."""

    config: Config
    weights: Weights
    tokenizer: Tokenizer | EncoderTokenizer | None
    example_prompt: str | None
    provenance: dict[str, Any]
    prompt_fields: PromptFields | None = None
    labels: Labels | None = None
    trained: bool = True  # whether somebody trained the weights: bounds of int8 mean nothing for others
    held_out: str | None = None  # text like that of the training, but not of it
    reports: tuple[Path, ...] = ()  # pictures that the training has drawn, which come along

    def publish(self, store: Store, name: str, wishes: Wishes | None = None) -> Bundle:
        """Write the next version of model `name`, with the variants that are wished for and keep their bounds.

        Raises StoreError with all faults of this draft, and for variants that cannot be.
        """
        if faults := [*weight_faults(self.config, self.weights), *self._text_faults(), *self._label_faults()]:
            raise StoreError(f"{name} cannot become a bundle: " + "; ".join(faults))
        return store.write(name, lambda folder: self._fill(folder, wishes or Wishes()))

    def _fill(self, folder: Path, wishes: Wishes) -> dict[str, Any]:
        kinds = choose(self.config, wishes, sum(weight.numel() for weight in self.weights.values()))
        held_out = self._held_out_tokens(wishes)
        write_safetensors(self.weights, folder / WEIGHTS)
        if self.tokenizer is not None:
            self.tokenizer.write(folder / TOKENIZER)
        reference = Variant(format=REFERENCE.format, precision=REFERENCE.precision, files=(WEIGHTS,))
        fields: dict[str, Any] = {
            **_identity(self.config),
            "config": asdict(self.config),
            "limits": _limits(self.config),
            "tokenizer": self.tokenizer.kind if self.tokenizer else None,
            "variants": (reference,),
            "example": Example(prompt=self.example_prompt),
            "provenance": self.provenance | _digest_of(wishes.held_out),
            "prompt_fields": self.prompt_fields,
            "labels": self.labels,
        }
        if len(kinds) > 1:
            fields |= self._more_variants(folder, fields, kinds[1:], wishes, held_out)
        for report in self.reports:
            shutil.copyfile(report, folder / report.name)
        return fields

    def _more_variants(
        self, folder: Path, fields: dict[str, Any], kinds: tuple[Kind, ...], wishes: Wishes, held_out: list[int]
    ) -> dict[str, Any]:
        """Writes and judges variants beside what lies in `folder`. One that misses a bound stays only if forced."""
        bundle = Bundle(folder, Manifest(name="in-the-making", version=1, files={}, **fields))
        judge = Judge(bundle, held_out, trained=self.trained, show_progress=wishes.show_progress)
        kept: list[Variant] = list(fields["variants"])
        left_out: dict[str, str] = {}
        for kind in kinds:
            files = write(folder, self.config, self.weights, kind)
            variant = Variant(format=kind.format, precision=kind.precision, files=files)
            measured = judge.judge(variant)
            if measured.faults and not wishes.force:
                left_out[variant.name] = "; ".join(measured.faults)
            else:
                kept.append(variant.model_copy(update={"parity": measured}))
        _remove_unused(folder, kept)
        return {"variants": tuple(kept), "left_out": left_out}

    def _held_out_tokens(self, wishes: Wishes) -> list[int]:
        """What is judged by: the text that is wished for, or else the draft's own, which may be none or short.

        Raises StoreError for a wish that cannot be had.
        """
        text = wishes.held_out if wishes.held_out is not None else self.held_out
        if self.tokenizer is None or isinstance(self.config, BertConfig):
            if wishes.held_out is not None:
                raise StoreError("only a model that writes text is judged by a text; leave --text out")
            return []
        try:
            tokens = self.tokenizer.encode(text or "")
        except InvalidRequest as error:
            raise StoreError(f"the model cannot read the text that it is to be judged by: {error}") from None
        if wishes.held_out is not None and len(tokens) < parity.PROMPTS:
            raise StoreError(
                f"the text to judge by has {len(tokens)} tokens that the model knows; give at least {parity.PROMPTS},"
                " better some thousands"
            )
        return tokens

    def _text_faults(self) -> list[str]:
        if isinstance(self.config, DcganConfig):
            return []
        if self.tokenizer is None:
            return ["a model of texts needs a tokenizer"]
        if isinstance(self.tokenizer, EncoderTokenizer) != isinstance(self.config, BertConfig):
            return [f"a tokenizer of kind {self.tokenizer.kind!r} does not fit this family"]
        faults = vocabulary_faults(self.tokenizer, self.config.vocabulary_size)
        try:
            for marker in self.prompt_fields.markers if self.prompt_fields else []:
                if len(self.tokenizer.encode(marker)) != 1:
                    faults.append(f"the marker {marker} is no token of its own")
            if not self.tokenizer.encode(self.example_prompt or ""):
                faults.append(f"the example prompt {self.example_prompt!r} has no token that the model knows")
        except InvalidRequest as error:
            faults.append(f"the example prompt {self.example_prompt!r} cannot be read: {error}")
        return faults

    def _label_faults(self) -> list[str]:
        outputs = self.config.labels if isinstance(self.config, BertConfig) else 0
        names = len(self.labels.names) if self.labels else 0
        return [] if names == outputs else [f"{names} labels are named, but the model has {outputs}"]


def _digest_of(held_out: str | None) -> dict[str, str]:
    return {} if held_out is None else {"held_out_sha256": hashlib.sha256(held_out.encode()).hexdigest()}


def _identity(config: Config) -> dict[str, str]:
    task = {BertConfig: "classify", RobertaConfig: "classify", DcganConfig: "image"}.get(type(config), "text")
    return {"family": family_of(config), "task": task}


def _remove_unused(folder: Path, variants: list[Variant]) -> None:
    """What was written for variants that were left out."""
    used = {TOKENIZER}.union(*(variant.files for variant in variants))
    for path in folder.iterdir():
        if path.name not in used:
            path.unlink()


def _limits(config: Config) -> Limits:
    if isinstance(config, DcganConfig):
        return Limits(picture_pixels=(config.size, config.size))
    if isinstance(config, Gpt2Config | BertConfig):
        return Limits(context_tokens=config.context_tokens)
    return Limits(max_tokens=LSTM_MAX_TOKENS)

"""Which family can be had in which format and precision, who writes it, and why the others cannot be.

The one place for that: the command's choice and refusals and the table in docs/bundles.md come from here. A family is
added by one entry of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args

from contracts.bundle import WEIGHTS, Family, Format, Precision, variant_name
from contracts.errors import StoreError
from models.bert import BertConfig
from models.dcgan import DcganConfig
from models.gpt2 import Gpt2Config
from models.lstm import LstmConfig
from models.runtimes.onnx import multiplies_int8_exactly
from models.weights import Config, Weights, family_of

FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Writes a variant's files into a folder that holds WEIGHTS; returns the names of all that the variant needs.
Writer = Callable[[Path, Any, Weights, Precision], tuple[str, ...]]


class Kind(NamedTuple):
    """A variant that is still to be written."""

    format: Format
    precision: Precision

    @property
    def name(self) -> str:
        return variant_name(*self)


KINDS = tuple(Kind(format_, precision) for format_ in FORMATS for precision in PRECISIONS)
REFERENCE = Kind("pytorch", "fp32")
LARGE = 20_000_000  # parameters


@dataclass(frozen=True)
class FamilyFormats:
    """What writes each kind, or the sentence that says why nothing can; `unfit` does so for one config's sake."""

    writers: dict[Kind, Writer | str]
    unfit: Callable[[Any, Kind], str | None] = lambda config, kind: None


def why_not(config: Config, kind: Kind) -> str | None:
    """Why a model cannot be had in this kind, here; None if it can."""
    formats = FAMILIES[family_of(config)]
    writer = formats.writers[kind]
    if isinstance(writer, str):
        return writer
    if unfit := formats.unfit(config, kind):
        return unfit
    if kind.format == "onnx" and not (find_spec("onnx") and find_spec("onnxruntime")):
        return "it needs onnx and onnxruntime; install them with: pip install 'kamishibai[cpu]'"
    if kind == ("onnx", "int8") and not isinstance(config, DcganConfig) and not multiplies_int8_exactly():
        return "this processor has no VNNI, so what would be written cannot be measured here"
    return None


@dataclass(frozen=True)
class Wishes:
    """What an export is asked for; without formats and precisions, what costs no second copy of the weights."""

    formats: frozenset[Format] = frozenset()
    precisions: frozenset[Precision] = frozenset()
    force: bool = False  # keep variants that miss a bound
    held_out: str | None = None  # judge by this text, which the model was not trained on
    show_progress: bool = False

    @property
    def kinds(self) -> list[Kind]:
        """Every pair that may be meant.

        TorchScript, which upstream has deprecated, and pt2, which is not served, hold a copy of the weights each.
        """
        formats = self.formats or (FORMATS if self.precisions else ("pytorch", "onnx"))
        return [
            kind
            for kind in KINDS
            if kind.format in formats and (not self.precisions or kind.precision in self.precisions)
        ]


def choose(config: Config, wishes: Wishes, parameters: int = 0) -> tuple[Kind, ...]:
    """The kinds that a bundle is to hold, the reference first.

    Formats alone stand for all of their precisions that this model can have, and the other way round; both together
    for every pair. Without wishes, models of LARGE parameters or more go without fp16, which a CPU is slow to measure.
    Raises StoreError that names each pair that cannot be and why.
    """
    kinds = wishes.kinds
    if parameters >= LARGE and not (wishes.formats or wishes.precisions):
        kinds = [kind for kind in kinds if kind.precision != "fp16"]
    reasons = {kind: why_not(config, kind) for kind in kinds}
    refused = [f"{kind.name} cannot be: {reason}" for kind, reason in reasons.items() if reason]
    by_name = bool(wishes.formats and wishes.precisions)
    if refused and (by_name or len(refused) == len(reasons)):
        raise StoreError("; ".join(refused))
    return (REFERENCE, *(kind for kind, reason in reasons.items() if reason is None and kind != REFERENCE))


def write(folder: Path, config: Config, weights: Weights, kind: Kind) -> tuple[str, ...]:
    """Write one kind beside the weights in `folder`. Returns the names of the files it needs. Raises StoreError."""
    writer = FAMILIES[family_of(config)].writers[kind]
    if isinstance(writer, str):
        raise StoreError(f"{kind.name} cannot be: {writer}")
    return writer(folder, config, weights, kind.precision)


def _as_they_are(folder: Path, config: Config, weights: Weights, precision: Precision) -> tuple[str, ...]:
    """PyTorch casts the fp32 weights when it loads them."""
    return (WEIGHTS,)


def _torchscript(folder: Path, config: Config, weights: Weights, precision: Precision) -> tuple[str, ...]:
    from export.torchscript import write_torchscript

    return (write_torchscript(folder, config, weights, precision),)


def _pt2(folder: Path, config: Config, weights: Weights, precision: Precision) -> tuple[str, ...]:
    from export.pt2 import write_pt2

    return (write_pt2(folder, config, weights, precision),)


def _onnx_gpt2(folder: Path, config: Gpt2Config, weights: Weights, precision: Precision) -> tuple[str, ...]:
    from export.onnx_gpt2 import write_onnx_gpt2

    return write_onnx_gpt2(folder, config, precision)


def _onnx_lstm(folder: Path, config: LstmConfig, weights: Weights, precision: Precision) -> tuple[str, ...]:
    from export.onnx_lstm import write_onnx_lstm

    return write_onnx_lstm(folder, config, precision)


def _onnx_dcgan(folder: Path, config: DcganConfig, weights: Weights, precision: Precision) -> tuple[str, ...]:
    from export.onnx_dcgan import write_onnx_dcgan

    return write_onnx_dcgan(folder, config, precision)


def _onnx_bert(folder: Path, config: BertConfig, weights: Weights, precision: Precision) -> tuple[str, ...]:
    from export.onnx_bert import write_onnx_bert

    return write_onnx_bert(folder, config, precision)


def _kinds(
    pt2: Writer | str, onnx: dict[Precision, Writer | str], torch_int8: str | None = None
) -> dict[Kind, Writer | str]:
    """All kinds of a family; what holds for every family is said once."""
    found: dict[Kind, Writer | str] = {}
    for kind in KINDS:
        if kind.format == "onnx":
            found[kind] = onnx.get(kind.precision, _ONNX_BF16)
        elif kind.format == "pt2" and isinstance(pt2, str):
            found[kind] = pt2
        elif kind.precision == "int8":
            found[kind] = torch_int8 or _TORCH_INT8
        else:
            found[kind] = {"pytorch": _as_they_are, "torchscript": _torchscript, "pt2": pt2}[kind.format]
    return found


def _gpt2_unfit(config: Gpt2Config, kind: Kind) -> str | None:
    size = config.width // config.heads
    if kind.format == "onnx" and size % 8:
        return f"ONNX Runtime's attention needs a head size divisible by 8, not {size}"
    return None


_TORCH_INT8 = (
    "PyTorch's int8 scales activations by the largest of a whole batch, so one request's numbers would move another's; "
    "onnx:int8 has a scale per row"
)
_TORCH_AO = "torch.ao.quantization, which has an int8 ConvTranspose, is deprecated upstream; onnx:int8 has fixed scales"
_ONNX_BF16 = "ONNX Runtime has no bf16 MatMul, Gemm or ConvTranspose on a CPU; pytorch:bf16 has them"

_CLASSIFIERS = FamilyFormats(
    _kinds(
        _pt2,
        {
            "fp32": _onnx_bert,
            "int8": _onnx_bert,
            "fp16": "ONNX Runtime has no fp16 Gemm on a CPU: it would cast every layer to fp32 and back",
        },
    )
)
FAMILIES: dict[Family, FamilyFormats] = {
    "lstm": FamilyFormats(
        _kinds(
            "torch.export unrolls an LSTM's loop, so that its archive would take one number of tokens only",
            {
                "fp32": _onnx_lstm,
                "int8": _onnx_lstm,
                "fp16": "ONNX Runtime has no fp16 Gemm on a CPU: it would cast every step to fp32 and back",
            },
        )
    ),
    "gpt2": FamilyFormats(_kinds(_pt2, {"fp32": _onnx_gpt2, "fp16": _onnx_gpt2, "int8": _onnx_gpt2}), _gpt2_unfit),
    "dcgan": FamilyFormats(
        _kinds(_pt2, {"fp32": _onnx_dcgan, "fp16": _onnx_dcgan, "int8": _onnx_dcgan}, torch_int8=_TORCH_AO)
    ),
    "bert": _CLASSIFIERS,
    "roberta": _CLASSIFIERS,
}

"""Classifiers in every format and precision: within their bounds, and a text's numbers are its own."""

from __future__ import annotations

import pytest
import torch

from contracts.bundle import DEFAULT_VARIANT, Bundle, Format, Precision
from contracts.errors import StoreError
from contracts.store import Store
from export.checkpoint import import_checkpoint
from export.formats import FORMATS, Wishes
from models.runtimes.load import load_classifier
from workers.engines.loading import load_model

pytest.importorskip("onnxruntime")

CPU = torch.device("cpu")
SERVED = [
    "pytorch:fp32",
    "pytorch:bf16",
    "pytorch:fp16",
    "torchscript:fp32",
    "torchscript:fp16",
    "onnx:fp32",
    "onnx:int8",
]


FORMATS_OF: dict[str, frozenset[Format]] = {"bert": frozenset(FORMATS), "roberta": frozenset(FORMATS) - {"pt2"}}


@pytest.fixture(scope="module", params=["bert", "roberta"])
def bundle(request, tmp_path_factory, write_classifier) -> Bundle:
    """Everything that can be had of it, whether it keeps its bounds or not: int8 of random weights need not.

    RoBERTa, which is the same module, goes without pt2, whose archives take seconds each.
    """
    folder = tmp_path_factory.mktemp("checkpoint")
    write_classifier(folder, request.param)
    store = Store(tmp_path_factory.mktemp("store"))
    return import_checkpoint(folder, store, "tags", wishes=Wishes(formats=FORMATS_OF[request.param], force=True))


def test_every_kind_is_there_and_judged(bundle):
    found = {variant.name: variant.parity for variant in bundle.manifest.variants}
    expected = {*SERVED, "torchscript:bf16"}
    if bundle.manifest.family == "bert":
        expected |= {"pt2:fp32", "pt2:fp16", "pt2:bf16"}
    assert expected == found.keys()
    assert found.pop(DEFAULT_VARIANT) is None
    for name, parity in found.items():
        assert parity is not None
        assert parity.batch_invariant, name
        assert parity.equal_labels_share is not None
        if not name.endswith("int8"):
            assert not parity.faults, name
            assert parity.equal_labels_share > 0.9, name
    exact = found["onnx:fp32"]
    assert exact is not None
    assert exact.max_difference < 1e-5


@pytest.mark.parametrize("name", SERVED)
def test_it_is_served_and_warms_up(bundle, name):
    loaded = load_model(bundle, name, CPU)
    assert loaded.probe.batch_invariant


@pytest.mark.parametrize("name", SERVED[1:])
def test_it_computes_what_the_reference_does(bundle, name):
    variants = {variant.name: variant for variant in bundle.manifest.variants}
    texts = [[3, 5, 7, 11] * 4, [2, 9], [4] * 30]
    expected = load_classifier(bundle, variants[DEFAULT_VARIANT], CPU)
    found = load_classifier(bundle, variants[name], CPU)
    ours = torch.cat([expected.classify([text]) for text in texts])
    theirs = torch.cat([found.classify([text]) for text in texts])
    assert theirs.dtype == torch.float32
    bound = 1e-5 if name.endswith("fp32") else 0.05 * ours.abs().max().item()
    assert (ours - theirs).abs().max() < bound


def test_what_cannot_be_is_refused_by_name(write_classifier, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    write_classifier(tmp_path / "checkpoint", "bert")
    refused: tuple[tuple[Format, Precision, str], ...] = (
        ("onnx", "bf16", "no bf16"),
        ("onnx", "fp16", "no fp16 Gemm"),
        ("pt2", "int8", "scales activations by the largest of a whole batch"),
    )
    for format_, precision, reason in refused:
        wishes = Wishes(frozenset((format_,)), frozenset((precision,)))
        with pytest.raises(StoreError, match=f"{format_}:{precision} cannot be: .*{reason}"):
            import_checkpoint(tmp_path / "checkpoint", Store(tmp_path / "store"), "tags", wishes=wishes)

"""Graphs are called with tensors that lie where they run, and what a GPU cannot run there is refused by name."""

import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch

from contracts.bundle import Bundle, Manifest, Variant
from contracts.errors import StoreError
from models.runtimes import onnx, onnx_session
from models.runtimes.onnx_session import CUDA, Call, Session, open_session

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnxruntime
from onnx import TensorProto

from export.onnx_graph import Graph

GPU = torch.device("cuda", 0)
FOR_CPUS = pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this build is for GPUs")


@pytest.fixture
def running_sum(tmp_path):
    """total + added, to be written where the total is; and the doubled total of the places that are asked for."""
    graph = Graph()
    total = graph.input("past_total", TensorProto.FLOAT, ["N"])
    graph.node("Add", [total, graph.input("added", TensorProto.FLOAT, ["N"])], "total")
    taken = graph.node("Gather", ["total", graph.input("wanted", TensorProto.INT64, ["W"])], "taken")
    graph.node("Add", [taken, taken], "doubled")
    for name, size in (("total", "N"), ("doubled", "W")):
        graph.output(name, TensorProto.FLOAT, [size])
    graph.save(tmp_path / "sum.onnx")
    return tmp_path / "sum.onnx"


def make_call(graph, total, wanted):
    given = {"added": np.zeros(len(total), np.float32)}
    outputs = {"total": total, "doubled": torch.empty(len(wanted))}
    return Call(
        Session(graph, 1), given, {"past_total": total, "wanted": torch.tensor(wanted, dtype=torch.int64)}, outputs
    )


def test_a_call_that_is_bound_once_reads_what_is_written_before_each_run_and_writes_in_place(running_sum):
    total = torch.tensor([1.0, 2.0, 3.0])
    call = make_call(running_sum, total, [2, 0])
    for step in (1, 2):
        call.given["added"][:] = [10, 20, 30]
        call.run()
        assert total.tolist() == [1 + 10 * step, 2 + 20 * step, 3 + 30 * step]
        assert call.outputs["doubled"].tolist() == [2 * total[2], 2 * total[0]]


def test_an_empty_output_is_bound_too(running_sum):
    total = torch.zeros(2)
    call = make_call(running_sum, total, [])
    call.given["added"][:] = 1
    call.run()
    assert total.tolist() == [1, 1]


def test_a_tensor_with_gaps_is_not_bound(running_sum):
    with pytest.raises(ValueError, match=r"past_total of shape .* is not contiguous"):
        make_call(running_sum, torch.zeros(4)[::2], [0])


def test_the_host_gives_all_inputs_of_a_graph_on_a_cpu(running_sum):
    assert Session(running_sum, 1).host_inputs == {"past_total", "added", "wanted"}


@FOR_CPUS
def test_a_gpu_is_refused_by_the_build_for_cpus(running_sum):
    with pytest.raises(StoreError, match=r"cannot be run on cuda:0: .* the build for CPUs; .*kamishibai\[gpu\]"):
        open_session(running_sum, 1, GPU)


@FOR_CPUS
def test_both_builds_at_once_are_named_as_the_reason(running_sum, monkeypatch):
    monkeypatch.setattr(onnx_session, "BUILDS", ("onnx", "torch"))  # two packages that are here
    assert onnx_session.installed_builds() == {name: version(name) for name in ("onnx", "torch")}
    with pytest.raises(StoreError, match="onnxruntime and onnxruntime-gpu are both installed"):
        open_session(running_sum, 1, GPU)


@FOR_CPUS
def test_a_provider_that_does_not_start_is_not_replaced_by_the_cpu_in_silence(running_sum, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(StoreError, match="ONNX Runtime could not start CUDA"),
    ):
        open_session(running_sum, 1, GPU)


def test_a_missing_library_is_named_with_the_extra_for_the_device(running_sum, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StoreError, match=r"kamishibai\[cpu\]"):
        open_session(running_sum, 1)
    with pytest.raises(StoreError, match=r"kamishibai\[gpu\]"):
        open_session(running_sum, 1, GPU)


@pytest.mark.parametrize(("family", "precision"), onnx.NOT_ON_CUDA)
def test_what_a_gpu_does_not_run_is_refused_before_anything_is_read(store, family, precision):
    found = store.open("lstm")
    bundle = Bundle(found.path, Manifest.model_validate(found.manifest.model_dump() | {"family": family}))
    variant = Variant(format="onnx", precision=precision, files=())
    with pytest.raises(StoreError, match=f"onnx:{precision} does not run on cuda:0: .*ONNX Runtime") as refused:
        onnx.check_device(bundle, variant, GPU)
    assert onnx.NOT_ON_CUDA[family, precision] in str(refused.value)
    onnx.check_device(bundle, variant, torch.device("cpu"))


def test_devices_of_other_kinds_are_refused(store):
    variant = Variant(format="onnx", precision="fp32", files=())
    with pytest.raises(StoreError, match="runs on a CPU or an NVIDIA GPU, not on mps"):
        onnx.check_device(store.open("lstm"), variant, torch.device("mps"))

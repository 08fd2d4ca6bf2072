"""The ONNX graph of a classifier computes what PyTorch does, from operators that every runtime has."""

import copy
import random
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from contracts.bundle import GRAPHS, WEIGHTS
from models.bert import Bert, BertConfig, RobertaConfig
from models.probe import probe_classify
from models.runtimes.onnx import OnnxBertBackend
from models.runtimes.pytorch import BertBackend

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx

from export.onnx_bert import write_onnx_bert

VOCABULARY = 97
SIZES: dict[str, Any] = {"vocabulary_size": VOCABULARY, "context_tokens": 150, "layers": 2, "heads": 4, "labels": 7}
CONFIGS: dict[str, BertConfig] = {
    "bert": BertConfig(**SIZES, width=48, inner=80),
    "roberta": RobertaConfig(**SIZES, width=48, inner=80, padding_token=1),
    "tanh": BertConfig(**SIZES, width=32, inner=128, hidden_activation="gelu_tanh", epsilon=1e-5),
    "odd": BertConfig(**SIZES, width=20, inner=30, hidden_activation="relu"),
    "wide": BertConfig(**SIZES, width=320, inner=400),  # on several threads
}
LENGTHS = (1, 2, 31, 32, 33, 100, 150)


@pytest.fixture(scope="module", params=list(CONFIGS.values()), ids=list(CONFIGS))
def config(request):
    return request.param


@pytest.fixture(scope="module")
def model(config):
    with torch.random.fork_rng():
        torch.manual_seed(8)
        made = Bert(config)
    for weight in made.parameters():
        weight.data *= 3  # peaked enough that a wrong operation shows
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def graph(tmp_path_factory, model, config):
    folder = tmp_path_factory.mktemp("onnx")
    save_file(model.state_dict(), folder / WEIGHTS)
    write_onnx_bert(folder, config, "fp32")
    return folder / GRAPHS["fp32"]


@pytest.fixture
def backend(graph, config):
    return OnnxBertBackend(graph, config)


def _texts(count, shortest, longest, seed=0):
    rng = random.Random(seed)
    return [rng.choices(range(VOCABULARY), k=rng.randint(shortest, longest)) for _ in range(count)]


def _text(length):
    return _texts(1, length, length, seed=length)


def test_the_graph_is_sound_and_of_the_standards_own_operators(graph):
    onnx.checker.check_model(str(graph), full_check=True)
    proto = onnx.load(graph, load_external_data=False)
    assert {node.domain for node in proto.graph.node} == {""}
    assert all(tensor.external_data or tensor.dims in ([], [1], [2]) for tensor in proto.graph.initializer)
    assert graph.stat().st_size < 40_000


@pytest.fixture(scope="module")
def exact(model):
    """The same model in float64."""
    return BertBackend(copy.deepcopy(model).double(), torch.device("cpu"))


@pytest.fixture(scope="module")
def rounding(model, exact):
    """How far float32 takes PyTorch from that at most; weights that are this large multiply it in a wide model."""
    single = BertBackend(model, torch.device("cpu"))
    errors = [single.classify(texts) - exact.classify(texts) for texts in map(_text, LENGTHS)]
    return max(float(error.abs().max()) for error in errors)


@pytest.mark.parametrize("length", LENGTHS)
def test_logits_are_as_near_to_the_exact_ones_as_pytorchs(backend, exact, rounding, length):
    text = _text(length)
    expected = exact.classify(text).float()
    torch.testing.assert_close(backend.classify(text), expected, rtol=0, atol=max(1e-6, 4 * rounding))


def test_logits_do_not_depend_on_the_number_place_and_length_of_neighbours(backend, threads):
    assert probe_classify(backend).batch_invariant
    texts = _texts(8, 1, 32)
    alone = [backend.classify([text])[0] for text in texts]
    for count in (2, 3, 5, 8):
        together = backend.classify(texts[-count:])
        assert all(torch.equal(row, one) for row, one in zip(together, alone[-count:], strict=True))

"""What only a GPU can show of ONNX graphs: they compute what they do on a CPU, and nothing crosses to the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from contracts.bundle import GRAPHS, WEIGHTS, WRITERS
from contracts.errors import StoreError
from models.bert import Bert, BertConfig
from models.dcgan import DcganConfig, generator
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.noise import latents
from models.probe import probe_classify, probe_images, probe_text
from models.runtimes import Chunk
from models.runtimes.onnx import (
    OnnxBertBackend,
    OnnxDcganBackend,
    OnnxGpt2Backend,
    OnnxLstmBackend,
    OnnxWindowedLstmBackend,
)
from models.runtimes.onnx_session import CUDA, open_session

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnxruntime

from export.onnx_bert import write_onnx_bert
from export.onnx_dcgan import write_onnx_dcgan
from export.onnx_gpt2 import write_onnx_gpt2
from export.onnx_lstm import write_onnx_lstm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="this ONNX Runtime is for CPUs"),
]

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
VOCABULARY = 211
GPT2 = Gpt2Config(VOCABULARY, context_tokens=192, width=96, layers=2, heads=4)
CHARACTERS = LstmConfig(VOCABULARY, (128, 96))
WORDS = LstmConfig(VOCABULARY, (320, 64), embedding=50, recurrent_activation="hard_sigmoid")
WINDOWS = LstmConfig(VOCABULARY, (128, 96), window=9)
FACES = DcganConfig(size=32, latent=16, width=8)
TAGS = BertConfig(VOCABULARY, context_tokens=64, width=64, layers=2, heads=4, inner=128, labels=5)

TEXTS: dict[str, Any] = {"gpt2": GPT2, "characters": CHARACTERS, "words": WORDS, "windows": WINDOWS}
MODULES: dict[type, Any] = {Gpt2Config: Gpt2, LstmConfig: LstmLanguageModel, DcganConfig: generator, BertConfig: Bert}
WRITE: dict[type, Any] = {
    Gpt2Config: write_onnx_gpt2,
    LstmConfig: write_onnx_lstm,
    DcganConfig: write_onnx_dcgan,
    BertConfig: write_onnx_bert,
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Writes the graph of a config in a precision."""
    made = {}

    def write(config, precision):
        if (config, precision) not in made:
            with torch.random.fork_rng():
                torch.manual_seed(8)
                model = MODULES[type(config)](config)
            weights = {name: 3 * weight if weight.dim() > 1 else weight for name, weight in model.state_dict().items()}
            folder = tmp_path_factory.mktemp("graph")
            save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / WEIGHTS)
            WRITE[type(config)](folder, config, precision)
            made[config, precision] = folder / GRAPHS[precision]
        return made[config, precision]

    return write


@pytest.fixture(params=list(TEXTS.values()), ids=list(TEXTS))
def load(request, graph):
    """Opens a text backend on a device; GPT-2 in fp16, which alone a GPU has attention for."""
    config = request.param
    file = graph(config, "fp16" if config is GPT2 else "fp32")
    if config is GPT2:
        return lambda device: OnnxGpt2Backend(file, config, device=device)
    backend = OnnxWindowedLstmBackend if config.window else OnnxLstmBackend
    return lambda device: backend(file, config, device=device)


def logits_of(backend):
    """Texts read by chunks, one of them scored and one copied, and decoded together."""
    parts = [Chunk(0, 0, list(range(32))), Chunk(1, 0, list(range(50, 69)))]
    scored = [*backend.prefill(parts), *backend.prefill([Chunk(0, 32, [7, 8, 9], scored=True)])]
    backend.copy(0, [2, 3], 0, 35)
    steps = [
        backend.decode([token, 4, token, 5], [35 + token, 19 + token, 35 + token, 35 + token], [True] * 4).clone()
        for token in range(3)
    ]
    return torch.cat([scored[-1], *steps])


def test_logits_on_a_gpu_are_the_cpus_and_stay_there(load):
    found, expected = logits_of(load(GPU)), logits_of(load(CPU))
    assert found.device == GPU
    torch.testing.assert_close(found.cpu().softmax(-1), expected.softmax(-1), rtol=0, atol=2e-3)


def test_keys_values_and_states_lie_on_the_gpu(graph):
    text = OnnxGpt2Backend(graph(GPT2, "fp16"), GPT2, device=GPU)
    recurrent = OnnxLstmBackend(graph(CHARACTERS, "fp32"), CHARACTERS, device=GPU)
    for backend in (text, recurrent):
        logits_of(backend)
    assert {part.device for part in (text._keys, text._values, *recurrent._state.values())} == {GPU}
    assert text._keys.any()
    assert all(part.any() for part in recurrent._state.values())


def test_a_text_that_is_wiped_leaves_nothing_behind(load):
    backend = load(GPU)
    expected = logits_of(backend)
    for slot in range(4):
        backend.wipe(slot)
    assert torch.equal(logits_of(backend), expected)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_pictures_on_a_gpu_are_the_cpus_to_a_grey_level(graph, precision):
    noise = latents(1, list(range(8)), FACES.latent)
    drawn = [OnnxDcganBackend(graph(FACES, precision), FACES, device).draw(noise).int() for device in (GPU, CPU)]
    assert (drawn[0] - drawn[1]).abs().max() <= (1 if precision == "fp32" else 2)


def test_labels_on_a_gpu_are_the_cpus(graph):
    texts = [list(range(row, row + 20)) for row in range(3)]
    found, expected = (OnnxBertBackend(graph(TAGS, "fp32"), TAGS, device).classify(texts) for device in (GPU, CPU))
    assert found.device == CPU
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_what_the_probe_says_on_a_gpu(load, graph, record_property):
    """It decides what is promised of a variant; here it is only seen to run, and told."""
    record_property("text", probe_text(load(GPU), GPT2.context_tokens).batch_invariant)
    record_property("pictures", probe_images(OnnxDcganBackend(graph(FACES, "fp16"), FACES, GPU)).batch_invariant)
    record_property("labels", probe_classify(OnnxBertBackend(graph(TAGS, "fp32"), TAGS, GPU)).batch_invariant)


def test_where_a_graph_that_draws_would_run(graph, record_property):
    """Until this was seen, LSTMs step one by one there (`_writer_graph` in models/runtimes/onnx.py)."""
    try:
        open_session(graph(CHARACTERS, "fp32").with_name(WRITERS["fp32"]), 1, GPU)
        record_property("left to the CPU", "")
    except StoreError as error:
        record_property("left to the CPU", str(error))


@pytest.mark.parametrize(
    ("config", "precision", "left"),
    [
        (GPT2, "fp32", "GroupQueryAttention"),
        (GPT2, "int8", "GroupQueryAttention, .* MatMulIntegerToFloat"),
        (CHARACTERS, "int8", "MatMulIntegerToFloat"),
        (TAGS, "int8", "MatMulIntegerToFloat"),
        (FACES, "int8", "DequantizeLinear"),
    ],
)
def test_onnx_runtime_itself_leaves_to_the_cpu_what_we_refuse(graph, config, precision, left):
    """If this fails, its operators have grown, and `NOT_ON_CUDA` can shrink."""
    with pytest.raises(StoreError, match=rf"would leave \d+ {left} in it to the CPU"):
        open_session(graph(config, precision), 1, GPU)

"""Graphs that draw tokens themselves draw those that the same logits and uniforms give outside of them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from contracts.bundle import GRAPHS, WEIGHTS, WRITERS
from models.cdf import invert_cdf
from models.lstm import LstmConfig, LstmLanguageModel
from models.probe import probe_text
from models.runtimes import GREEDY_TEMPERATURE, Steps
from models.sampling import PlainSampling, RowSampling, RowState

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from export.onnx_lstm import write_onnx_lstm
from models.runtimes.onnx import OnnxLstmBackend, multiplies_int8_exactly

FEW = LstmConfig(65, (48, 32))
MANY = LstmConfig(1_000, (40,), embedding=24)  # drawn in two levels, the last block of which is not full
ROWS, STEPS = 5, 16


@pytest.fixture(scope="module", params=[FEW, MANY], ids=["few", "many"])
def config(request):
    return request.param


@pytest.fixture(scope="module", params=["fp32", "int8"])
def load(tmp_path_factory, config, request):
    precision = request.param
    if precision == "int8" and not multiplies_int8_exactly():
        pytest.skip("this processor has no VNNI")
    folder = tmp_path_factory.mktemp("writer")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = LstmLanguageModel(config)
    for weight in model.parameters():
        weight.data *= 6
    save_file(model.state_dict(), folder / WEIGHTS)
    write_onnx_lstm(folder, config, precision)
    graph, writer_graph = folder / GRAPHS[precision], folder / WRITERS[precision]
    return lambda slots=8: OnnxLstmBackend(graph, config, slots, writer_graph=writer_graph)


@pytest.fixture
def steps():
    """One greedy row, others at several temperatures; a uniform as high as may be."""
    uniforms = np.random.default_rng(5).random((ROWS, STEPS))
    uniforms[0] = 0
    uniforms[1, :3] = 1 - 2.0**-53
    return Steps(uniforms, np.asarray([GREEDY_TEMPERATURE, 1, 0.3, 1.7, 1], np.float32))


def written(backend, steps, sizes, fed=(3, 1, 4, 1, 5)):
    """Tokens (rows, steps) of calls of these sizes, one after the other."""
    tokens, found, done = list(fed), [], 0
    for size in sizes:
        part = Steps(steps.uniforms[:, done : done + size], steps.temperatures)
        found.append(backend.writer.write(tokens, [done] * ROWS, [True] * ROWS, part).tokens.copy())
        tokens, done = found[-1][:, -1].tolist(), done + size
    return np.concatenate(found, 1)


def test_tokens_are_those_that_the_logits_of_single_steps_give(load, steps):
    found = written(load(), steps, [STEPS])
    single, tokens = load(), [3, 1, 4, 1, 5]
    for step in range(STEPS):
        logits = single.decode(tokens, [step] * ROWS, [True] * ROWS)
        weights = (logits / torch.from_numpy(steps.temperatures)[:, None]).softmax(-1)
        tokens = invert_cdf(weights, torch.from_numpy(steps.uniforms[:, step])).tolist()
        assert tokens[0] == int(logits[0].argmax())
        assert found[:, step].tolist() == tokens, f"step {step}"
    assert len(np.unique(found[1:])) > STEPS


def test_tokens_do_not_depend_on_how_many_steps_a_call_has(load, steps):
    expected = written(load(), steps, [STEPS])
    for sizes in ([1] * STEPS, [4, 4, 8], [1, 2, 4, 8, 1]):
        assert np.array_equal(written(load(), steps, sizes), expected)


def test_the_logits_of_a_single_step_are_those_of_a_decode(load, steps):
    backend, other = load(), load()
    one = Steps(steps.uniforms[:, :1], steps.temperatures)
    logits = backend.writer.write([7] * ROWS, [0] * ROWS, [True] * ROWS, one).logits.clone()
    assert torch.equal(logits, other.decode([7] * ROWS, [0] * ROWS, [True] * ROWS))


def test_rows_that_are_not_active_keep_their_state(load, steps):
    backend, other = load(), load()
    active = [True, False, True, False, True]
    backend.writer.write([2] * ROWS, [0] * ROWS, active, steps)
    found = backend.decode([6] * ROWS, [0] * ROWS, [True] * ROWS)
    expected = other.decode([6] * ROWS, [0] * ROWS, [True] * ROWS)
    assert [torch.equal(*pair) for pair in zip(found, expected, strict=True)] == [not on for on in active]


def test_logits_that_are_no_numbers_are_named(load, steps):
    backend = load()
    for block in backend._blocks.values():
        block[:, 2] = torch.nan  # a product in int8 loses it, a cell does not
    logits = backend.decode([1] * ROWS, [0] * ROWS, [False] * ROWS)
    sound = backend.writer.write([1] * ROWS, [0] * ROWS, [True] * ROWS, steps).sound
    assert sound.tolist() == logits.isfinite().all(-1).tolist()


def test_the_probe_covers_the_writer(load):
    backend = load()
    assert probe_text(backend, None).batch_invariant
    write = backend.writer.write

    def leaking(tokens, positions, active, steps):
        made = write(tokens, positions, active, steps)
        made.logits[:] += made.logits.shape[0] * 1e-6  # as many as there are rows
        return made

    backend.writer.write = leaking
    assert not probe_text(backend, None).batch_invariant


def test_plain_rows_get_their_own_noise_wherever_they_are():
    row = RowState(RowSampling(temperature=0.8, seed=11, row=1), output=(5, 6))
    greedy = RowState(RowSampling(seed=11))
    alone, company = PlainSampling([row]), PlainSampling([None, greedy, row])
    together = [company.next(3), company.next(2)]
    expected = alone.next(5)
    assert np.array_equal(np.concatenate([part.uniforms[2] for part in together]), expected.uniforms[0])
    assert not together[0].uniforms[:2].any()
    assert together[0].temperatures.tolist() == [GREEDY_TEMPERATURE, GREEDY_TEMPERATURE, np.float32(0.8)]
    later = PlainSampling([RowState(row.sampling, output=(5, 6, 7))])
    assert np.array_equal(later.next(4).uniforms[0], expected.uniforms[0, 1:])


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"temperature": 0.7, "ending_tokens": (1,), "seed": 3, "row": 2}, True),
        ({"temperature": 0.7, "top_k": 5}, False),
        ({"temperature": 0.7, "top_p": 0.9}, False),
        ({"logit_bias": ((1, 2.0),)}, False),
        ({"min_tokens": 1, "ending_tokens": (1,)}, False),
    ],
)
def test_only_a_temperature_leaves_a_row_plain(settings, plain):
    assert RowSampling(**settings).plain is plain

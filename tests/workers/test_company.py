"""The first invariant through the whole engine, searched for counterexamples: whatever requests come, go and are taken
back meanwhile, a request's texts and scores are those that it gets alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.requests import Target, TextRequest
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.probe import probe_text
from models.runtimes import TextBackend, onnx
from models.runtimes.cuda_graphs import NoGraphs
from models.runtimes.pytorch import Gpt2Backend, LstmBackend, WindowedLstmBackend
from workers.engines import Delta, Done
from workers.engines.text import TextEngine
from workers.scheduler import Scheduler

VOCABULARY = 97
CONTEXT = 160
CPU = torch.device("cpu")
TARGET = Target(model="m", version=1, variant="v")
GPT2 = Gpt2Config(VOCABULARY, CONTEXT, width=64, layers=2, heads=4)
STATEFUL = LstmConfig(VOCABULARY, (48, 32))
WORDS = LstmConfig(VOCABULARY, (40,), embedding=24)
WINDOWED = LstmConfig(VOCABULARY, (32,), recurrent_activation="hard_sigmoid", window=12)
KINDS = {Delta: ("tokens", "scores", "prompt_scores"), Done: ("finish_reason",)}


def _model(config: Gpt2Config | LstmConfig) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Gpt2(config) if isinstance(config, Gpt2Config) else LstmLanguageModel(config)
    for weight in model.parameters():
        weight.data *= 4  # peaked enough that a wrong number shows
    return model.eval().requires_grad_(False)


def _pytorch(config: Gpt2Config | LstmConfig) -> TextBackend:
    model = _model(config)
    if isinstance(config, Gpt2Config):
        return Gpt2Backend(model, CPU)
    return WindowedLstmBackend(model, CPU) if config.window else LstmBackend(model, CPU)


def _with_graphs(config: Gpt2Config | LstmConfig) -> TextBackend:
    """What runs on a GPU, without the recording."""
    model = _model(config)
    if isinstance(config, Gpt2Config):
        text = Gpt2Backend(model, CPU)
        text.use_graphs(NoGraphs(), 8)
        return text
    recurrent = LstmBackend(model, CPU)
    recurrent.use_graphs(model, NoGraphs(), 8)
    return recurrent


PYTORCH = [GPT2, STATEFUL, WORDS, WINDOWED]


class Visit(NamedTuple):
    """A request, the call before which it comes, and the call before which it is taken back, if it is."""

    request: TextRequest
    arrival: int
    removal: int | None


plain_requests = st.builds(
    TextRequest,
    target=st.just(TARGET),
    seed=st.integers(0, 2**63 - 1),
    prompt_tokens=st.integers(1, 70).flatmap(
        lambda length: st.integers(0, VOCABULARY - 1).map(
            lambda first: tuple((first + 7 * place * place) % VOCABULARY for place in range(length))
        )
    ),
    max_tokens=st.integers(1, 30),
    temperature=st.sampled_from([1.0, 1.0, 0.0, 0.7]),
    stop_token_ids=st.sampled_from([(), (), (3, 4, 5)]),
    n=st.sampled_from([1, 1, 2]),
)
shaped_requests = st.builds(
    lambda plain, **more: plain.model_copy(update=more),
    plain_requests,
    top_k=st.sampled_from([0, 0, 0, 5, 300]),
    top_p=st.sampled_from([1.0, 1.0, 0.8]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    no_repeat_ngram_size=st.sampled_from([0, 0, 2]),
    num_beams=st.sampled_from([1, 1, 1, 3]),
    echo=st.booleans(),
    logprobs=st.sampled_from([None, None, 2]),
)
visits = st.builds(
    Visit, plain_requests | shaped_requests, st.integers(0, 12), st.none() | st.none() | st.integers(1, 20)
)


def _run(engine: TextEngine, company: list[Visit]) -> dict[str, dict[tuple[int, str], list[Any]]]:
    """What each request that stayed got: tokens, scores and endings by choice and kind."""
    scheduler = Scheduler({"m": engine})
    stays = [str(number) for number, visit in enumerate(company) if visit.removal is None]
    got: dict[str, dict[tuple[int, str], list[Any]]] = {job_id: {} for job_id in stays}
    call = 0
    while scheduler.busy or call <= max(visit.arrival for visit in company):
        for number, visit in enumerate(company):
            if visit.arrival == call:
                scheduler.submit("m", str(number), visit.request)
            if visit.removal == call:
                scheduler.cancel(str(number))
        scheduler.admit(lambda job_id, error: pytest.fail(f"{job_id}: {error}"))
        events = engine.collect(engine.launch()).events if engine.busy else []
        for event in events:
            if event.job_id not in got:
                continue
            assert isinstance(event, Delta | Done)
            for kind in KINDS[type(event)]:
                brought = vars(event)[kind]
                parts = got[event.job_id].setdefault((event.choice, kind), [])
                parts.extend(brought if isinstance(brought, list) else [brought])
        call += 1
    assert engine.free == engine.capacity
    return got


def _search_for_counterexamples(backend: TextBackend, context_tokens: int | None) -> None:
    assert probe_text(backend, context_tokens).batch_invariant

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(visits, min_size=2, max_size=12), st.sampled_from([0.0, 0.005]))
    def nobody_is_changed_by_company(company: list[Visit], call_seconds: float) -> None:
        together = _run(TextEngine(backend, None, context_tokens, call_seconds=call_seconds), company)
        for job_id, texts in together.items():
            alone = Visit(company[int(job_id)].request, 0, None)
            assert _run(TextEngine(backend, None, context_tokens), [alone])["0"] == texts

    nobody_is_changed_by_company()


@pytest.mark.parametrize("config", PYTORCH, ids=["gpt2", "characters", "words", "windowed"])
def test_texts_of_pytorch_variants_are_the_same_in_any_company(config):
    _search_for_counterexamples(_pytorch(config), CONTEXT if config is GPT2 else None)


@pytest.mark.parametrize("config", [GPT2, STATEFUL], ids=["gpt2", "characters"])
def test_texts_that_graphs_write_are_the_same_in_any_company(config):
    _search_for_counterexamples(_with_graphs(config), CONTEXT if config is GPT2 else None)


@pytest.mark.parametrize("config", [GPT2, STATEFUL, WORDS], ids=["gpt2", "characters", "words"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_texts_of_onnx_variants_are_the_same_in_any_company(tmp_path, config, precision):
    pytest.importorskip("onnxruntime")
    from safetensors.torch import save_file

    from contracts.bundle import GRAPHS, WEIGHTS, WRITERS
    from export.onnx_gpt2 import write_onnx_gpt2
    from export.onnx_lstm import write_onnx_lstm

    if precision == "int8" and not onnx.multiplies_int8_exactly():
        pytest.skip("this processor has no VNNI")
    save_file(_model(config).state_dict(), tmp_path / WEIGHTS)
    (write_onnx_gpt2 if config is GPT2 else write_onnx_lstm)(tmp_path, config, precision)
    graph = tmp_path / GRAPHS[precision]
    if config is GPT2:
        return _search_for_counterexamples(onnx.OnnxGpt2Backend(graph, config), CONTEXT)
    writer_graph = tmp_path / WRITERS[precision]
    return _search_for_counterexamples(onnx.OnnxLstmBackend(graph, config, writer_graph=writer_graph), None)

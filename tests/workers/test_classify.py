"""The classifying engine: logits are the same in any company, the oldest text never waits, a bad one fails alone."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.enqueue import JOB_FUNCTION
from contracts.errors import EngineFailed, InvalidRequest, StoreError, from_record
from contracts.requests import ClassifyRequest, ImageRequest, TokenisedText
from contracts.results import ClassifyResult
from models.runtimes import length_bucket
from workers.engines import Delta, Done, Failed
from workers.engines.classify import ClassifyEngine
from workers.engines.loading import load_model
from workers.flight import take_off
from workers.leases import Lease
from workers.local import LocalModel
from workers.scheduler import Scheduler
from workers.tasks import _model, perform

CPU = torch.device("cpu")
CONTEXT = 70


@pytest.fixture(scope="module", params=["pytorch:fp32", "onnx:fp32"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def bundle(classifiers):
    return classifiers.open("mood")


@pytest.fixture(scope="module")
def make_engine(bundle, variant):
    engine: Any = load_model(bundle, variant, CPU).engine
    backend = engine._backend
    return lambda call_seconds=0.02: ClassifyEngine(backend, call_seconds)


def request_of(bundle, *texts, **changes):
    read = tuple(TokenisedText(windows=(tuple(text),)) for text in texts)
    return ClassifyRequest(target=bundle.target(), texts=read, **{"threshold": 0.5, **changes})


def text_of(number, length):
    return [(11 + number * 7 + place * place) % 90 for place in range(length)]


def run_all(engine, visits):
    """Logits by job and place; `visits` are (request, call before which it comes, call at which it leaves)."""
    scheduler: Any = Scheduler({"m": engine})
    got: dict[str, dict[int, list[float]]] = {}
    done: list[str] = []
    call = 0
    while scheduler.busy or call <= max(arrival for _, arrival, _ in visits):
        for number, (request, arrival, removal) in enumerate(visits):
            if arrival == call:
                scheduler.submit("m", str(number), request)
            if removal == call:
                scheduler.cancel(str(number))
        scheduler.admit(lambda job_id, error: pytest.fail(f"{job_id}: {error}"))
        for event in engine.collect(engine.launch()).events if engine.busy else []:
            if isinstance(event, Delta):
                assert event.choice not in got.setdefault(event.job_id, {}), "a text was read twice"
                got[event.job_id][event.choice] = event.logits
            else:
                assert isinstance(event, Done)
                done.append(event.job_id)
        call += 1
    assert engine.free == engine.capacity
    assert len(set(done)) == len(done)
    return got


texts = st.builds(text_of, st.integers(0, 9), st.integers(1, CONTEXT))
visits = st.tuples(
    st.lists(texts, min_size=1, max_size=6), st.integers(0, 5), st.none() | st.none() | st.integers(1, 8)
)


def test_logits_are_the_same_in_any_company(bundle, make_engine):
    alone: dict[tuple[int, ...], list[float]] = {}

    def logits_alone(text):
        key = tuple(text)
        if key not in alone:
            alone[key] = run_all(make_engine(), [(request_of(bundle, text), 0, None)])["0"][0]
        return alone[key]

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(visits, min_size=1, max_size=12), st.sampled_from([0.0, 0.001, 10.0]))
    def nobody_is_changed_by_company(company, call_seconds):
        asked = [(request_of(bundle, *each), arrival, removal) for each, arrival, removal in company]
        together = run_all(make_engine(call_seconds), asked)
        for number, (each, _, removal) in enumerate(company):
            found = together.get(str(number), {})
            assert removal is not None or sorted(found) == list(range(len(each)))
            assert all(found[place] == logits_alone(each[place]) for place in found)

    nobody_is_changed_by_company()


class Watched:
    """A real backend that keeps what its calls were given."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.calls: list[list[list[int]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def classify(self, texts):
        self.calls.append(texts)
        return self._backend.classify(texts)


@pytest.fixture
def watched(make_engine):
    def make(call_seconds=10.0):
        engine = make_engine(call_seconds)
        engine._backend = Watched(engine._backend)
        return engine

    return make


def test_every_call_reads_the_oldest_text_and_others_of_its_length(bundle, watched):
    engine = watched()
    rng = random.Random(3)
    waiting = [text_of(number, rng.randint(1, CONTEXT)) for number in range(40)]
    for number, text in enumerate(waiting):
        engine.add(str(number), request_of(bundle, text))
    while engine.busy:
        oldest = waiting[0]
        engine.launch()
        texts = engine._backend.calls[-1]
        assert texts[0] == oldest
        assert {length_bucket(len(text)) for text in texts} == {length_bucket(len(oldest))}
        for text in texts:
            waiting.remove(text)
    assert waiting == []
    assert max(len(texts) for texts in engine._backend.calls) == 8  # 256 tokens of the shortest bucket


def test_a_call_takes_no_more_texts_than_it_has_time_for(bundle, watched):
    engine = watched(call_seconds=0.0)
    engine.add("a", request_of(bundle, *(text_of(number, 9) for number in range(20))))
    while engine.busy:
        engine.launch()
    assert [len(texts) for texts in engine._backend.calls] == [1] * 20


class Tight(Watched):
    """On a device with memory for so many texts."""

    def __init__(self, backend: Any, texts: int) -> None:
        super().__init__(backend)
        self._most = texts

    def classify(self, texts):
        if len(texts) > self._most:
            raise MemoryError("std::bad_alloc")
        return super().classify(texts)


def test_where_memory_runs_out_fewer_texts_are_read_at_once(bundle, make_engine):
    request = request_of(bundle, *(text_of(number, 9) for number in range(20)))
    expected = run_all(make_engine(), [(request, 0, None)])
    engine = make_engine(10.0)
    engine._backend = Tight(engine._backend, 2)
    assert run_all(engine, [(request, 0, None)]) == expected
    assert max(map(len, engine._backend.calls)) == 2


def test_a_text_for_which_there_is_no_memory_at_all_fails_its_request(bundle, make_engine):
    engine = make_engine()
    engine._backend = Tight(engine._backend, 0)
    engine.add("a", request_of(bundle, [1, 2], [3, 4]))
    events = [event for _ in range(9) if engine.busy for event in engine.launch().events]
    (failed,) = events
    assert isinstance(failed, Failed)
    assert "not enough memory" in str(from_record(failed.record))
    assert engine.free == engine.capacity


def test_what_else_a_call_raises_is_not_swallowed(bundle, make_engine):
    class Broken(Watched):
        def classify(self, texts):
            raise RuntimeError("illegal instruction")

    engine = make_engine()
    engine._backend = Broken(engine._backend)
    engine.add("a", request_of(bundle, [1, 2]))
    with pytest.raises(RuntimeError, match="illegal"):
        engine.launch()
    assert engine.jobs == ["a"]


def test_a_request_whose_logits_are_not_numbers_fails_alone(bundle, make_engine):
    class Spoiling(Watched):
        def classify(self, texts):
            logits = super().classify(texts).clone()
            logits[[text[0] == 66 for text in texts]] = torch.nan
            return logits

    good = request_of(bundle, [1, 2, 3], [4, 5])
    bad = request_of(bundle, [1, 2], [66, 2], [3, 4], [66, 3])
    expected = run_all(make_engine(), [(good, 0, None)])["0"]
    engine = make_engine(10.0)
    engine._backend = Spoiling(engine._backend)
    engine._token_seconds = 1e-9  # all in one call
    engine.add("bad", bad)
    engine.add("good", good)
    events = [event for _ in range(9) if engine.busy for event in engine.launch().events]
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.job_id == "bad"
    assert isinstance(from_record(failed.record), EngineFailed)
    assert {e.choice: e.logits for e in events if isinstance(e, Delta) and e.job_id == "good"} == expected
    assert [event.job_id for event in events if isinstance(event, Done)] == ["good"]


@pytest.mark.parametrize(
    ("text", "fault"), [([1] * (CONTEXT + 1), f"has {CONTEXT + 1} tokens"), ([1, 10**6], "Token 1000000")]
)
def test_a_text_that_the_model_cannot_read_is_refused(bundle, make_engine, text, fault):
    engine = make_engine()
    with pytest.raises(InvalidRequest, match=fault):
        engine.add("a", request_of(bundle, [1, 2], text))
    assert not engine.busy


def test_a_request_of_another_task_is_refused(bundle, make_engine):
    with pytest.raises(InvalidRequest, match="classifier"):
        make_engine().add("a", ImageRequest(target=bundle.target(), seed=1, count=1))


# Alone, and as a stock worker runs it


@pytest.mark.parametrize("name", ["genres", "mood"])
def test_the_variants_of_a_bundle_agree(classifiers, name):
    bundle = classifiers.open(name)
    request = request_of(bundle, *(text_of(number, 3 + 9 * number) for number in range(7)))
    results = [LocalModel(bundle, each).labels(request) for each in ("pytorch:fp32", "onnx:fp32")]
    assert results[0].fingerprint != results[1].fingerprint
    for one, other in zip(results[0].classifications, results[1].classifications, strict=True):
        scores = [{score.label: score.score for score in each.scores} for each in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_threshold_and_top_k_choose_from_the_same_scores(classifiers):
    bundle = classifiers.open("genres")
    local = LocalModel(bundle)
    (whole,) = local.labels(request_of(bundle, text_of(1, 9))).classifications
    assert sorted(score.label for score in whole.scores) == sorted(bundle.labels().names)
    values = [score.score for score in whole.scores]
    assert values == sorted(values, reverse=True)
    (part,) = local.labels(request_of(bundle, text_of(1, 9), threshold=values[2], top_k=1)).classifications
    assert part.scores == whole.scores[:1]
    assert part.labels == [score.label for score in whole.scores[:3]]


def test_the_scores_of_a_text_in_windows_are_the_mean_of_what_each_says(classifiers):
    bundle = classifiers.open("genres")
    local = LocalModel(bundle)
    windows = tuple(tuple(text_of(number, 20)) for number in range(3))
    alone = [scores_of(local.labels(request_of(bundle, window))) for window in windows]
    texts = (TokenisedText(windows=windows[:1]), TokenisedText(windows=windows), TokenisedText(windows=windows[2:]))
    result = local.labels(ClassifyRequest(target=bundle.target(), texts=texts))
    together = result.classifications[1]
    assert (together.windows, together.tokens) == (3, 60)
    means = {label: sum(scores[label] for scores in alone) / 3 for label in alone[0]}
    assert {score.label: score.score for score in together.scores} == pytest.approx(means, abs=1e-12)
    for place, window in ((0, 0), (2, 2)):
        assert {score.label: score.score for score in result.classifications[place].scores} == alone[window]


def scores_of(result):
    return {score.label: score.score for score in result.classifications[0].scores}


def test_a_stock_worker_gives_the_same_result(classifiers, monkeypatch):
    monkeypatch.setenv("KAMISHIBAI_STORE", str(classifiers.root))
    _model.cache_clear()
    bundle = classifiers.open("genres")
    request = request_of(bundle, text_of(1, 9), text_of(2, 40))
    assert JOB_FUNCTION.endswith("perform")
    result = ClassifyResult.model_validate(perform(request.model_dump(mode="json")))
    assert result == LocalModel(bundle).labels(request)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_a_spoiled_payload_is_run_or_refused_in_one_line(classifiers, monkeypatch, spoiled, data):
    monkeypatch.setenv("KAMISHIBAI_STORE", str(classifiers.root))
    bundle = classifiers.open("genres")
    payload = request_of(bundle, text_of(1, 9), text_of(2, 40), top_k=3).model_dump(mode="json")
    raw = data.draw(spoiled([JOB_FUNCTION, None, [payload], {}]))
    lease = Lease("job", "execution", bundle.target().queue(), zlib.compress(raw), 60.0)
    try:
        flight = take_off(lease, bundle, "fingerprint")
        perform(flight.request.model_dump(mode="json"))
    except (InvalidRequest, StoreError) as refusal:
        said = str(refusal)
    else:
        return
    assert 20 < len(said) <= 2000
    assert said.isprintable()


def test_a_flight_ends_with_what_the_engine_brought_last(classifiers):
    """A job that starts again in a new engine begins anew."""
    bundle = classifiers.open("genres")
    request = request_of(bundle, [2, 9, 3], [2, 8, 3])
    data = zlib.compress(json.dumps([JOB_FUNCTION, None, [request.model_dump(mode="json")], {}]).encode())
    flight = take_off(Lease("job", "execution", bundle.target().queue(), data, 60.0), bundle, "fp")
    flight.take({"choice": 1, "logits": [9.0] * 5})
    flight.restart()
    flight.take({"choice": 0, "logits": [-9.0, 0.0, 1.0, 2.0, 3.0]})
    assert not flight.complete
    flight.take({"choice": 1, "logits": [0.0, -1.0, -2.0, -3.0, -4.0]})
    assert (flight.complete, flight.to_publish()) == (True, [])
    result = flight.land().result
    assert isinstance(result, ClassifyResult)
    assert [each.labels for each in result.classifications] == [["Sci-Fi", "Film-Noir", "Drama", "Comedy"], ["Action"]]


def test_a_manifest_that_names_other_labels_than_the_model_has_is_refused(classifiers, tmp_path):
    shutil.copytree(classifiers.root / "genres", tmp_path / "genres")
    manifest = tmp_path / "genres" / "1" / "manifest.json"
    fields = json.loads(manifest.read_text())
    fields["labels"]["names"] = ["only one"]
    manifest.write_text(json.dumps(fields))
    bundle = type(classifiers)(tmp_path).open("genres")
    with pytest.raises(StoreError, match="it has 5 labels, not 1"):
        load_model(bundle, "pytorch:fp32", CPU)

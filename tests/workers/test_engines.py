"""The engines: a request's output is its own, whoever shares the batch."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from contracts.requests import ImageRequest, TextRequest
from contracts.store import Store
from export.tfjs import import_tfjs
from models import noise
from workers.engines import Delta, Done, Failed
from workers.engines.loading import load_model
from workers.engines.memory import Allowance
from workers.scheduler import Scheduler


@pytest.fixture(scope="module")
def bundles(store):
    return {name: store.open(name) for name in store.names()}


def engine_of(bundle, call_seconds=0.02):
    engine = load_model(bundle, "pytorch:fp32", torch.device("cpu")).engine
    vars(engine)["_call_seconds"] = call_seconds
    return engine


def text_request(bundle, number):
    """Requests that differ in everything."""
    rng = random.Random(number)
    length = rng.choice([1, 2, 5, 31, 32, 33, 34, 64, 65, 100])
    vocabulary = bundle.tokenizer().vocabulary_size
    num_beams = rng.choice([1, 1, 1, 1, 2, 5])
    return TextRequest(
        target=bundle.target(),
        seed=rng.randrange(2**63),
        prompt_tokens=tuple(rng.randrange(1, vocabulary) for _ in range(length)),
        max_tokens=rng.randint(1, 60),
        temperature=rng.choice([0.0, 0.7, 1.0, 1.5]),
        top_k=rng.choice([0, 0, 3, 40, 1000]),
        top_p=rng.choice([1.0, 0.9, 0.5]),
        min_p=rng.choice([0.0, 0.0, 0.1]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.4]),
        presence_penalty=rng.choice([0.0, 0.0, 1.5]),
        frequency_penalty=rng.choice([0.0, 0.0, -1.0]),
        no_repeat_ngram_size=rng.choice([0, 0, 2, 3]),
        logit_bias=rng.choice([(), ((2, 4.0), (5, -100.0))]),
        min_tokens=rng.choice([0, 0, 3]),
        stop_token_ids=rng.choice([(), (3, 4)]),
        ignore_eos=rng.choice([False, True]),
        n=rng.choice([1, 1, 1, 2, 5]) if num_beams == 1 else rng.randint(1, num_beams),
        num_beams=num_beams,
        length_penalty=rng.choice([1.0, 0.0, 2.0]),
        early_stopping=rng.choice([False, True, "never"]),
        echo=rng.choice([False, True]),
        logprobs=rng.choice([None, None, 0, 3]),
    )


def picture_request(bundle, number):
    """Requests for pictures of every manner."""
    length, count = bundle.manifest.config["latent"], 2 + number % 9
    latents = tuple(
        tuple(((number + place) * 7919 + axis) % 97 / 30 - 1.5 for axis in range(length)) for place in range(count)
    )
    manners: tuple[dict[str, Any], ...] = (
        {},
        {"truncation": 0.6},
        {"to_seed": number + 1},
        {"to_seed": 1, "truncation": 0.3},
        {"latents": latents},
    )
    return ImageRequest(target=bundle.target(), seed=number * 7, count=count, **manners[number % 5])


def run_all(engine, requests, arrivals):
    """Run requests, number i entering before call arrivals[i].

    Returns tokens or pixels by (request, choice); under (request, -1 - choice) stand the scores of the tokens, under
    (request, -99) those of the prompt, under (request, -200 - choice) that of a text found by beams.
    """
    scheduler = Scheduler({"model": engine})
    output: dict[tuple[str, int], list[object]] = {}
    done: dict[str, object] = {}
    call = 0
    while scheduler.busy or call <= max(arrivals.values()):
        for name, request in requests.items():
            if arrivals[name] == call:
                scheduler.submit("model", name, request)
        scheduler.admit(done.__setitem__)
        for _ in scheduler.due():
            for event in engine.collect(engine.launch()).events:
                if isinstance(event, Delta):
                    output.setdefault((event.job_id, event.choice), []).extend([*event.tokens, *event.pictures])
                    output.setdefault((event.job_id, -1 - event.choice), []).extend(event.scores)
                    output.setdefault((event.job_id, -99), []).extend(event.prompt_scores)
                    output.setdefault((event.job_id, -200 - event.choice), []).extend(
                        [event.beam_score] if event.beam_score else []
                    )
                elif isinstance(event, Done):
                    done[event.job_id] = event.finish_reason
                else:
                    assert not isinstance(event, Failed)
        call += 1
    return output, done


@pytest.mark.parametrize("name", ["lstm", "gpt2"])
def test_texts_are_the_same_alone_and_in_any_company(bundles, name):
    bundle = bundles[name]
    requests = {str(number): text_request(bundle, number) for number in range(40)}
    alone: dict[tuple[str, int], list[object]] = {}
    engine = engine_of(bundle)
    for number, request in requests.items():
        alone |= run_all(engine, {number: request}, {number: 0})[0]
    for trial in range(2):
        rng = random.Random(trial)
        arrivals = {number: rng.randrange(20) for number in requests}
        together, _ = run_all(engine_of(bundle, rng.choice([0.0, 0.002, 0.02])), requests, arrivals)
        assert together == alone


def test_pictures_are_the_same_alone_and_in_any_company(bundles):
    bundle = bundles["faces"]
    requests = {str(n): picture_request(bundle, n) for n in range(48)}
    engine = engine_of(bundle)
    alone: dict[tuple[str, int], list[object]] = {}
    for number, request in requests.items():
        alone |= run_all(engine, {number: request}, {number: 0})[0]
    assert [len(alone[number, 0]) for number in requests] == [request.count for request in requests.values()]
    for call_seconds in (0.02, 0.0):  # 0: one picture a call, so every request is split
        arrivals = {number: int(number) // 4 for number in requests}
        together, _ = run_all(engine_of(bundle, call_seconds), requests, arrivals)
        assert together == alone


def test_a_picture_of_a_given_latent_is_that_of_the_seed_which_draws_it(bundles):
    bundle = bundles["faces"]
    drawn = ImageRequest(target=bundle.target(), seed=5, count=3)
    latents = tuple(map(tuple, noise.latents(5, [0, 1, 2], bundle.manifest.config["latent"]).tolist()))
    output, _ = run_all(
        engine_of(bundle),
        {"drawn": drawn, "given": drawn.model_copy(update={"latents": latents, "seed": 0})},
        {"drawn": 0, "given": 0},
    )
    assert output["given", 0] == output["drawn", 0]


def test_frames_lead_from_the_first_picture_of_a_seed_to_that_of_another(bundles):
    bundle = bundles["faces"]

    def draw(**fields):
        request = ImageRequest(target=bundle.target(), **fields)
        return run_all(engine_of(bundle), {"it": request}, {"it": 0})[0]["it", 0]

    frames = draw(seed=3, to_seed=4, count=9, truncation=0.8)
    assert (frames[:1], frames[-1:]) == tuple(draw(seed=seed, count=1, truncation=0.8) for seed in (3, 4))
    assert len({*frames}) == 9


def test_a_latent_of_another_length_is_refused_and_harms_nobody_else(bundles):
    bundle = bundles["faces"]
    good = ImageRequest(target=bundle.target(), seed=1, count=2)
    scheduler = Scheduler({"model": engine_of(bundle)})
    refused: dict[str, Exception] = {}
    scheduler.submit("model", "short", good.model_copy(update={"latents": ((0.5,), (0.5,))}))
    scheduler.submit("model", "good", good)
    scheduler.admit(refused.__setitem__)
    length = bundle.manifest.config["latent"]
    assert [str(error) for error in refused.values()] == [f"A latent has 1 numbers; give {length} for each picture."]
    assert list(refused) == ["short"]


def test_a_large_order_is_split_and_lets_those_behind_it_go_first(bundles):
    bundle = bundles["faces"]
    engine = engine_of(bundle)
    counts = {"large": 500, "larger": 900, "one": 1, "few": 5, "full": 64}
    requests = {name: ImageRequest(target=bundle.target(), seed=9, count=count) for name, count in counts.items()}
    output, done = run_all(engine, requests, {"large": 0, "larger": 0, "one": 1, "few": 2, "full": 3})
    assert {name: len(output[name, 0]) for name in counts} == counts
    assert list(done) == ["one", "few", "full", "large", "larger"], "in the order in which they ended"
    assert output["larger", 0][:500] == output["large", 0]


def test_a_removed_request_leaves_the_others_alone(bundles):
    bundle = bundles["gpt2"]
    engine = engine_of(bundle, call_seconds=0.0)
    request = text_request(bundle, 3).model_copy(update={"max_tokens": 30, "n": 1, "logprobs": None})
    alone, _ = run_all(engine, {"kept": request}, {"kept": 0})
    engine.add("kept", request)
    engine.add("removed", text_request(bundle, 4))
    tokens = []
    for step in range(100):
        if step == 5:
            engine.remove("removed")
            engine.add("late", text_request(bundle, 5))  # takes the freed slot
        for event in engine.collect(engine.launch()).events if engine.busy else []:
            if event.job_id == "kept" and isinstance(event, Delta):
                tokens += event.tokens
    assert tokens == alone["kept", 0]


def test_a_text_whose_logits_are_not_numbers_fails_alone_and_leaves_nothing_in_its_slots(bundles):
    """NaN, once in a cache, spoils whoever has the slot next, even at positions that are masked."""
    bundle = bundles["gpt2"]

    def request(number, length, **changes):
        prompt = tuple(5 + (number + place) % 50 for place in range(length))
        fields = {"max_tokens": 20, "temperature": number % 2, "top_k": number % 3 * 300, "top_p": 0.9} | changes
        return TextRequest(target=bundle.target(), seed=number, prompt_tokens=prompt, ignore_eos=True, **fields)

    good = {f"good {number}": request(number, 5 + number) for number in range(60)}
    bad = {
        "longer": request(1, 90),
        "scored": request(2, 104, echo=True, logprobs=1, max_tokens=0),
        "choices": request(3, 95, n=3),
        "beams": request(4, 92, num_beams=3),
    }
    expected, _ = run_all(engine_of(bundle), good, dict.fromkeys(good, 0))
    engine: Any = engine_of(bundle)
    engine._slots, engine._allowance = [None] * 12, Allowance(12)  # each is used again and again
    engine._backend._model.positions.weight.data[100] = torch.nan
    scheduler = Scheduler({"model": engine})
    got: dict[str, list[int]] = {name: [] for name in good}
    failed = {}
    for name, each in sorted((good | bad).items(), key=lambda entry: entry[1].seed):
        scheduler.submit("model", name, each)
    while scheduler.busy:
        scheduler.admit(lambda name, error: pytest.fail(f"{name}: {error}"))
        for event in engine.collect(engine.launch()).events:
            if isinstance(event, Failed):
                failed[event.job_id] = event.record
            elif isinstance(event, Delta) and event.job_id in good:
                got[event.job_id] += event.tokens
    assert {name: got[name] for name in good} == {name: expected[name, 0] for name in good}
    assert set(failed) == set(bad)
    assert all("not numbers" in record for record in failed.values())


def test_max_tokens_and_the_end_token_end_a_text(bundles):
    bundle = bundles["gpt2"]
    engine = engine_of(bundle)
    reasons = set()
    for number in range(12):
        tokens = text_request(bundle, number).prompt_tokens
        request = TextRequest(
            target=bundle.target(), seed=number, prompt_tokens=tokens, max_tokens=100, temperature=1.5
        )
        output, done = run_all(engine, {"x": request}, {"x": 0})
        reasons.add(done["x"])
        assert (output["x", 0][-1] == bundle.tokenizer().end_token) == (done["x"] == "stop")
        assert len(output["x", 0]) == 100 or done["x"] == "stop"
    assert "length" in reasons


def test_a_call_is_bounded_and_several_steps_share_one(bundles):
    engine = engine_of(bundles["lstm"], call_seconds=0.3)
    target = bundles["lstm"].target()
    engine.add("x", TextRequest(target=target, seed=1, max_tokens=100_000, prompt_tokens=(5,)))
    call = engine.collect(engine.launch())
    assert call.units > 1
    assert call.batch_size == 1
    assert call.seconds < 10


def test_requests_wait_for_a_slot_instead_of_failing(bundles):
    bundle = bundles["lstm"]
    engine = engine_of(bundle)
    requests = {str(n): text_request(bundle, n) for n in range(engine.capacity + 20)}
    output, done = run_all(engine, requests, dict.fromkeys(requests, 0))
    assert set(done) == set(requests)
    assert {(number, request.n - 1) for number, request in requests.items()} <= set(output)


def test_a_request_for_the_other_task_is_refused_by_name(bundles):
    refused: dict[str, Exception] = {}
    scheduler = Scheduler({"model": engine_of(bundles["faces"])})
    scheduler.submit("model", "wrong", text_request(bundles["lstm"], 0))
    scheduler.submit("model", "right", ImageRequest(target=bundles["faces"].target(), seed=1, count=1))
    scheduler.admit(refused.__setitem__)
    assert "text request" in str(refused["wrong"])
    assert scheduler.busy


def plain(bundle, **changes):
    fields = {"target": bundle.target(), "seed": 1, "prompt_tokens": tuple(range(5, 45)), "max_tokens": 12} | changes
    return TextRequest(**fields)


@pytest.mark.parametrize("name", ["lstm", "gpt2"])
def test_choice_i_is_the_text_of_seed_and_i(bundles, name):
    bundle = bundles[name]
    output, _ = run_all(engine_of(bundle), {"x": plain(bundle, n=4)}, {"x": 0})
    texts = [output["x", choice] for choice in range(4)]
    assert len({tuple(text) for text in texts}) == 4
    single, _ = run_all(engine_of(bundle), {"x": plain(bundle)}, {"x": 0})
    assert texts[0] == single["x", 0], "more choices leave the first one as it is"


@pytest.mark.parametrize("name", ["lstm", "gpt2"])
def test_a_scored_prompt_has_the_log_probabilities_of_the_model(bundles, name):
    """Against scores of the same tokens when they are generated: forced by a bias that leaves raw scores alone."""
    bundle = bundles[name]
    prompt = tuple(int(token) for token in torch.randint(5, 40, (50,), generator=torch.Generator().manual_seed(1)))
    request = plain(bundle, prompt_tokens=prompt, echo=True, logprobs=2, max_tokens=0)
    engine = engine_of(bundle)
    engine.add("x", request)
    scores = []
    while engine.busy:
        for event in engine.collect(engine.launch()).events:
            scores += event.prompt_scores if isinstance(event, Delta) else []
    assert len(scores) == len(prompt) - 1
    for place in (1, 2, 31, 32, 33, 49):
        forced = plain(
            bundle, prompt_tokens=prompt[:place], logit_bias=((prompt[place], 100.0),), logprobs=2, max_tokens=1
        )
        output, _ = run_all(engine, {"x": forced}, {"x": 0})
        (token,), (score,) = output["x", 0], output["x", -1]
        assert token == prompt[place]
        assert score.logprob == pytest.approx(scores[place - 1].logprob, abs=1e-4)
        assert [i for i, _ in score.likeliest] == [i for i, _ in scores[place - 1].likeliest]


def test_an_impossible_request_is_refused_by_name_instead_of_waiting_for_ever(bundles):
    refused: dict[str, Exception] = {}
    engine = engine_of(bundles["gpt2"])
    scheduler = Scheduler({"model": engine})
    scheduler.submit("model", "too many", plain(bundles["gpt2"], n=16).model_copy(update={"n": engine.capacity + 1}))
    scheduler.submit("model", "too long", plain(bundles["gpt2"], max_tokens=250))
    scheduler.submit("model", "unknown token", plain(bundles["gpt2"], prompt_tokens=(5, 9999)))
    scheduler.admit(refused.__setitem__)
    assert "room for" in str(refused["too many"])
    assert "context" in str(refused["too long"])
    assert "9999" in str(refused["unknown token"])


def test_choices_that_do_not_fit_now_wait_together(bundles):
    engine = engine_of(bundles["lstm"])
    requests = {str(number): plain(bundles["lstm"], n=16, seed=number) for number in range(engine.capacity // 16 + 2)}
    output, done = run_all(engine, requests, dict.fromkeys(requests, 0))
    assert set(done) == set(requests)
    assert sum(choice >= 0 for _, choice in output) == 16 * len(requests)


def test_min_tokens_and_ignore_eos_keep_a_text_going(bundles):
    bundle = bundles["gpt2"]
    end = bundle.tokenizer().end_token
    eager = {"logit_bias": ((end, 100.0),), "max_tokens": 9, "temperature": 0.0}
    engine = engine_of(bundle)
    assert run_all(engine, {"x": plain(bundle, **eager)}, {"x": 0})[0]["x", 0] == [end]
    held, _ = run_all(engine, {"x": plain(bundle, min_tokens=4, **eager)}, {"x": 0})
    assert len(held["x", 0]) == 5
    assert held["x", 0].index(end) == 4
    ignored, _ = run_all(engine, {"x": plain(bundle, ignore_eos=True, **eager)}, {"x": 0})
    assert ignored["x", 0] == [end] * 9


@pytest.mark.data
def test_the_imported_shakespeare_model_scores_its_text_as_published(data_folder, tmp_path):
    """1.925 nats per character over all 99,933 windows of 60, through the engine that serves it."""
    corpus = data_folder / "oveddan_shakespeare.txt"
    bundle = import_tfjs(data_folder / "tfjs_shakespeare_lstm", corpus, Store(tmp_path), "shakespeare")
    tokens = tuple(bundle.tokenizer().encode(corpus.read_text(encoding="utf-8")))
    engine = engine_of(bundle, call_seconds=0.2)  # nobody else waits, and windows of many pieces run together
    # In pieces that overlap by the window, side by side in one batch; a piece's first 60 characters are only context.
    piece = 2000
    starts = range(0, len(tokens) - 60, piece)
    for start in starts:
        part = tokens[start : start + 60 + piece]
        request = TextRequest(target=bundle.target(), seed=0, prompt_tokens=part, max_tokens=0, echo=True, logprobs=0)
        engine.add(str(start), request)
    scores: dict[str, list[float]] = {str(start): [] for start in starts}
    while engine.busy:
        for event in engine.collect(engine.launch()).events:
            if isinstance(event, Delta):
                scores[event.job_id] += [score.logprob for score in event.prompt_scores]
    windows = [logprob for start in starts for logprob in scores[str(start)][59:]]
    assert len(windows) == 99_933
    assert -sum(windows) / len(windows) == pytest.approx(1.925, abs=0.005)

"""`kamishibai bench` beside a server that is none of ours: figures, honesty, files, and one line where it cannot."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from functools import partial

import pytest
from PIL import Image

from cli.bench.results import read_results


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("KAMISHIBAI_API_KEY", raising=False)


@pytest.fixture
def bench(kamishibai, foreign):
    """The command on the foreign server, and what its last line says."""

    def run(*options, model="texts"):
        ended = kamishibai("bench", foreign.url, "--model", model, "--warmup", 0, "--new-tokens", 6, *options)
        assert ended.status == 0, ended.err
        return ended.out, read_results(ended.out.splitlines()[-1].encode(), "the last line")

    return run


def test_a_foreign_server_is_measured_without_a_field_that_it_does_not_know(bench, foreign):
    out, results = bench("--requests", 12, "--concurrency", "1,3", "--set", "temperature=0.5")
    assert [level.load.concurrency for level in results.levels] == [1, 3]
    for level in results.levels:
        (model,) = level.models
        assert (level.requests, level.succeeded, level.errors) == (12, 12, ())
        assert level.rates.requests == pytest.approx(12 / level.seconds)
        assert level.rates.output_tokens == pytest.approx(72 / level.seconds)
        assert (model.counted, model.output_tokens_mean, model.prompt_tokens_mean) == ("pieces", 6, None)
        latencies = model.latencies
        assert latencies.between_pieces.count == 12 * 5
        assert latencies.time_to_first_token.p50 <= latencies.end_to_end.p50
        assert (level.repeats.repeated, level.repeats.changed) == (12, 0)
    assert results.workload.prompts is None
    assert "texts: the server gives no usage; its tokens are pieces of streams" in out
    assert "4 characters were taken for a token" in out
    assert "0 of 24 answers changed under load" in out
    assert all(body["temperature"] == 0.5 for body in foreign.bodies if "stream" in body)
    assert results.characters_per_token == (None,)


def test_the_same_seed_asks_the_same_and_another_one_does_not(bench, foreign):
    def asked(seed):
        foreign.bodies.clear()
        bench("--requests", 8, "--seed", seed, "--check", 0, "--new-tokens", "2-9", "--concurrency", 2)
        return sorted(json.dumps(body, sort_keys=True) for body in foreign.bodies[2:])  # behind sample and rehearsal

    first = asked(1)
    assert first == asked(1)
    assert len(set(first)) == 8
    assert set(first).isdisjoint(asked(2))
    assert {body["max_tokens"] for body in foreign.bodies} <= {1, *range(2, 10)}


def test_usage_is_believed_where_it_is_told_and_prompts_get_the_length_that_was_asked_for(bench, foreign):
    foreign.counts = True
    _, results = bench("--requests", 4, "--no-stream", "--prompt-tokens", "20-30")
    (model,) = results.levels[0].models
    assert (model.counted, model.output_tokens_mean) == ("usage", 6)
    assert model.latencies.time_to_first_token is None
    lengths = [len(body["prompt"]) for body in foreign.bodies[2:6]]  # its tokens are characters
    assert set(lengths) <= set(range(20, 31))
    assert len(set(lengths)) > 1
    assert results.characters_per_token == (1.0,)


def test_waits_behind_a_server_that_stands_still_are_seen_by_all_who_came_meanwhile(bench, foreign):
    """A client that waits for its answer before it asks again would have one slow request among forty."""
    foreign.at[3] = partial(time.sleep, 0.4)  # sample and rehearsal come first
    _, results = bench("--rate", 100, "--requests", 40, "--check", 0)
    (model,) = results.levels[0].models
    assert model.latencies.end_to_end.most >= 0.4
    assert model.latencies.end_to_end.p50 >= 0.1
    assert model.latencies.time_to_first_token.p50 >= 0.1


@pytest.mark.parametrize("load", [["--concurrency", "2,1"], ["--rate", "200,1"]])
def test_ctrl_c_shows_what_was_measured_so_far(kamishibai, foreign, load):
    foreign.at[20] = partial(os.kill, os.getpid(), signal.SIGINT)
    options = ["--model", "texts", "--duration", 100, "--new-tokens", 2, "--warmup", 2, *load]
    ended = kamishibai("bench", foreign.url, *options)
    results = read_results(ended.out.splitlines()[-1].encode(), "")
    assert (ended.status, results.interrupted) == (130, True)
    assert len(results.levels) == 1
    assert 10 <= results.levels[0].succeeded < 100
    assert "The run was stopped" in ended.out


def test_ctrl_c_before_the_first_level_shows_that_there_is_none(kamishibai, foreign, tmp_path):
    foreign.at[5] = partial(os.kill, os.getpid(), signal.SIGINT)
    ended = kamishibai("bench", foreign.url, "--model", "texts", "--warmup", 100, "--output", tmp_path / "report")
    results = read_results((tmp_path / "report" / "results.json").read_bytes(), "")
    assert (ended.status, results.interrupted, results.levels) == (130, True, ())


def test_errors_are_counted_by_kind_and_left_out_of_rates(bench, foreign):
    foreign.refuses_after, foreign.breaks_every = 22, 5  # sample and rehearsal come first
    out, results = bench("--requests", 30, "--concurrency", 1, "--check", 0, "--objective", "ttft:9,e2e:10")
    (level,) = results.levels
    assert {each.kind: each.count for each in level.errors} == {"429 rate_limit": 10, "broken stream": 4}
    assert (level.requests, level.succeeded) == (30, 16)
    assert (level.goodput.met, level.goodput.share) == (16, 16 / 30)
    assert sum(second.errors for second in level.series) == 14
    assert re.search(r"10 +429 rate_limit +Too much\.", out)
    assert "was not checked" in out


def test_a_server_that_heeds_no_seed_is_not_said_to_change_under_load(bench, foreign):
    foreign.draws_until = 1000
    out, results = bench("--requests", 5)
    repeats = results.levels[0].repeats
    assert (repeats.repeated, repeats.changed, repeats.unsteady) == (5, 0, 5)
    assert "5 of 5 answers are others each time, also alone" in out


def test_answers_that_are_others_alone_changed_under_load(bench, foreign):
    foreign.draws_until = 2 + 4  # behind sample and rehearsal, four of the ten requests
    out, results = bench("--requests", 10, "--concurrency", 1, "--check", 5)
    repeats = results.levels[0].repeats
    assert (repeats.repeated, repeats.changed, repeats.unsteady) == (5, 2, 0)
    assert "2 of 5 answers changed under load" in out


def test_a_mix_is_drawn_by_weight_and_each_model_measured_by_itself(kamishibai, foreign, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"one"\n{"prompt": "two"}\n\n{"text": "three"}\n')
    options = ["--model", "pictures=3", "--requests", 40, "--task", "image", "--pictures", 2, "--prompts", prompts]
    ended = kamishibai("bench", foreign.url, *options, "--check", "all", "--warmup", 3, "--rate", 400)
    assert ended.status == 0, ended.err
    results = read_results(ended.out.splitlines()[-1].encode(), "")
    (level,) = results.levels
    assert level.rates.pictures == pytest.approx(2 * level.rates.requests)
    assert level.rates.output_tokens is None
    assert level.repeats
    assert level.repeats.repeated == 40
    assert {body["prompt"] for body in foreign.bodies} == {"one", "two", "three"}
    assert results.workload.prompts
    assert results.workload.prompts.prompts == 3


def test_a_report_holds_results_figures_and_a_page_that_loads_nothing(bench, tmp_path):
    folder = tmp_path / "report"
    out, results = bench("--requests", 10, "--concurrency", "1,2", "--rate", "50,80", "--output", folder)
    assert f"{folder}: results.json, report.html and figures" in out
    assert read_results((folder / "results.json").read_bytes(), "") == results
    figures = sorted(path.stem for path in (folder / "figures").iterdir())
    curves = [
        "latency-over-concurrency-1",
        "latency-over-rate-1",
        "throughput-over-concurrency",
        "throughput-over-rate",
    ]
    assert [name for name in figures if not name.startswith("seconds")] == curves
    for path in (folder / "figures").iterdir():
        with Image.open(path) as picture:
            assert picture.width > 500
    page = (folder / "report.html").read_text()
    assert re.findall(r"(?:src|href)=\"(?!data:image/png)", page) == []
    assert "<script" not in page
    assert "1 at once" in page


def test_results_are_compared_by_ratios_and_other_workloads_are_refused(bench, kamishibai, tmp_path):
    for name, tokens in (("a", 6), ("b", 6), ("other", 7)):
        bench("--requests", 10, "--new-tokens", tokens, "--output", tmp_path / name)
    first, second, other = (tmp_path / name / "results.json" for name in ("a", "b", "other"))
    twice = json.loads(first.read_text())
    twice["levels"][0]["rates"]["requests"] *= 2
    twice["levels"][0]["models"][0]["latencies"]["end_to_end"]["p50"] *= 3
    second.write_text(json.dumps(twice))
    ended = kamishibai("bench", "--compare", first, second)
    assert ended.status == 0, ended.err
    lines = [re.split(r"  +", line) for line in ended.out.splitlines()]
    verdicts = {line[1]: line[4:] for line in lines if len(line) > 4}
    assert verdicts["requests/s"] == ["2.00", "better"]
    assert verdicts["end to end, p50 ms"] == ["3.00", "worse"]
    assert verdicts["tokens/s"] == ["1.00", "within noise"]
    ended = kamishibai("bench", "--compare", first, other)
    assert ended.status == 1
    assert "new_tokens is {'least': 6, 'most': 6} in the first and {'least': 7, 'most': 7} in the second" in ended.err
    (tmp_path / "broken.json").write_text('{"format": 1}')
    ended = kamishibai("bench", "--compare", first, tmp_path / "broken.json")
    assert (ended.status, "broken.json holds no results of `kamishibai bench`" in ended.err) == (1, True)


def test_a_key_that_is_missing_or_wrong_is_one_line(kamishibai, foreign, monkeypatch):
    foreign.key = "right"
    assert "Give it with --api-key or KAMISHIBAI_API_KEY" in kamishibai("bench", foreign.url, "--model", "texts").err
    monkeypatch.setenv("KAMISHIBAI_API_KEY", "right")
    assert kamishibai("bench", foreign.url, "--model", "texts", "--requests", 1, "--new-tokens", 2).status == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--model", "other"], "the server has no model 'other'; it has texts, pictures"),
        ([], "say with --model which one to ask, or several; the server has texts, pictures"),
        (["--model", "texts=0"], "whose weight is no number above 0"),
        (["--model", "texts", "--model", "texts=2"], "a model is given twice"),
        (["--model", "texts", "--ignore-eos"], "a request to texts failed (400 invalid_request_error): unknown fields"),
        (["--concurrency", "1,x"], "--concurrency is '1,x'; write whole numbers above 0"),
        (["--rate", "0"], "--rate is '0'; write numbers above 0"),
        (["--requests", "1", "--duration", "1"], "both end a level"),
        (["--shape", "2"], "give --arrivals gamma, too"),
        (["--objective", "ttft:1", "--no-stream"], "only streams show"),
        (["--model", "texts", "--new-tokens", "9-2"], "--new-tokens is '9-2'; write a number of tokens"),
        (["--set", "x"], "--set is 'x'; write it like temperature=0.8"),
        (["--model", "texts", "--check", "some"], "--check is 'some'"),
    ],
)
def test_what_cannot_be_is_one_line_with_its_remedy(kamishibai, foreign, options, reason):
    ended = kamishibai("bench", foreign.url, *options)
    assert ended.status == 1
    assert reason in ended.err
    assert ended.err.count("\n") == 1


def test_nobody_there_is_one_line(kamishibai):
    ended = kamishibai("bench", "http://127.0.0.1:1")
    assert (ended.status, "cannot be reached" in ended.err, "with URL" in ended.err) == (1, True, True)
    assert "name a server, like" in kamishibai("bench").err
    assert "URL is 'nonsense', which is no address" in kamishibai("bench", "nonsense").err

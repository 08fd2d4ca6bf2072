"""Plain texts are written by a backend that can draw, many steps in a call; their ends are found where they lie."""

import numpy as np
import pytest
import torch

from contracts.requests import Target, TextRequest
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes import MOST_STEPS, Written
from models.runtimes.pytorch import LstmBackend
from workers.engines import Delta, Done, Failed
from workers.engines.text import TextEngine

TARGET = Target(model="m", version=1, variant="v")


class CountingWriter:
    """Draws the number of the step since the start, and notes how many steps its calls had."""

    def __init__(self):
        self.step, self.calls, self.unsound = 0, [], set()

    def write(self, tokens, positions, active, steps):
        rows, count = steps.uniforms.shape
        self.calls.append(count)
        drawn = np.tile(np.arange(self.step, self.step + count), (rows, 1))
        self.step += count
        sound = np.asarray([row not in self.unsound for row in range(rows)])
        return Written(drawn, sound, torch.zeros(rows if count == 1 else 0, 1_000))


@pytest.fixture
def writer():
    return CountingWriter()


@pytest.fixture
def backend(writer):
    backend = LstmBackend(LstmLanguageModel(LstmConfig(1_000, (4,))).eval().requires_grad_(False), torch.device("cpu"))
    backend.writer = writer
    return backend


def request(**settings):
    return TextRequest(target=TARGET, **{"seed": 1, "prompt_tokens": (1, 2), "temperature": 1.0, **settings})


def run(engine, calls=1_000):
    """All events, by job."""
    found: dict[str, list[object]] = {}
    for _ in range(calls):
        if not engine.busy:
            break
        for event in engine.collect(engine.launch()).events:
            found.setdefault(event.job_id, []).append(event)
    return found


def tokens(events):
    return [token for event in events if isinstance(event, Delta) for token in event.tokens]


def test_calls_have_many_steps_and_no_more_than_are_wanted(backend, writer):
    engine = TextEngine(backend, None, None, call_seconds=60)
    engine.add("a", request(max_tokens=40))
    events = run(engine)["a"]
    assert tokens(events) == list(range(40))
    assert max(writer.calls) == MOST_STEPS
    assert sum(writer.calls) == 40


def test_a_text_ends_where_it_ends_within_a_call_and_others_go_on(backend, writer):
    engine = TextEngine(backend, 11, None, call_seconds=60)
    engine.add("stopped", request(max_tokens=40))
    engine.add("goes on", request(max_tokens=40, ignore_eos=True))
    found = run(engine)
    assert tokens(found["stopped"]) == list(range(12))
    assert found["stopped"][-1] == Done("stopped", "stop", 0)
    assert tokens(found["goes on"]) == list(range(40))


def test_time_bounds_how_many_steps_a_call_has(backend, writer):
    engine = TextEngine(backend, None, None, call_seconds=0)
    engine.add("a", request(max_tokens=20))
    assert tokens(run(engine)["a"]) == list(range(20))
    assert set(writer.calls) == {1}


def test_beside_a_text_that_needs_its_logits_calls_have_one_step(backend, writer):
    engine = TextEngine(backend, None, None, call_seconds=60)
    engine.add("plain", request(max_tokens=8))
    engine.add("scored", request(max_tokens=8, logprobs=1))
    found = run(engine)
    assert tokens(found["plain"]) == list(range(8))
    assert len(tokens(found["scored"])) == 8
    assert sum(len(event.scores) for event in found["scored"] if isinstance(event, Delta)) == 8
    assert set(writer.calls) == {1}


def test_a_text_whose_logits_are_no_numbers_fails_alone(backend, writer):
    engine = TextEngine(backend, None, None, call_seconds=60)
    engine.add("broken", request(max_tokens=8))
    engine.add("sound", request(max_tokens=8))
    writer.unsound = {0}
    found = run(engine)
    assert isinstance(found["broken"][-1], Failed)
    assert tokens(found["sound"]) == list(range(8))


def test_where_bits_depend_on_the_batch_nothing_is_drawn_by_the_backend(backend, writer):
    engine = TextEngine(backend, None, None, batch_invariant=False)
    engine.add("a", request(max_tokens=8))
    assert len(tokens(run(engine)["a"])) == 8
    assert not writer.calls

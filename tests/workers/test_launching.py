"""Calls of a device that works by itself: they are launched, others are launched meanwhile, and collected in turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from contracts.requests import ImageRequest, Target, TextRequest
from models.dcgan import DcganConfig, generator
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes import Written
from models.runtimes.cuda_graphs import NoGraphs
from models.runtimes.pytorch import DcganBackend, GraphDcganBackend, LstmBackend
from workers.engines import Call, Delta, Done, Failed
from workers.engines.image import ImageEngine
from workers.engines.streams import OnStream
from workers.engines.text import TextEngine

CPU = torch.device("cpu")
TARGET = Target(model="m", version=1, variant="v")


class Device(LstmBackend):
    """Draws the number of the step since the start, and tells what it was asked for and when somebody waited."""

    most_steps = 32

    def __init__(self):
        super().__init__(LstmLanguageModel(LstmConfig(1_000, (4,))).eval().requires_grad_(False), CPU)
        self.writer = self
        self.step, self.told, self.unsound = 0, [], set()

    def launch(self, tokens, positions, active, steps):
        rows, count = steps.uniforms.shape
        self.told.append(f"launched {count}")
        drawn = np.tile(np.arange(self.step, self.step + count), (rows, 1))
        self.step += count

        def wait():
            self.told.append("waited")
            sound = np.asarray([row not in self.unsound for row in range(rows)])
            return Written(drawn, sound, torch.zeros(rows if count == 1 else 0, 1_000))

        return wait

    def write(self, tokens, positions, active, steps):
        return self.launch(tokens, positions, active, steps)()


@pytest.fixture
def device():
    return Device()


def engine_of(device, end_token=None):
    """One that knows how long a step takes: the first call has a single one."""
    engine = TextEngine(device, end_token, None, call_seconds=60)
    engine.add("first", request(max_tokens=1))
    run(engine)
    device.step = 0
    device.told.clear()
    return engine


def request(**settings):
    return TextRequest(target=TARGET, **{"seed": 1, "prompt_tokens": (1, 2), "temperature": 1.0, **settings})


def run(engine):
    found: dict[str, list[Any]] = {}
    while engine.busy:
        for event in engine.collect(engine.launch()).events:
            found.setdefault(event.job_id, []).append(event)
    return found


def tokens(events):
    return [token for event in events if isinstance(event, Delta) for token in event.tokens]


def test_nobody_waits_before_the_call_is_collected(device):
    engine = engine_of(device)
    engine.add("a", request(max_tokens=Device.most_steps + 4))
    handle = engine.launch()
    assert device.told == [f"launched {Device.most_steps}"]
    call = engine.collect(handle)
    assert device.told[1:] == ["waited"]
    assert (call.units, call.batch_size) == (Device.most_steps, 1)
    assert tokens(call.events) == list(range(Device.most_steps))
    assert tokens(run(engine)["a"]) == list(range(Device.most_steps, Device.most_steps + 4))
    assert device.told[2:] == ["launched 4", "waited"]


def test_two_models_work_at_the_same_time(device):
    other = Device()
    engines = [engine_of(each) for each in (device, other)]
    for engine in engines:
        engine.add("a", request(max_tokens=8))
    handles = [engine.launch() for engine in engines]
    assert device.told == other.told == ["launched 8"]
    calls = [engine.collect(handle) for engine, handle in zip(engines, handles, strict=True)]
    assert [tokens(call.events) for call in calls] == [list(range(8))] * 2


def test_a_text_ends_where_it_ends_and_beside_one_that_needs_its_logits_all_wait(device):
    engine = engine_of(device, end_token=5)
    engine.add("stopped", request(max_tokens=40))
    found = run(engine)
    assert tokens(found["stopped"]) == list(range(6))
    assert found["stopped"][-1] == Done("stopped", "stop", 0)
    device.told.clear()
    engine.add("plain", request(max_tokens=8))
    engine.add("scored", request(max_tokens=8, logprobs=1))
    assert isinstance(engine.launch(), Call)
    assert device.told[:2] == ["launched 1", "waited"]


@pytest.mark.parametrize(("settings", "waits"), [({"top_k": 50, "top_p": 0.9}, False), ({"top_p": 0.9}, True)])
def test_the_device_draws_from_short_lists_too(device, settings, waits):
    engine = engine_of(device)
    engine.add("a", request(max_tokens=8, **settings))
    assert isinstance(engine.launch(), Call) is waits
    assert device.told == ([] if waits else ["launched 8"])


def test_a_text_whose_logits_are_no_numbers_fails_alone(device):
    engine = engine_of(device)
    engine.add("broken", request(max_tokens=8))
    engine.add("sound", request(max_tokens=8))
    device.unsound = {0}
    found = run(engine)
    assert isinstance(found["broken"][-1], Failed)
    assert tokens(found["sound"]) == list(range(8))


def test_an_engine_on_a_stream_is_that_engine(device):
    engine = engine_of(device)
    streamed = OnStream(engine, None)
    assert streamed.fits(request())
    streamed.add("a", request(max_tokens=8))
    streamed.add("b", request(max_tokens=8))
    assert (streamed.busy, streamed.jobs, streamed.free) == (True, ["a", "b"], streamed.capacity - 2)
    streamed.remove("b")
    assert tokens(run(streamed)["a"]) == list(range(8))
    assert not engine.busy


def test_pictures_of_graphs_are_those_of_the_plain_path():
    config = DcganConfig(size=16, latent=8, width=4)
    model = generator(config).eval().requires_grad_(False)
    plain, graphs = DcganBackend(model, 8, CPU), GraphDcganBackend(model, config, CPU, NoGraphs())
    found = []
    for backend in (plain, graphs):
        engine = ImageEngine(backend, call_seconds=60)
        for seed, count in enumerate((3, 9)):
            engine.add(str(seed), ImageRequest(target=TARGET, seed=seed, count=count))
        found.append(run(engine))
    assert found[0] == found[1]
    assert [sum(len(event.pictures) for event in found[0][job] if isinstance(event, Delta)) for job in "01"] == [3, 9]
    engine.add("0", ImageRequest(target=TARGET, seed=0, count=1))
    assert not isinstance(engine.launch(), Call)

"""The engine child: the process that owns a device. It has no Redis; the worker parent tells it what to run.

Started as `python -m workers.engine_child '{"socket": ..., ...}'` by workers.child. Messages, all with an "op":

    parent -> child   add {model, job, request}
                      remove {job, choice or None for all}
    child -> parent   ready {models: {name: {capacity, fingerprint, batch_invariant}}, device}
                      refused {model, message}
                      call {model, events, batch_size, units, seconds, running, waiting, capacity}
                      failed {model, jobs, message}
                      A call raised: the model's requests are gone, of which `jobs` took part in it.
"""

from __future__ import annotations

import json
import logging
import select
import signal
import socket
import sys
from logging.config import dictConfig
from pathlib import Path
from typing import Any

import torch

from contracts.errors import EngineFailed, KamishibaiError, StoreError
from contracts.logs import configuration
from contracts.requests import Request, Target, parse_request
from contracts.settings import from_environment
from contracts.store import Store
from workers.channel import Channel, ChannelClosed
from workers.engines import Call, Engine, Event, Failed
from workers.engines.loading import LoadedModel, load_model
from workers.processes import die_with_parent
from workers.rounds import Rounds
from workers.scheduler import Scheduler

log = logging.getLogger("kamishibai.engine")


class EngineChild:
    """Loads its models, says that it is ready, then runs calls until the parent goes away."""

    def __init__(
        self, channel: Channel, store: Store, targets: list[Target], device: torch.device, kv_bytes: int
    ) -> None:
        self._channel = channel
        self._device = device
        self._models: dict[str, LoadedModel] = {}  # by engine
        for target in targets:
            self._load(store, target, kv_bytes)
        self._engines: dict[str, Engine[Any]] = {name: model.engine for name, model in self._models.items()}
        self._scheduler: Scheduler[Request] = Scheduler(dict(self._engines))
        self._rounds = Rounds(self._engines, self._scheduler, self._report, self._give_up)

    def run(self) -> None:
        models = {
            name: {
                "capacity": model.engine.capacity,
                "fingerprint": model.fingerprint,
                "batch_invariant": model.probe.batch_invariant,
            }
            for name, model in self._models.items()
        }
        self._channel.send({"op": "ready", "models": models, "device": str(self._device)})
        while True:
            self._take_messages()
            self._scheduler.admit(self._refuse)
            self._rounds.go()

    def _give_up(self, name: str, error: Exception) -> None:
        """A call raised: the engine's requests are given up, and the parent finds out which one is to blame."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # raises, which ends this process, if the device is of no use now
        jobs = self._engines[name].jobs
        self._scheduler.clear(name)
        message = f"{type(error).__name__}: {error}"
        self._channel.send({"op": "failed", "model": name, "jobs": jobs, "message": message})

    def _load(self, store: Store, target: Target, kv_bytes: int) -> None:
        """A broken bundle is refused; the other models are served all the same."""
        try:
            bundle = store.open(target.model, target.version)
            self._models[target.engine] = load_model(bundle, target.variant, self._device, kv_bytes)
        except Exception as error:  # also what PyTorch says of a model that is too large for this machine
            known = error if isinstance(error, StoreError) else StoreError(f"it cannot be loaded: {error!r}")
            self._channel.send({"op": "refused", "model": target.engine, "message": str(known)})

    def _take_messages(self) -> None:
        """Wait for messages only when there is nothing to run."""
        while select.select([self._channel], [], [], 0 if self._scheduler.busy else None)[0]:
            for message in self._channel.receive():
                if message["op"] == "add":
                    self._submit(message)
                elif message["op"] == "remove":
                    self._scheduler.cancel(message["job"], message["choice"])

    def _submit(self, message: dict[str, Any]) -> None:
        try:
            self._scheduler.submit(message["model"], message["job"], parse_request(message["request"]))
        except Exception as error:  # a bad request harms its sender alone
            self._refuse(message["job"], error)

    def _refuse(self, job_id: str, error: Exception) -> None:
        known = error if isinstance(error, KamishibaiError) else EngineFailed(f"The engine refused it: {error}")
        self._channel.send({"op": "call", "model": None, "events": [_packed(Failed(job_id, known.record()))]})

    def _report(self, name: str, call: Call) -> None:
        engine = self._engines[name]
        self._channel.send(
            {
                "op": "call",
                "model": name,
                "events": [_packed(event) for event in call.events],
                "batch_size": call.batch_size,
                "units": call.units,
                "seconds": call.seconds,
                "running": engine.capacity - engine.free,
                "waiting": self._scheduler.waiting(name),
                "capacity": engine.capacity,
            }
        )


def _packed(event: Event) -> dict[str, Any]:
    return {"kind": type(event).__name__, **vars(event)}


def main() -> None:
    die_with_parent(signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group, they are the parent's to handle: it drains
    order = json.loads(sys.argv[1])
    dictConfig(configuration(from_environment(), worker=order["worker"]))
    channel = Channel(socket.socket(fileno=order["socket"]), blocking=True)
    targets = [Target.model_validate(target) for target in order["targets"]]
    device = torch.device(order["device"])
    try:
        EngineChild(channel, Store(Path(order["store"])), targets, device, order["kv_bytes"]).run()
    except ChannelClosed:
        log.info("the worker parent has gone; so does the engine child")


if __name__ == "__main__":
    main()

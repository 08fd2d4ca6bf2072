"""The models of one worker: what its engine child says of them, and what servers are told."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from contracts.announcements import ServedModel
from contracts.bundle import Bundle
from contracts.requests import Target
from workers.tally import EngineTally

log = logging.getLogger("kamishibai.worker")


class ServedModels:
    """By engine. A child says `ready` once, before that perhaps `refused` of some, and then of every `call`."""

    def __init__(self, bundles: dict[Target, Bundle], tallies: dict[str, EngineTally]) -> None:
        """`bundles` by what their jobs will run on: what the child was told to load. `tallies` are counted on."""
        self._targets = {target.engine: target for target in bundles}
        self._bundles = {target.engine: bundle for target, bundle in bundles.items()}
        self._said: dict[str, dict[str, Any]] = {}  # empty while no child is ready
        self._refused: set[str] = set()  # the child could not load them
        self._tallies = tallies
        self.device = "starting"

    @property
    def engines(self) -> list[str]:
        return list(self._bundles)

    @property
    def queues(self) -> list[str]:
        """Those of all engines, for RQ's books."""
        return [queue for target in self._targets.values() for queue in target.queues]

    @property
    def refused(self) -> frozenset[Target]:
        """What the child could not load."""
        return frozenset(self._targets[engine] for engine in self._refused)

    @property
    def capacities(self) -> dict[str, int]:
        """How many requests the child may hold, of the models that it serves now."""
        return {engine: said["capacity"] for engine, said in self._said.items()}

    def bundle(self, engine: str) -> Bundle:
        return self._bundles[engine]

    def fingerprint(self, engine: str) -> str:
        """Empty while no child is ready."""
        return str(self._said.get(engine, {}).get("fingerprint", ""))

    def ready(self, message: dict[str, Any]) -> None:
        self._said, self.device = message["models"], message["device"]
        self._refused -= self._said.keys()  # a new child may have loaded what the last one could not
        for engine, said in self._said.items():
            if not said["batch_invariant"]:
                log.warning("%s gives other bits in other batches: a seed alone does not fix its output here", engine)
        log.info("ready: %s on %s", ", ".join(self._said) or "no model", self.device)

    def refuse(self, message: dict[str, Any]) -> None:
        log.error("%s is not served: %s", message["model"], message["message"])
        self._refused.add(message["model"])

    def count(self, call: dict[str, Any]) -> None:
        engine = call["model"]
        self._said[engine]["capacity"] = call["capacity"]
        self.tally(engine).count_call(call)

    def child_has_gone(self) -> None:
        self._said = {}

    def tally(self, engine: str) -> EngineTally:
        return self._tallies.setdefault(engine, EngineTally())

    def announced(self, busy: Collection[str]) -> tuple[ServedModel, ...]:
        """`busy` are the engines of which there are jobs in flight."""
        return tuple(
            ServedModel(
                target=self._targets[engine],
                task=bundle.manifest.task,
                digest=bundle.digest,
                fingerprint=self.fingerprint(engine),
                batch_invariant=self._said.get(engine, {}).get("batch_invariant", False),
                counters=self.tally(engine).counters(self.capacities.get(engine, 0), idle=engine not in busy),
            )
            for engine, bundle in self._bundles.items()
            if engine not in self._refused
        )

"""What a worker is to serve, as the store and the queues have it right now."""

from __future__ import annotations

import logging
import re
import time
from typing import cast

from redis import Redis

from contracts.announcements import read_announcements
from contracts.bundle import DEFAULT_VARIANT, TOKENIZER, Bundle
from contracts.errors import StoreError
from contracts.requests import Target
from contracts.store import Store, split_name

log = logging.getLogger("kamishibai.worker")

ORPHAN_SECONDS = 60.0  # a version that was loaded for jobs of the past stays so long after the last of them
_QUEUE = re.compile(r"rq:queue:([a-z0-9._-]+)@(\d{1,9})/([a-z0-9]+)-([a-z0-9]+)/[a-z]+")


class WantedModels:
    """The latest version of each model, or the one that was asked for; and those that have jobs which nobody else runs:
    an accepted job runs on the version that it was accepted for, also when all workers were stopped meanwhile."""

    def __init__(self, store: Store, models: str | None, variant: str | None, connection: Redis, worker: str) -> None:
        """`models` are names or `name@version`, separated by commas; None: all of the store. `variant` is for the
        models that have it."""
        self._store = store
        self._models = [name.strip() for name in models.split(",")] if models else None
        self._variant = variant
        self._redis = connection
        self._worker = worker
        self._refused: set[Target] = set()
        self._orphans: dict[Target, float] = {}  # with the monotonic time at which they last had jobs
        self._bundles: dict[tuple[str, int], Bundle] = {}  # a version never changes
        self._faults: dict[tuple[str, int], str] = {}  # that were told

    def refuse(self, targets: frozenset[Target]) -> None:
        """These could not be loaded. Versions before them are wanted instead."""
        self._refused |= targets

    def first(self) -> dict[Target, Bundle]:
        """What to begin with, of the store alone. Raises StoreError if that is nothing, or a variant that no model
        has was asked for."""
        names = self._names()
        if not names:
            raise StoreError(f"{self._store.root} holds no model. `kamishibai demo` makes three small ones.")
        bundles = [self._store.open(*split_name(name), only=(TOKENIZER,)) for name in names]
        if self._variant and not any(self._variant in bundle.variants() for bundle in bundles):
            found = ", ".join(sorted({name for bundle in bundles for name in bundle.variants()}))
            raise StoreError(f"no model has the variant {self._variant!r}; there is {found}")
        return dict(map(self._with_target, bundles))

    def now(self) -> dict[Target, Bundle]:
        """What is wanted now; broken bundles are left out. May raise RedisError."""
        found = [self._newest_sound(*split_name(name)) for name in self._names()]
        return dict(pair for pair in found if pair) | self._with_jobs()

    def _names(self) -> list[str]:
        return self._models if self._models is not None else self._store.names()

    def _with_target(self, bundle: Bundle) -> tuple[Target, Bundle]:
        variant = self._variant if self._variant in bundle.variants() else DEFAULT_VARIANT
        return bundle.target(variant or DEFAULT_VARIANT), bundle

    def _newest_sound(self, name: str, version: int | None) -> tuple[Target, Bundle] | None:
        versions = [version] if version else self._store.versions(name)
        latest = version or self._store.latest(name)
        for candidate in sorted((each for each in versions if latest and each <= latest), reverse=True):
            bundle = self._open(name, candidate)
            if bundle and (pair := self._with_target(bundle))[0] not in self._refused:
                return pair
        return None

    def _open(self, name: str, version: int) -> Bundle | None:
        place = name, version
        try:
            bundle = self._bundles.get(place) or self._store.open(name, version, only=(TOKENIZER,))
        except StoreError as error:
            if self._faults.get(place) != str(error):
                log.error("%s@%d is not served: %s", name, version, error)
            self._faults[place] = str(error)
            return None
        self._bundles[place] = bundle
        return bundle

    def _with_jobs(self) -> dict[Target, Bundle]:
        """What has queued jobs, or had some lately, and no other worker serves."""
        now = time.monotonic()
        elsewhere = {
            served.target
            for announcement in read_announcements(self._redis)
            for served in announcement.models
            if announcement.worker != self._worker
        }
        for target in self._queued_targets():
            if target not in elsewhere:
                self._orphans[target] = now
        self._orphans = {target: at for target, at in self._orphans.items() if now - at < ORPHAN_SECONDS}
        found = ((target, self._open(target.model, target.version)) for target in self._orphans.keys() - self._refused)
        return {target: bundle for target, bundle in found if bundle and target.variant in bundle.variants()}

    def _queued_targets(self) -> list[Target]:
        """Of our models, those with jobs in their queues."""
        models = {split_name(name)[0] for name in self._names()}
        known = cast(set[bytes], self._redis.smembers("rq:queues"))
        matches = [match for key in known if (match := _QUEUE.fullmatch(key.decode(errors="replace")))]
        matches = [match for match in matches if match[1] in models]
        with self._redis.pipeline(transaction=False) as pipe:
            for match in matches:
                pipe.llen(match[0])
            lengths = pipe.execute()
        return [
            Target(model=match[1], version=int(match[2]), variant=f"{match[3]}:{match[4]}")
            for match, length in zip(matches, lengths, strict=True)
            if length
        ]

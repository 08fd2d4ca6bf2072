"""What a worker is to serve, as the store and the queues have it right now."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple, cast

from redis import Redis

from contracts.announcements import read_announcements
from contracts.bundle import DEFAULT_VARIANT, TOKENIZER, Bundle
from contracts.controls import read_controls
from contracts.errors import StoreError
from contracts.requests import Target
from contracts.shadows import Shadows
from contracts.store import Store, split_name
from contracts.tuning import read_choice
from workers.supply import Supply

log = logging.getLogger("kamishibai.worker")

REFUSED_SECONDS = 600.0  # what could not be loaded is tried again after this time: it may have been mended
ORPHAN_SECONDS = 60.0  # a version that was loaded for jobs of the past stays so long after the last of them


class Wish(NamedTuple):
    """What a worker shall do. `reloads` grows when models are to be read anew."""

    models: dict[Target, Bundle]
    reloads: int = 0
    drained: bool = False  # take no jobs


class WantedModels:
    """The latest version of each model, or the one that was asked for; and those that have jobs which nobody else runs:
    an accepted job runs on the version that it was accepted for, also when all workers were stopped meanwhile."""

    def __init__(
        self,
        store: Store,
        models: str | None,
        variant: str | None,
        device_class: str,
        connection: Redis,
        worker: str,
        supply: Supply | None = None,
    ) -> None:
        """`models` are names or `name@version`, separated by commas; None: all of the store. `variant` is for the
        models that have it; the others run in the one that was measured to be the fastest on this class of device.
        `supply` brings models from elsewhere into the store; what is no longer there is not served here either."""
        self._store = store
        self._supply = supply
        self._models = [name.strip() for name in models.split(",")] if models else None
        self._variant = variant
        self._device_class = device_class
        self._redis = connection
        self._shadows = Shadows(connection)
        self._worker = worker
        self._refused: dict[Target, float] = {}  # with the monotonic time at which that is over
        self._orphans: dict[Target, float] = {}  # with the monotonic time at which they last had jobs
        self._bundles: dict[tuple[str, int], Bundle] = {}  # a version never changes
        self._told: dict[tuple[str, int], str] = {}  # faults and reasons
        self._of_store: dict[Target, Bundle] = {}  # as it was last seen
        self._reloads_before: dict[str, int] | None = None  # when this worker began
        self._reloads = 0  # since then

    def refuse(self, targets: frozenset[Target]) -> None:
        """These could not be loaded. Versions before them are wanted instead, for a while."""
        self._refused |= dict.fromkeys(targets, time.monotonic() + REFUSED_SECONDS)

    def first(self) -> dict[Target, Bundle]:
        """What to begin with, of the store alone. Raises StoreError if that is nothing, or a variant that no model
        has was asked for."""
        names = self._names()
        if not names:
            raise StoreError(f"{self._store.root} holds no model. `kamishibai demo` makes four small ones.")
        bundles = [self._store.open(*split_name(name), only=(TOKENIZER,)) for name in names]
        if self._variant and not any(self._variant in bundle.variants() for bundle in bundles):
            found = ", ".join(sorted({name for bundle in bundles for name in bundle.variants()}))
            raise StoreError(f"no model has the variant {self._variant!r}; there is {found}")
        pairs = ((self._target(bundle), bundle) for bundle in bundles)
        self._of_store = {target: bundle for target, bundle in pairs if target}
        return self._of_store

    def now(self) -> Wish:
        """What is wanted now; broken bundles are left out. May raise RedisError."""
        controls = read_controls(self._redis)
        self._note_reloads(controls.reloads)
        known = self._names()
        names = [name for name in known if split_name(name)[0] not in controls.unloaded]
        found = [self._newest_sound(*split_name(name)) for name in names]
        if known:  # a store that shows nothing at all is most likely out of reach: what was wanted stays
            self._of_store = dict(pair for pair in found if pair)
        return Wish(self._of_store | self._with_jobs(), self._reloads, self._worker in controls.drained)

    def _names(self) -> list[str]:
        if self._models is not None:
            return self._models
        offered = self._supply.names if self._supply else None
        return [name for name in self._store.names() if offered is None or name in offered]

    def _note_reloads(self, counts: dict[str, int]) -> None:
        """What was refused of a model that is to be read anew is tried again."""
        before = counts if self._reloads_before is None else self._reloads_before
        ours = {split_name(name)[0] for name in self._names()}
        changed = {name for name, count in counts.items() if name in ours and count != before.get(name, 0)}
        self._reloads_before = counts
        if changed:
            self._reloads += 1
            self._refused = {target: until for target, until in self._refused.items() if target.model not in changed}
            self._bundles = {place: bundle for place, bundle in self._bundles.items() if place[0] not in changed}

    def _target(self, bundle: Bundle) -> Target | None:
        """None if it was refused."""
        for variant, reason in self._choices(bundle):
            target = bundle.target(variant)
            if not self._is_refused(target):
                missed = _missed_bounds(bundle, variant)
                level = logging.WARNING if missed else logging.INFO
                self._tell((target.model, target.version), f"runs as {variant}: {reason}{missed}", level)
                return target
        return None

    def _choices(self, bundle: Bundle) -> list[tuple[str, str]]:
        """Variants, best first, each with the reason for it."""
        name, version = bundle.manifest.name, bundle.manifest.version
        if self._variant in bundle.variants():
            return [(str(self._variant), "it was asked for")]
        chosen = self._store.chosen(name)
        if chosen and chosen.version == version and chosen.variant in bundle.variants():
            return [(str(chosen.variant), "it was promoted"), *self._measured(bundle)]
        return self._measured(bundle)

    def _measured(self, bundle: Bundle) -> list[tuple[str, str]]:
        """The choices where nobody has said anything."""
        name, version = bundle.manifest.name, bundle.manifest.version
        try:
            choice = read_choice(self._store, name, version, self._device_class)
        except StoreError as error:
            return [(DEFAULT_VARIANT, f"the default, since {error}")]
        if choice is None or choice.variant not in bundle.variants():
            return [(DEFAULT_VARIANT, f"the default; `kamishibai tune {name}` finds out what is fastest here")]
        gain = f", {choice.gain:.1f} times as fast as {DEFAULT_VARIANT}" if choice.gain else ""
        measured = f"the fastest that was measured on {self._device_class}{gain}"
        return [(choice.variant, measured), (DEFAULT_VARIANT, f"{choice.variant} cannot be loaded")]

    def _is_refused(self, target: Target) -> bool:
        return self._refused.get(target, 0.0) > time.monotonic()

    def _tell(self, place: tuple[str, int], what: str, level: int = logging.INFO) -> None:
        """Once."""
        if self._told.get(place) != what:
            log.log(level, "%s@%d %s", *place, what)
        self._told[place] = what

    def _newest_sound(self, name: str, version: int | None) -> tuple[Target, Bundle] | None:
        versions = [version] if version else self._store.versions(name)
        latest = version or self._store.latest(name)
        for candidate in sorted((each for each in versions if latest and each <= latest), reverse=True):
            if (bundle := self._open(name, candidate)) and (target := self._target(bundle)):
                return target, bundle
        return None

    def _open(self, name: str, version: int) -> Bundle | None:
        place = name, version
        try:
            bundle = self._bundles.get(place) or self._store.open(name, version, only=(TOKENIZER,))
        except StoreError as error:
            self._tell(place, f"is not served: {error}")
            if self._supply and version not in self._store.versions(name):
                self._supply.ask(name, version)
            return None
        self._bundles[place] = bundle
        return bundle

    def _with_jobs(self) -> dict[Target, Bundle]:
        """What has queued jobs, or had some lately, and no other worker serves."""
        now = time.monotonic()
        strange = self._without_copies([name for name in self._queued() if Target.of_queue(name) not in self._of_store])
        if strange:  # all announcements are read for them: many workers should not do that every two seconds
            elsewhere = self._served_elsewhere()
            self._orphans |= {target: now for target in strange if target not in elsewhere}
        self._orphans = {target: at for target, at in self._orphans.items() if now - at < ORPHAN_SECONDS}
        orphans = [target for target in self._orphans if not self._is_refused(target)]
        found = ((target, self._open(target.model, target.version)) for target in orphans)
        return {target: bundle for target, bundle in found if bundle and target.variant in bundle.variants()}

    def _served_elsewhere(self) -> set[Target]:
        return {
            served.target
            for announcement in read_announcements(self._redis)
            for served in announcement.models
            if announcement.worker != self._worker
        }

    def _queued(self) -> list[str]:
        """Queues of our models that hold jobs."""
        models = {split_name(name)[0] for name in self._names()}
        known = cast(set[bytes], self._redis.smembers("rq:queues"))
        names = [key.decode(errors="replace").removeprefix("rq:queue:") for key in known]
        found = [name for name in names if (target := Target.of_queue(name)) and target.model in models]
        with self._redis.pipeline(transaction=False) as pipe:
            for name in found:
                pipe.llen(f"rq:queue:{name}")
            lengths = pipe.execute()
        return [name for name, length in zip(found, lengths, strict=True) if length]

    def _without_copies(self, queues: list[str]) -> list[Target]:
        """What the jobs of these queues run on. Copies of live jobs are left to the candidate's worker."""
        copies = {shadow.candidate.queue("low") for shadow in self._shadows.running().values()} if queues else set()
        targets = (Target.of_queue(name) for name in queues if name not in copies)
        return list(dict.fromkeys(target for target in targets if target))


def _missed_bounds(bundle: Bundle, variant: str) -> str:
    """A clause about a variant that is in its bundle by force; nothing for others."""
    faults = [fault for known in bundle.manifest.variants if known.name == variant for fault in known.faults]
    return f", though it misses its bounds: {'; '.join(faults)}" if faults else ""

"""Models from another store: what a worker is to serve comes into its own store by itself.

Nothing here waits for the worker or has it wait: before it serves, all is fetched; from then on a thread looks, and
what it has brought is found in the store like any other version.
"""

from __future__ import annotations

import logging
import threading
import time

from contracts.delivery import RETRY_SECONDS, Offer, Source, fetch
from contracts.errors import KamishibaiError, NotReady, StoreError
from contracts.store import Store, split_name

log = logging.getLogger("kamishibai.worker")

LOOK_SECONDS = 10.0  # a new version is noticed after this time
TOLD_SECONDS = 10.0  # between two lines of the log about one delivery


class Supply:
    """Keeps a store in step with another one: the latest version of each model, and which one that is; or the one that
    was asked for; and those that jobs wait for."""

    def __init__(self, source: Source, store: Store, models: str | None) -> None:
        """`models` are names or `name@version`, separated by commas; None: all of the other store."""
        self._source = source
        self._store = store
        self._models = [split_name(name.strip()) for name in models.split(",")] if models else None
        self._asked: set[tuple[str, int]] = set()
        self._soon = threading.Event()
        self._told: dict[str, str] = {}  # faults, by what they are about
        self.names: frozenset[str] | None = None  # of models that the other store has; None: nobody knows yet

    def begin(self) -> None:
        """Have something to serve, then look for more in a thread of its own. Waits for the other store while nothing
        is here. Raises StoreError and what the source raises if that will not change."""
        while True:
            try:
                faults = self._bring()
                if faults and not self._enough():
                    raise StoreError("; ".join(faults))
                break
            except (KamishibaiError, OSError) as error:
                if not self._enough() and not isinstance(error, NotReady):
                    raise
                self._tell("source", str(error))
                if self._enough():
                    log.warning("serving what %s has from before", self._store.root)
                    break
            time.sleep(RETRY_SECONDS)
        threading.Thread(target=self._run, name="supply", daemon=True).start()

    def ask(self, name: str, version: int) -> None:
        """Jobs wait for this version."""
        if (name, version) not in self._asked:
            self._asked.add((name, version))
            self._soon.set()

    def _run(self) -> None:
        while True:
            self._soon.wait(LOOK_SECONDS)
            self._soon.clear()
            try:
                self._bring()
            except (KamishibaiError, OSError) as error:
                self._tell("source", f"{error}; what is here is served")

    def _enough(self) -> bool:
        """Whether there is something of each model to serve."""
        if self._models is None:
            return bool(self._store.names())
        here = ((version, self._store.versions(name)) for name, version in self._models)
        return all(version in versions if version else versions for version, versions in here)

    def _bring(self) -> list[str]:
        """One look. Returns what is wrong with single versions. Raises what the source raises."""
        offers = self._source.offers()
        self.names = frozenset(offer.model for offer in offers)
        self._told.pop("source", None)
        faults = [f"{name} is not offered" for name in self._not_offered(offers)]
        for offer in offers:
            if not self._wants(offer):
                continue
            try:
                report = _Report(offer)
                fetch(self._source, offer, self._store, on_bytes=report.count)
                report.end()
                if offer.latest:
                    self._store.follow(offer.model, offer.version, offer.variant)
                self._told.pop(offer.name, None)
            except StoreError as error:
                faults.append(str(error))
                self._tell(offer.name, str(error))
        return faults

    def _wants(self, offer: Offer) -> bool:
        asked = (offer.model, offer.version) in self._asked
        if self._models is None:
            return offer.latest or asked
        wanted = [version for name, version in self._models if name == offer.model]
        return offer.version in wanted or (None in wanted and offer.latest) or asked

    def _not_offered(self, offers: list[Offer]) -> list[str]:
        have = {(offer.model, version) for offer in offers for version in (None, offer.version)}
        return [
            f"{name}@{version}" if version else name
            for name, version in self._models or []
            if (name, version) not in have
        ]

    def _tell(self, what: str, fault: str) -> None:
        """Once."""
        if self._told.get(what) != fault:
            log.error("models are not brought: %s", fault)
        self._told[what] = fault


class _Report:
    """Lines of the log about one delivery; none if there is nothing to bring."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._came = 0
        self._began = self._told_at = 0.0  # monotonic seconds

    def count(self, number: int) -> None:
        now = time.monotonic()
        if not self._came:
            self._began = now
        if now - self._told_at > TOLD_SECONDS:
            self._told_at = now
            log.info("pulling %s: %.2f MB of %.2f MB", self._offer.name, self._came / 1e6, self._offer.bytes / 1e6)
        self._came += number

    def end(self) -> None:
        if self._came:
            seconds = time.monotonic() - self._began
            log.info("pulled %s: %.2f MB in %.1f s", self._offer.name, self._came / 1e6, seconds)

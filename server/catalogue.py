"""Which models are served right now: what workers announce, read together with the bundles in the store."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass

import gevent
from redis import Redis

from contracts.announcements import Announcement, EngineCounters, ServedModel, read_announcements
from contracts.bundle import MANIFEST, TOKENIZER, Manifest, Task
from contracts.controls import unloaded_models
from contracts.errors import InvalidRequest, NotReady, StoreError, UnknownModel
from contracts.requests import Target
from contracts.store import Store, split_name
from contracts.tokenizers import EncoderTokenizer, Tokenizer

CACHE_SECONDS = 1.0
LONG_TEXT = 10_000  # characters
ROUTES: dict[Task, str] = {
    "text": "POST /v1/completions",
    "image": "POST /v1/images/generations",
    "classify": "POST /v1/classify",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CatalogueEntry:
    """A model that can be asked for: what its jobs will run on, and what admission must know of it."""

    target: Target
    manifest: Manifest
    digest: str
    created_at: int  # Unix seconds at which the bundle was written
    tokenizer: Tokenizer | None  # None: not a model that writes text
    encoder: EncoderTokenizer | None  # None: not a classifier

    def encode(self, prompts: list[str]) -> list[list[int]]:
        """The token ids of prompts. Raises InvalidRequest for characters that the model cannot read."""
        return [] if self.tokenizer is None else _encode(self.tokenizer, prompts)

    def frame(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts to classify, special ones around them. Raises InvalidRequest."""
        return [] if self.encoder is None else _encode(self.encoder, texts)

    @property
    def vocabulary_size(self) -> int:
        """Token ids that a client may name are smaller than this."""
        return self.tokenizer.vocabulary_size if self.tokenizer else 0


class Catalogue:
    """What ready workers serve. Announcements and the store's pointers are read at most once a second, bundles once."""

    def __init__(self, connection: Redis, store: Store, *, without_worker: bool = False) -> None:
        """`without_worker`: models of the store can also be asked for while no worker serves them."""
        self._redis = connection
        self._store = store
        self._without_worker = without_worker
        self._announcements: list[Announcement] = []
        self._unloaded: frozenset[str] = frozenset()
        self._served: dict[str, ServedModel] = {}  # by `name`, of the latest version, and by `name@version`
        self._read_at = float("-inf")  # monotonic seconds
        self._entries: dict[Target, CatalogueEntry] = {}  # a version never changes, so nothing here grows stale

    def resolve(self, name: str | None, task: Task | None = None) -> CatalogueEntry:
        """The model to run a request on, by `name`, for its latest version, or `name@version`; without a name the only
        one there is, of that task if a task is given.

        Raises InvalidRequest (no name and several models, or a model of another task), UnknownModel and NotReady.
        """
        self._refresh()
        served = self._served.get(name) if name is not None else _only_choice(self._latest(), task)
        entry = self._open(served) if served else self._unserved(name)
        if task is not None and entry.manifest.task != task:
            raise InvalidRequest(
                f"'model' is {entry.target.model!r}, which is for {entry.manifest.task};"
                f" send it to {ROUTES[entry.manifest.task]}",
                param="model",
            )
        return entry

    def entries(self) -> list[CatalogueEntry]:
        """All models that can be asked for, by name, in their latest versions."""
        self._refresh()
        found = []
        for _, served in sorted(self._latest().items()):
            with suppress(NotReady):
                found.append(self._open(served))
        return found

    def check_known(self, name: str) -> None:
        """Raises UnknownModel for a name that neither the store nor a worker has."""
        self._refresh()
        if name not in self._known():
            raise self._unknown(name)

    def counters(self, target: Target) -> list[EngineCounters]:
        """Of each ready worker that serves it."""
        self._refresh()
        ready = (each for each in self._announcements if each.ready)
        return [served.counters for each in ready for served in each.models if served.target == target]

    def fingerprint(self, target: Target) -> str | None:
        """The one that all ready workers have for it; None if they differ, or none is ready."""
        self._refresh()
        ready = (each for each in self._announcements if each.ready)
        found = {served.fingerprint for each in ready for served in each.models if served.target == target}
        return found.pop() or None if len(found) == 1 else None

    def _latest(self) -> dict[str, ServedModel]:
        return {name: served for name, served in self._served.items() if "@" not in name}

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._read_at <= CACHE_SECONDS:
            return
        self._announcements = read_announcements(self._redis)
        self._unloaded = unloaded_models(self._redis)
        versions: dict[str, dict[int, ServedModel]] = {}
        for announcement in self._announcements:
            for served in announcement.models if announcement.ready else ():
                versions.setdefault(served.target.model, {}).setdefault(served.target.version, served)
        self._served = {}
        for name, by_version in versions.items():
            if name in self._unloaded:
                continue  # workers end what they have of it
            self._served |= {f"{name}@{version}": served for version, served in by_version.items()}
            self._served[name] = by_version.get(self._latest_version(name)) or by_version[max(by_version)]
        self._read_at = now

    def _latest_version(self, name: str) -> int:
        """0 if this server's store cannot say."""
        try:
            return self._store.latest(name) or 0
        except (StoreError, OSError):
            return 0

    def _unserved(self, name: str | None) -> CatalogueEntry:
        """A model of the store, which the next worker will run as bundles are run by default. Raises UnknownModel,
        NotReady."""
        if not self._without_worker or name is None:
            raise self._not_served(name)
        try:
            model, version = split_name(name)
            if model in self._unloaded:
                raise self._not_served(name)
            return self._read_bundle(self._store.open(model, version, only=()).target())
        except StoreError:
            raise self._not_served(name) from None

    def _not_served(self, name: str | None) -> NotReady | UnknownModel:
        if name is None or name in self._known() or self._stored(name):
            what = "such a model" if name is None else f"{name!r}"
            return NotReady(f"No ready worker serves {what}; start one or try again in a moment.", param="model")
        return self._unknown(name)

    def _unknown(self, name: str) -> UnknownModel:
        known = ", ".join(sorted(self._known())) or "none yet"
        return UnknownModel(f"'model' is {name[:80]!r}, which does not exist; there is: {known}", param="model")

    def _known(self) -> set[str]:
        announced = {served.target.model for each in self._announcements for served in each.models}
        return announced.union(self._store.names())

    def _stored(self, name: str) -> bool:
        try:
            model, version = split_name(name)
        except StoreError:
            return False
        return version in self._store.versions(model)

    def _open(self, served: ServedModel) -> CatalogueEntry:
        name = f"{served.target.model}@{served.target.version}"
        try:
            entry = self._entries.get(served.target) or self._read_bundle(served.target)
        except StoreError as error:
            log.error("%s is announced by a worker but cannot be opened here: %s", name, error)
            raise NotReady(f"This server cannot open {name}; its log says why.", param="model") from None
        if entry.digest != served.digest:
            # Tokenising with one bundle for a worker that runs another would answer with nonsense.
            raise NotReady(f"Workers serve another bundle as {name} than this server's store holds.", param="model")
        self._entries[served.target] = entry
        return entry

    def _read_bundle(self, target: Target) -> CatalogueEntry:
        bundle = self._store.open(target.model, target.version, only=(TOKENIZER,))
        return CatalogueEntry(
            target=target,
            manifest=bundle.manifest,
            digest=bundle.digest,
            created_at=int((bundle.path / MANIFEST).stat().st_mtime),
            tokenizer=bundle.tokenizer() if bundle.manifest.task == "text" else None,
            encoder=bundle.encoder_tokenizer() if bundle.manifest.task == "classify" else None,
        )


def _encode(tokenizer: Tokenizer | EncoderTokenizer, texts: list[str]) -> list[list[int]]:
    if sum(map(len, texts)) < LONG_TEXT:
        return list(map(tokenizer.encode, texts))
    # A million characters take seconds, in which nobody else would be served.
    tokens: list[list[int]] = gevent.get_hub().threadpool.apply(list, (map(tokenizer.encode, texts),))
    return tokens


def _only_choice(newest: dict[str, ServedModel], task: Task | None) -> ServedModel | None:
    choices = {name: served for name, served in newest.items() if task in (None, served.task)}
    if len(choices) > 1:
        raise InvalidRequest(f"'model' is missing; choose one of: {', '.join(sorted(choices))}", param="model")
    return next(iter(choices.values()), None)

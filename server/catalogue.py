"""Which models are served right now: what workers announce, read together with the bundles in the store."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass

import gevent
from redis import Redis

from contracts.announcements import Announcement, ServedModel, read_announcements
from contracts.bundle import MANIFEST, TOKENIZER, Manifest, Task
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

    def frame(self, texts: list[str], most: int) -> list[tuple[list[int], int]]:
        """Token ids of texts to classify, at most so many of each, and how many there were. Raises InvalidRequest."""
        if self.encoder is None:
            return []
        return [(self.encoder.cut(tokens, most), len(tokens)) for tokens in _encode(self.encoder, texts)]

    @property
    def vocabulary_size(self) -> int:
        """Token ids that a client may name are smaller than this."""
        return self.tokenizer.vocabulary_size if self.tokenizer else 0


class Catalogue:
    """What ready workers serve. Announcements and the store's pointers are read at most once a second, bundles once."""

    def __init__(self, connection: Redis, store: Store) -> None:
        self._redis = connection
        self._store = store
        self._announcements: list[Announcement] = []
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
        if served is None:
            raise self._not_served(name)
        if task is not None and served.task != task:
            raise InvalidRequest(
                f"'model' is {served.target.model!r}, which is for {served.task}; send it to {ROUTES[served.task]}",
                param="model",
            )
        return self._open(served)

    def entries(self) -> list[CatalogueEntry]:
        """All models that can be asked for, by name, in their latest versions."""
        self._refresh()
        found = []
        for _, served in sorted(self._latest().items()):
            with suppress(NotReady):
                found.append(self._open(served))
        return found

    def _latest(self) -> dict[str, ServedModel]:
        return {name: served for name, served in self._served.items() if "@" not in name}

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._read_at <= CACHE_SECONDS:
            return
        self._announcements = read_announcements(self._redis)
        versions: dict[str, dict[int, ServedModel]] = {}
        for announcement in self._announcements:
            for served in announcement.models if announcement.ready else ():
                versions.setdefault(served.target.model, {}).setdefault(served.target.version, served)
        self._served = {}
        for name, by_version in versions.items():
            self._served |= {f"{name}@{version}": served for version, served in by_version.items()}
            self._served[name] = by_version.get(self._latest_version(name)) or by_version[max(by_version)]
        self._read_at = now

    def _latest_version(self, name: str) -> int:
        """0 if this server's store cannot say."""
        try:
            return self._store.latest(name) or 0
        except (StoreError, OSError):
            return 0

    def _not_served(self, name: str | None) -> NotReady | UnknownModel:
        announced = {served.target.model for each in self._announcements for served in each.models}
        known = announced.union(self._store.names())
        if name is None or name in known or self._stored(name):
            what = "such a model" if name is None else f"{name!r}"
            return NotReady(f"No ready worker serves {what}; start one or try again in a moment.", param="model")
        return UnknownModel(
            f"'model' is {name[:80]!r}, which does not exist; there is: {', '.join(sorted(known)) or 'none yet'}",
            param="model",
        )

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

"""Which models are served right now: what workers announce, read together with the bundles in the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import gevent
from redis import Redis

from contracts.announcements import Announcement, EngineCounters, ServedModel, read_announcements
from contracts.bundle import DEFAULT_VARIANT, MANIFEST, TOKENIZER, Manifest, Task
from contracts.controls import unloaded_models
from contracts.errors import InvalidRequest, NotFound, NotReady, StoreError, UnknownModel
from contracts.requests import WRITTEN, Target
from contracts.store import Chosen, Store, split_name
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

    @property
    def latent_length(self) -> int | None:
        """Numbers that a picture is drawn from; None: not a model that draws, or its bundle does not say."""
        length = self.manifest.config.get("latent")
        return length if self.manifest.task == "image" and isinstance(length, int) else None


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

    def targets(self, name: str) -> list[Target]:
        """All that ready workers serve of a model."""
        self._refresh()
        found = {served.target for _, served in self._offers() if served.target.model == name}
        return sorted(found, key=lambda target: (target.version, target.variant))

    def served(self, target: Target) -> CatalogueEntry:
        """What a ready worker serves. Raises NotReady."""
        self._refresh()
        for _, served in self._offers():
            if served.target == target:
                return self._open(served)
        raise self._not_served(f"{target.model}@{target.version}")

    def entries(self) -> list[CatalogueEntry]:
        """All models that can be asked for, by name, in their latest versions."""
        self._refresh()
        found = []
        for _, served in sorted(self._latest().items()):
            with suppress(NotReady):
                found.append(self._open(served))
        return found

    def read_report(self, entry: CatalogueEntry, file: str) -> bytes:
        """A picture of the model's training. Raises NotFound for one that its bundle does not have, or no longer as it
        was written."""
        if file not in entry.manifest.reports:
            reports = ", ".join(entry.manifest.reports) or "none"
            raise NotFound(f"{entry.target.model} has no report {file[:80]!r}; it has: {reports}", param="file")
        try:
            bundle = self._store.open(entry.target.model, entry.target.version, only=(file,))
            return (bundle.path / file).read_bytes()
        except (StoreError, OSError) as error:
            log.error("%s of %s cannot be read: %s", file, entry.target.model, error)
            raise NotFound(f"{file} of {entry.target.model} cannot be read; the server's log says why.") from None

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
        models: dict[str, list[tuple[bool, ServedModel]]] = {}  # with whether it serves for comparison only
        for candidate, served in self._offers():
            models.setdefault(served.target.model, []).append((candidate, served))
        self._served = {}
        for name, offers in models.items():
            if name not in self._unloaded:  # workers end what they have of it
                self._served |= _choices(name, offers, self._chosen(name))
        self._read_at = now

    def _offers(self) -> Iterator[tuple[bool, ServedModel]]:
        """What ready workers serve that read the jobs of this server, with whether they do it for comparison only."""
        for announcement in self._announcements:
            for served in announcement.models if announcement.ready else ():
                if WRITTEN[served.task] in announcement.payloads:
                    yield announcement.candidate, served

    def _chosen(self, name: str) -> Chosen | None:
        """None if this server's store cannot say."""
        try:
            return self._store.chosen(name)
        except (StoreError, OSError):
            return None

    def _unserved(self, name: str | None) -> CatalogueEntry:
        """A model of the store, which the next worker will run as bundles are run by default. Raises UnknownModel,
        NotReady."""
        if not self._without_worker or name is None:
            raise self._not_served(name)
        try:
            model, version = split_name(name)
            if model in self._unloaded:
                raise self._not_served(name)
            bundle, chosen = self._store.open(model, version, only=()), self._chosen(model)
            promoted = chosen.variant if chosen and chosen.version == bundle.manifest.version else None
            return self._read_bundle(bundle.target(promoted or DEFAULT_VARIANT))
        except StoreError:
            raise self._not_served(name) from None

    def _not_served(self, name: str | None) -> NotReady | UnknownModel:
        if name is not None and self._served_by_older_workers(name.partition("@")[0]):
            return NotReady(
                f"The workers that serve {name!r} are older than this server and cannot read its jobs; upgrade them.",
                param="model",
            )
        if name is None or name in self._known() or self._stored(name):
            what = "such a model" if name is None else f"{name!r}"
            return NotReady(f"No ready worker serves {what}; start one or try again in a moment.", param="model")
        return self._unknown(name)

    def _served_by_older_workers(self, model: str) -> bool:
        ready = (each for each in self._announcements if each.ready)
        found = ((each, served) for each in ready for served in each.models if served.target.model == model)
        return any(WRITTEN[served.task] not in each.payloads for each, served in found)

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


def _choices(name: str, offers: list[tuple[bool, ServedModel]], chosen: Chosen | None) -> dict[str, ServedModel]:
    """What serves requests for `name` and for each `name@version`. A candidate serves those that name its version,
    and the others once it is what the store has chosen."""
    exact = [served for _, served in offers if chosen and chosen == (served.target.version, served.target.variant)]
    plain = [served for candidate, served in offers if not candidate]
    found: dict[str, ServedModel] = {}
    for served in [*exact, *plain, *(served for _, served in offers)]:  # the first of a version serves it
        found.setdefault(f"{name}@{served.target.version}", served)
    latest = [served for served in plain if chosen and served.target.version == chosen.version]
    newest = sorted(plain, key=lambda served: -served.target.version)
    if choice := next(iter([*exact, *latest, *newest]), None):
        found[name] = choice
    return found


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

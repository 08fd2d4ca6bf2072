"""Results of calls that may be asked for again: the same request with the same seed, on the same fingerprint, by the
same API key, has the same answer.

Off unless the server is given room for it. Each server process keeps its own, and forgets what was not asked for
longest.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace
from typing import NamedTuple

from contracts.jobs import JobQueue, JobRecord
from contracts.requests import ClassifyRequest, ImageRequest, Request
from contracts.results import ImageResult
from server.catalogue import Catalogue
from server.counters import RequestCounters

RECORD_BYTES = 4096  # of a record beside its request's and its result's text: what Python takes for the objects


class _Kept(NamedTuple):
    record: JobRecord
    bytes: int


class ResultCache:
    def __init__(self, jobs: JobQueue, catalogue: Catalogue, counters: RequestCounters, most_bytes: int) -> None:
        """`most_bytes` of 0 keep nothing."""
        self._jobs = jobs
        self._catalogue = catalogue
        self._counters = counters
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the one that was asked for last comes last

    def can_keep(self, request: Request, *, seed_given: bool) -> bool:
        """Whether a result may ever be asked for again: a seed that the server has drawn never comes twice."""
        by_url = isinstance(request, ImageRequest) and request.response_format == "url"
        return self._most_bytes > 0 and not by_url and (seed_given or isinstance(request, ClassifyRequest))

    def find(self, request: Request, owner: str | None) -> JobRecord | None:
        """The ended job of an equal request, if workers still give the same bits."""
        fingerprint = self._catalogue.fingerprint(request.target)
        key = fingerprint and _key(request, owner, fingerprint)
        kept = self._kept.get(key) if key else None
        self._counters.count_cached(hit=kept is not None)
        if kept is None or key is None:
            return None
        self._kept.move_to_end(key)
        return kept.record

    def add(self, record: JobRecord) -> None:
        """Keep a job that has ended well."""
        result = record.result
        if result is None or not result.fingerprint:
            return
        if isinstance(result, ImageResult):  # its pictures lie in Redis, for a while
            result = result.model_copy(update={"pictures": self._jobs.pictures(result), "pictures_key": None})
        key = _key(record.request, record.meta.owner, result.fingerprint)
        texts = (record.request.model_dump_json(), result.model_dump_json())
        self._keep(key, _Kept(replace(record, result=result), RECORD_BYTES + sum(map(len, texts))))

    def _keep(self, key: str, kept: _Kept) -> None:
        if kept.bytes > self._most_bytes:
            return
        if before := self._kept.pop(key, None):
            self._bytes -= before.bytes
        self._kept[key] = kept
        self._bytes += kept.bytes
        while self._bytes > self._most_bytes:
            _, forgotten = self._kept.popitem(last=False)
            self._bytes -= forgotten.bytes
        self._counters.cached_bytes.set(self._bytes)


def _key(request: Request, owner: str | None, fingerprint: str) -> str:
    parts = (fingerprint, owner or "", request.model_dump_json())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

"""What the routes work with, put together once per server process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import current_app
from prometheus_client import CollectorRegistry
from redis import Redis

from contracts.jobs import JobQueue
from contracts.settings import Settings
from contracts.store import Store
from server.access import Access
from server.admission import Admission
from server.catalogue import Catalogue
from server.counters import RequestCounters
from server.estimates import Estimates
from server.farewells import Farewells
from server.metrics import QueueCollector
from server.picture_urls import PictureUrls
from server.result_cache import ResultCache
from server.shared_folder import Place
from server.waiting import Waiting

EXTENSION = "kamishibai"


@dataclass(frozen=True)
class Services:
    settings: Settings
    redis: Redis
    access: Access
    jobs: JobQueue
    catalogue: Catalogue
    admission: Admission
    estimates: Estimates
    waiting: Waiting
    farewells: Farewells
    picture_urls: PictureUrls
    metrics: CollectorRegistry
    counters: RequestCounters
    results: ResultCache


def assemble(settings: Settings, connection: Redis, place: Place | None = None) -> Services:
    """Opens nothing and asks Redis nothing: a server starts while Redis is still away."""
    jobs = JobQueue(connection)
    store = Store(settings.store)
    catalogue = Catalogue(connection, store, without_worker=settings.without_worker == "accept")
    metrics = CollectorRegistry()
    counters = RequestCounters(metrics, place)
    metrics.register(QueueCollector(connection, jobs, store))
    return Services(
        settings=settings,
        redis=connection,
        access=Access(settings, connection),
        jobs=jobs,
        catalogue=catalogue,
        admission=Admission(settings, catalogue),
        estimates=Estimates(jobs, catalogue),
        waiting=Waiting(connection, jobs, counters),
        farewells=Farewells(jobs, settings.sync_result_seconds),
        picture_urls=PictureUrls(connection),
        metrics=metrics,
        counters=counters,
        results=ResultCache(jobs, catalogue, counters, settings.result_cache_bytes),
    )


def services() -> Services:
    """The services of the application that handles the current request."""
    return cast(Services, current_app.extensions[EXTENSION])

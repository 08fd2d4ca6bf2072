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
from server.batches import Batches
from server.catalogue import Catalogue
from server.counters import RequestCounters
from server.estimates import Estimates
from server.farewells import Farewells
from server.files import FileStore
from server.metrics import QueueCollector
from server.picture_urls import PictureUrls
from server.result_cache import ResultCache
from server.shadow_control import ShadowControl
from server.shared_folder import Place
from server.stock import Stock
from server.waiting import Waiting
from server.webhook_addresses import WebhookAddresses
from server.webhook_secrets import WebhookSecrets

EXTENSION = "kamishibai"


@dataclass(frozen=True)
class Services:
    settings: Settings
    redis: Redis
    access: Access
    jobs: JobQueue
    catalogue: Catalogue
    stock: Stock
    admission: Admission
    estimates: Estimates
    waiting: Waiting
    farewells: Farewells
    picture_urls: PictureUrls
    files: FileStore
    batches: Batches
    webhook_addresses: WebhookAddresses
    webhook_secrets: WebhookSecrets
    metrics: CollectorRegistry
    counters: RequestCounters
    results: ResultCache
    shadows: ShadowControl


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
        stock=Stock(store),
        admission=Admission(settings, catalogue),
        estimates=Estimates(jobs, catalogue),
        waiting=Waiting(connection, jobs, counters),
        farewells=Farewells(jobs, settings.sync_result_seconds),
        picture_urls=PictureUrls(connection),
        files=FileStore(settings.files_folder, settings.file_seconds),
        batches=Batches(connection),
        webhook_addresses=WebhookAddresses(settings),
        webhook_secrets=WebhookSecrets(connection),
        metrics=metrics,
        counters=counters,
        shadows=ShadowControl(connection, store, catalogue),
        results=ResultCache(jobs, catalogue, counters, settings.result_cache_bytes),
    )


def services() -> Services:
    """The services of the application that handles the current request."""
    return cast(Services, current_app.extensions[EXTENSION])

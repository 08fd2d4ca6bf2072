"""One run: the product, a steady load, samples all the time, and a last one when all lifetimes are over."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from contracts.settings import Settings
from contracts.store import Store
from tests.chaos.clients import Crowd
from tests.chaos.faults import SERVERS
from tests.chaos.history import Entry, History
from tests.soak.orders import orders
from tests.soak.product import Product
from tests.soak.sampler import Sampler
from tests.soak.samples import Phase, Sample

MARGIN_SECONDS = 3.0  # a lifetime has ended, and a janitor has passed


@dataclass(frozen=True)
class Plan:
    """`load_seconds` of requests at a steady rate. Ended jobs live for `result_seconds` at most."""

    seed: int
    load_seconds: float
    requests_per_second: float
    result_seconds: int
    sample_seconds: float


def run(
    plan: Plan, store: Store, folder: Path, progress: Callable[[int], None] = lambda answered: None
) -> tuple[list[Sample], list[Entry]]:
    """Samples, and the history of the requests. `folder` takes both and the log. `progress` is told of answers."""
    history = History(folder / "history.jsonl")
    product = Product(store, folder, _settings(plan))
    try:
        product.start()
        samples = _load(plan, product, history, folder, progress)
    finally:
        product.stop()
        history.close()
    return samples, history.entries()


def _settings(plan: Plan) -> Settings:
    return Settings(
        job_result_seconds=plan.result_seconds,
        sync_result_seconds=min(30, plan.result_seconds),
        unread_result_seconds=plan.result_seconds,
    )


def _load(
    plan: Plan, product: Product, history: History, folder: Path, progress: Callable[[int], None]
) -> list[Sample]:
    due = orders(plan.seed, round(plan.load_seconds * plan.requests_per_second))
    crowd = Crowd(
        {SERVERS[0]: product.port},
        history,
        plan.seed,
        read_again_after=plan.result_seconds / 4,
        results_of=lambda job: product.redis.xlen(f"rq:results:{job}"),
    )
    sampler, samples = Sampler(product), []
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:

        def sample(phase: Phase) -> None:
            samples.append(sampler.take(phase, crowd.finished))
            file.write(json.dumps(asdict(samples[-1])) + "\n")
            file.flush()
            progress(crowd.finished)

        sample("start")
        clients = threading.Thread(target=crowd.serve, args=(due, plan.requests_per_second), name="crowd")
        clients.start()
        over = time.monotonic() + plan.load_seconds
        while clients.is_alive():
            clients.join(plan.sample_seconds)
            if time.monotonic() < over:  # then the last answers come in, and the load is no longer steady
                sample("load")
        time.sleep(plan.result_seconds + MARGIN_SECONDS)
        sample("rest")
    return samples

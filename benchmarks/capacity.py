"""How many workers a load of texts needs: a queueing model with step times that `kamishibai bench` has measured.

    kamishibai bench URL --model NAME --concurrency 1,4,12,16,24,32 --requests 96 --ignore-eos --output closed
    python benchmarks/capacity.py closed/results.json --rate 5,10,20,40 --p99-seconds 5 [--new-tokens 64] [--rows 64]
    python benchmarks/capacity.py closed/results.json --against open/results.json

The model: requests come at random (Poisson) and wait in one line, from which workers with room take them. A request has
the lowest free slot; a worker makes a token of each in one step over a row bucket, the power of two that its highest
slot needs, which takes `fixed + bucket * each` seconds. A request that enters costs it `entering` seconds more. These
three are fitted by least squares to what one worker did at each level of the closed loop, of which some must not be
powers of two. What a request that is alone takes beyond that is spent elsewhere, on its way. It is simulated for 20,000
requests, with a fixed seed. `--against` puts what an open loop of the same workload measured beside what the model says
for one worker: of as many requests, in nine of ten runs that differ in when they came.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cli.bench.results import Level, read_results
from models.runtimes import row_bucket

REQUESTS = 20_000
SEED = 1
RUNS = 40
MOST_WORKERS = 1024
MOST_ROWS = 1 << 20  # no engine has so many


@dataclass(frozen=True)
class Steps:
    """What a worker's step takes, in seconds, and what each request takes beside its worker."""

    fixed: float
    each: float
    entering: float
    elsewhere: float = 0.0

    @classmethod
    def fitted(cls, levels: list[Level], new_tokens: float) -> Steps:
        """In a closed loop of n requests each is followed by the next, so n rows are at work: a step makes n tokens,
        and n / new_tokens requests enter."""
        found = {level.load.concurrency: level for level in levels if level.load.concurrency is not None}
        rows = np.array(sorted(found), dtype=float)
        seconds = rows / np.array([found[count].rates.output_tokens for count in sorted(found)])
        buckets = np.array([row_bucket(count, MOST_ROWS, 1) for count in sorted(found)], dtype=float)
        known = np.stack([np.ones_like(rows), buckets, rows / new_tokens], axis=1)
        # Divided by what is measured, so that fast levels count as much as slow ones.
        (fixed, each, entering), _, rank, _ = np.linalg.lstsq(known / seconds[:, None], np.ones_like(rows))
        if rank < known.shape[1]:
            raise SystemExit("the results have too few levels of a closed loop; measure --concurrency 1,4,12,16,24,32")
        steps = cls(max(0.0, float(fixed)), max(0.0, float(each)), max(0.0, float(entering)))
        return replace(steps, elsewhere=max(0.0, _first_token(found[min(found)]) - steps.alone(1)))

    def alone(self, new_tokens: int) -> float:
        """Of a request that nobody else is there with, in its worker."""
        return self.entering + new_tokens * (self.fixed + self.each)


def _first_token(alone: Level) -> float:
    latency = alone.models[0].latencies.time_to_first_token
    if latency is None:
        raise SystemExit("the results are of answers that were not streamed; measure with --stream")
    return latency.p50


def simulate(
    steps: Steps, rate: float, new_tokens: int, workers: int, rows: int, requests: int = REQUESTS, seed: int = SEED
) -> np.ndarray:
    """Seconds from arrival to end of so many requests, without the first tenth."""
    draw = random.Random(seed)  # noqa: S311 - a simulation
    now, arrivals = 0.0, []
    for _ in range(requests):
        now += draw.expovariate(rate)
        arrivals.append(now)
    waiting: list[int] = []  # numbers of requests, first come first served
    # Of each worker: (steps when it is done, request, slot).
    held: list[list[tuple[int, int, int]]] = [[] for _ in range(workers)]
    free = [list(range(rows)) for _ in range(workers)]  # slots, as heaps
    counted = [0] * workers  # steps that each worker has made
    due = [(0.0, worker) for worker in range(workers)]
    ended, latest, coming = np.zeros(requests), 0, 0
    while latest < requests:
        moment, worker = heapq.heappop(due)
        while coming < requests and arrivals[coming] <= moment:
            waiting.append(coming)
            coming += 1
        while held[worker] and held[worker][0][0] <= counted[worker]:
            _, request, slot = heapq.heappop(held[worker])
            heapq.heappush(free[worker], slot)
            ended[request] = moment
            latest += 1
        entering = min(rows - len(held[worker]), -(-len(waiting) // _free(held, rows)) if waiting else 0)
        for request in waiting[:entering]:
            heapq.heappush(held[worker], (counted[worker] + new_tokens, request, heapq.heappop(free[worker])))
        del waiting[:entering]
        if held[worker]:
            counted[worker] += 1
            bucket = row_bucket(1 + max(slot for _, _, slot in held[worker]), rows, 1)
            seconds = steps.fixed + steps.each * bucket + steps.entering * entering
        elif coming < requests:
            seconds = max(arrivals[coming] - moment, 1e-4)
        else:
            seconds = 1e-3
        heapq.heappush(due, (moment + seconds, worker))
    taken: np.ndarray = ended - np.array(arrivals) + steps.elsewhere
    return taken[requests // 10 :]


def _free(held: list[list[tuple[int, int, int]]], rows: int) -> int:
    """Workers that have room: what waits is shared among them."""
    return max(1, sum(len(each) < rows for each in held))


def told(seconds: np.ndarray) -> str:
    return f"p50 {np.quantile(seconds, 0.5):7.2f} s   p99 {np.quantile(seconds, 0.99):7.2f} s"


def told_range(runs: list[np.ndarray]) -> str:
    """What nine of ten runs lie within."""
    found = (np.quantile([np.quantile(run, share) for run in runs], (0.05, 0.95)) for share in (0.5, 0.99))
    p50, p99 = (f"{low:.2f} to {high:.2f} s" for low, high in found)
    return f"p50 {p50}   p99 {p99}"


def fewest_workers(
    steps: Steps, rate: float, new_tokens: int, rows: int, most_seconds: float
) -> tuple[int, np.ndarray] | None:
    """And what requests take with them; None if no number up to MOST_WORKERS is enough."""
    if steps.alone(new_tokens) + steps.elsewhere > most_seconds:
        return None  # a text that is alone takes longer
    full_step_seconds = steps.fixed + steps.each * rows + steps.entering * rows / new_tokens
    least = math.ceil(rate * new_tokens * full_step_seconds / rows)  # below that they fall behind for ever
    for workers in range(max(1, least), MOST_WORKERS + 1):
        seconds = simulate(steps, rate, new_tokens, workers, rows)
        if np.quantile(seconds, 0.99) <= most_seconds:
            return workers, seconds
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--rate", default="1,10,100")
    parser.add_argument("--p99-seconds", type=float, default=5.0)
    parser.add_argument("--new-tokens", type=int)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    measured = read_results(options.results.read_bytes(), options.results.name)
    levels = list(measured.levels)
    written = levels[0].models[0].output_tokens_mean or 1.0
    new_tokens = options.new_tokens or round(written)
    steps = Steps.fitted(levels, written)
    print(f"a step takes {1e3 * steps.fixed:.2f} ms and {1e3 * steps.each:.3f} ms for each row of its bucket")
    print(f"a prompt takes {1e3 * steps.entering:.1f} ms, and {1e3 * steps.elsewhere:.1f} ms are spent on the way")
    if options.against is None:
        for rate in map(float, options.rate.split(",")):
            found = fewest_workers(steps, rate, new_tokens, options.rows, options.p99_seconds)
            answer = (
                f"no number of workers up to {MOST_WORKERS}"
                if found is None
                else f"{found[0]:4d} workers   {told(found[1])}"
            )
            print(f"{rate:8.1f} requests/s: {answer}")
        return
    for level in read_results(options.against.read_bytes(), options.against.name).levels:
        if level.load.rate is not None and (measured_here := level.models[0].latencies.end_to_end) is not None:
            rate = level.came_rate or level.load.rate
            runs = [simulate(steps, rate, new_tokens, 1, options.rows, level.requests, seed) for seed in range(RUNS)]
            print(f"{rate:8.2f} requests/s, the model says {told_range(runs)}")
            print(f"{'':21}measured  p50 {measured_here.p50:7.2f} s        p99 {measured_here.p99:7.2f} s")


if __name__ == "__main__":
    main()

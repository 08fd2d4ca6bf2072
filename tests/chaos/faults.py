"""The fault script: what goes wrong when, from a seed.

Two kinds of acts alternate. In a *lost host* a worker parent is killed and nothing else touches the queue until its
leases have run out, so that detection can be timed; servers and the other worker's engine child are killed meanwhile.
In a *storm* Redis is killed and faults of all kinds fall into each other's recovery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

WORKERS = ("worker-1", "worker-2")
SERVERS = ("server-1", "server-2")
CHILDREN = ("child-1", "child-2")  # the engine children of the workers of the same number
SERVING = ("serving-1", "serving-2")  # the processes under the servers' masters
KILLED_KINDS = ("child", "worker", "server", "redis")

LOST_HOST_SECONDS = 18.0
STORM_SECONDS = 9.0
FULL_SECONDS = 6.0
SETTLE_SECONDS = 6.0


@dataclass(frozen=True)
class Fault:
    """`kind`: kill, behead (a server's master alone), term, stop (and go on after `seconds`), cut, delay or block (its
    way to Redis), full (disk), away (killed and kept down).
    """

    at: float
    kind: str
    victim: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.victim}" + (f" for {self.seconds:.1f} s" if self.seconds else "")


def script(seed: int, kills: int, away_seconds: float) -> list[Fault]:
    """At least `kills` of each kind of process. Redis is away once for `away_seconds`, unless that is 0."""
    rng = Random(seed)
    acts: list[Callable[[Random], tuple[list[Fault], float]]] = [_lost_host, _storm] * kills
    acts += [_full_disk] * max(1, kills // 4)
    if away_seconds:
        acts.append(lambda _: ([Fault(0, "away", "redis", away_seconds)], away_seconds + SETTLE_SECONDS))
    rng.shuffle(acts)
    faults: list[Fault] = []
    at = 2.0
    for act in acts:
        its_faults, seconds = act(rng)
        faults += [replace(fault, at=round(at + fault.at, 2)) for fault in its_faults]
        at += seconds
    return sorted(faults, key=lambda fault: fault.at)


def length_seconds(faults: list[Fault]) -> float:
    return max(fault.at + fault.seconds for fault in faults) + SETTLE_SECONDS


def kills_by_kind(faults: list[Fault]) -> Counter[str]:
    return Counter(fault.victim.split("-")[0] for fault in faults if fault.kind in {"kill", "away"})


def _lost_host(rng: Random) -> tuple[list[Fault], float]:
    lost = rng.randrange(2)
    faults = [
        Fault(0, "kill", WORKERS[lost]),
        Fault(rng.uniform(0.5, 8), "kill", rng.choice(SERVERS)),
        Fault(rng.uniform(0.5, 8), "kill", CHILDREN[1 - lost]),
        rng.choice([_stop_server, _term_server])(rng),
    ]
    return faults, LOST_HOST_SECONDS


def _storm(rng: Random) -> tuple[list[Fault], float]:
    kinds = rng.sample(_STORM_FAULTS, 4)
    faults = [Fault(rng.uniform(0, 4), "kill", "redis"), *(make(rng) for make in kinds)]
    return faults, STORM_SECONDS


def _full_disk(rng: Random) -> tuple[list[Fault], float]:
    """Alone: a Redis that is killed while its disk is full loses the last writes before the first that failed."""
    return [Fault(SETTLE_SECONDS / 2, "full", "redis", FULL_SECONDS)], FULL_SECONDS + SETTLE_SECONDS


def _stop_server(rng: Random) -> Fault:
    return Fault(rng.uniform(8, 10), "stop", rng.choice(SERVERS), rng.uniform(1, 6))


def _term_server(rng: Random) -> Fault:
    return Fault(rng.uniform(8, 10), "term", rng.choice(SERVERS))


_STORM_FAULTS: list[Callable[[Random], Fault]] = [
    lambda rng: Fault(rng.uniform(0, 6), "kill", rng.choice(WORKERS)),
    lambda rng: Fault(rng.uniform(0, 6), "kill", rng.choice(CHILDREN)),
    lambda rng: Fault(rng.uniform(0, 6), "kill", rng.choice(SERVERS)),
    lambda rng: Fault(rng.uniform(0, 6), "kill", rng.choice(SERVING)),
    lambda rng: Fault(rng.uniform(0, 6), "behead", rng.choice(SERVERS)),
    lambda rng: Fault(rng.uniform(0, 6), "term", rng.choice(WORKERS)),
    lambda rng: Fault(rng.uniform(0, 6), "term", rng.choice(SERVERS)),
    lambda rng: Fault(rng.uniform(0, 3), "stop", rng.choice(WORKERS), rng.uniform(4, 18)),
    lambda rng: Fault(rng.uniform(0, 6), "stop", rng.choice(CHILDREN), rng.uniform(1, 6)),
    lambda rng: Fault(rng.uniform(0, 6), "stop", "redis", rng.uniform(1, 7)),
    lambda rng: Fault(rng.uniform(0, 6), "cut", rng.choice(WORKERS + SERVERS)),
    lambda rng: Fault(rng.uniform(0, 6), "delay", rng.choice(WORKERS + SERVERS), rng.uniform(2, 6)),
    lambda rng: Fault(rng.uniform(0, 3), "block", rng.choice(WORKERS + SERVERS), rng.uniform(3, 18)),
]

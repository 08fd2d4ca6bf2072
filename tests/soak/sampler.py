"""Measures a running product from outside: its processes, its Redis, its files."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from tests.soak.product import Product
from tests.soak.samples import JobRecord, Key, Phase, Sample

MOST_JOBS = 50  # whose records are looked at in one sample
_OF_JOB = re.compile(
    rb"(?:rq:job|rq:results|rq:executions|rq:execution|kamishibai:text|kamishibai:pictures):(\w+)(?::.*)?"
)
PICTURES = b"kamishibai:pictures:"
_REGISTRIES = ("rq:wip:", "rq:finished:", "rq:failed:", "rq:canceled:")
_ENDED = {b"finished", b"failed", b"canceled", b"stopped"}


class Sampler:
    def __init__(self, product: Product) -> None:
        self._product = product
        self._redis: Redis = product.redis
        self._began = time.monotonic()

    def take(self, phase: Phase, requests: int) -> Sample:
        at = time.monotonic() - self._began
        gauges, processes = self._look_at_processes()
        gauges |= self._look_at_redis() | {"log": self._product.log.stat().st_size}
        names = list(self._redis.scan_iter(count=1000))
        keys = tuple(self._key(name) for name in sorted(names)) if phase == "rest" else ()
        return Sample(round(at, 2), phase, requests, gauges, processes, tuple(self._job_records(names)), keys)

    def _look_at_processes(self) -> tuple[dict[str, int], dict[str, int]]:
        gauges: Counter[str] = Counter()
        processes: dict[str, int] = {}
        for role, process in self._product.processes():
            with suppress(OSError, psutil.Error):  # it has ended meanwhile
                own, resident = memory(process.pid)
                gauges[f"{role} memory"] += own
                gauges[f"{role} resident"] += resident
                if role not in processes:  # not what Redis forks: that has Redis' own descriptors
                    gauges[f"{role} descriptors"] = process.num_fds() - connected_clients(process)
                    gauges[f"{role} threads"] = process.num_threads()
                    processes[role] = process.pid
        return dict(gauges), processes

    def _look_at_redis(self) -> dict[str, int]:
        info: dict[str, Any] = self._redis.info()
        return {
            "redis data": info["used_memory"],
            "redis connections": info["connected_clients"],
            "redis keys": self._redis.dbsize(),
            "append-only file": folder_bytes(self._product.append_only_folder),
        }

    def _key(self, name: bytes) -> Key:
        text = name.decode(errors="replace")
        entries = self._redis.zcard(name) if text.startswith(_REGISTRIES) else 0
        return Key(text, self._redis.ttl(name), entries)

    def _job_records(self, names: list[bytes]) -> list[JobRecord]:
        by_job: dict[bytes, list[bytes]] = defaultdict(list)
        for name in names:
            if match := _OF_JOB.fullmatch(name):
                by_job[match[1]].append(name)
        found = [self._job_record(job, by_job[job]) for job in sorted(by_job)[:MOST_JOBS]]
        return [record for record in found if record is not None]

    def _job_record(self, job: bytes, names: list[bytes]) -> JobRecord | None:
        """None for one whose lifetime has ended since its keys were listed."""
        with self._redis.pipeline() as pipe:  # a transaction, so that the job does not change meanwhile
            pipe.hget(b"rq:job:" + job, "status")
            for name in names:
                pipe.memory_usage(name, 0)
            status, *sizes = pipe.execute()
        if status is None:
            return None
        without_pictures = [size or 0 for name, size in zip(names, sizes, strict=True) if not name.startswith(PICTURES)]
        return JobRecord(status in _ENDED, sum(size is not None for size in sizes), sum(without_pictures))


def memory(pid: int) -> tuple[int, int]:
    """Bytes that a process has taken itself, shared ones by its share, and bytes resident as `ps` shows them.

    Its own are what can leak. Resident are also the pages of libraries and files, which come and go with the other
    processes of the machine. Raises OSError for a process that has ended.
    """
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    kibibytes = {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB$", rollup, re.MULTILINE)}
    return 1024 * (kibibytes["Pss_Anon"] + kibibytes["Pss_Shmem"]), 1024 * kibibytes["Rss"]


def connected_clients(process: psutil.Process) -> int:
    """Clients that are connected to a process; how many they are is not its doing. One that has gone is none."""
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in process.net_connections("tcp"))


def folder_bytes(folder: Path) -> int:
    """Of all files in it."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # rewritten and removed meanwhile
            total += path.stat().st_size
    return total

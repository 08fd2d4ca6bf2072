"""What a run has shown, as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.soak.judge import Run, Violation
from tests.soak.limits import BYTES_OF_JOB, KEYS_OF_JOB, LIMITS, LOG_BYTES_PER_THOUSAND_REQUESTS, MIB
from tests.soak.samples import Sample

_OF_BYTES = ("memory", "resident", "data", "file")


def report(samples: Sequence[Sample], violations: Sequence[Violation]) -> str:
    run = Run(samples)
    return "\n".join([*_length(run), "", *_table(run), "", *_jobs_and_log(run), "", *_verdict(violations)])


def _length(run: Run) -> Iterator[str]:
    minutes = (run.load[-1].at - run.load[0].at) / 60 if run.load else 0.0
    yield f"{run.rest.requests} requests, {minutes:.1f} minutes of steady load in {len(run.load)} samples"


def _table(run: Run) -> Iterator[str]:
    """In MiB where a gauge is in bytes. A slash divides what was measured and what is allowed."""
    yield "| gauge | at the start | most / limit | grew by / limit | at rest, above the start / limit |"
    yield "|---|---|---|---|---|"
    for gauge, limit in LIMITS.items():
        start = _amount(gauge, run.start.gauges.get(gauge, 0))
        cells = [
            _pair(gauge, run.most(gauge), limit.most),
            _pair(gauge, run.growth(gauge), limit.growth),
            _pair(gauge, run.above_start(gauge), limit.at_rest),
        ]
        yield f"| {gauge} | {start} | {' | '.join(cells)} |"


def _jobs_and_log(run: Run) -> Iterator[str]:
    for what, jobs in (("running", run.jobs(ended=False)), ("ended", run.jobs(ended=True))):
        keys, sizes = [job.keys for job in jobs] or [0], sorted(job.bytes for job in jobs) or [0]
        yield (
            f"records of {what} jobs ({len(jobs)} looked at): most keys {max(keys)} / {KEYS_OF_JOB},"
            f" bytes without pictures p50 {sizes[len(sizes) // 2]}, most {sizes[-1]} / {BYTES_OF_JOB}"
        )
    most_keys = max(sample.gauges["redis keys"] for sample in run.samples)
    yield f"keys: {run.start.gauges['redis keys']} at the start, most {most_keys}, {len(run.rest.keys)} at rest"
    yield f"append-only file: {_appended(run) / max(1, run.rest.requests):.0f} bytes appended per request"
    wrote = run.log_bytes_per_thousand_requests()
    yield f"log: {wrote:.0f} / {LOG_BYTES_PER_THOUSAND_REQUESTS} bytes per 1,000 requests"


def _appended(run: Run) -> int:
    """What was appended between samples; a rewrite between two hides what came between them."""
    sizes = [sample.gauges["append-only file"] for sample in run.samples]
    return sum(max(0, later - sooner) for sooner, later in pairwise(sizes))


def _verdict(violations: Sequence[Violation]) -> Iterator[str]:
    yield f"violations: {len(violations)}"
    for violation in violations:
        yield f"- {violation.rule}: {violation.said}"


def _pair(gauge: str, value: float, limit: int | None) -> str:
    return _amount(gauge, value) if limit is None else f"{_amount(gauge, value)} / {_amount(gauge, limit)}"


def _amount(gauge: str, value: float) -> str:
    return f"{value / MIB:.1f}" if gauge.endswith(_OF_BYTES) else f"{value:.0f}"

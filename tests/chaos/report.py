"""What a run has shown, for people."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator

from tests.chaos.checker import Case, Violation, seconds_after_loss
from tests.chaos.history import Entry, of_number
from tests.chaos.orders import HANGS, POISON
from tests.chaos.references import Content

SHOWN = 20  # violations with their requests' whole histories


def report(entries: list[Entry], references: list[Content], violations: list[Violation]) -> str:
    case = Case(entries, references)
    lines = [*_counts(case), *_times(case), f"violations: {len(violations)}"]
    for rule, count in Counter(violation.rule for violation in violations).items():
        lines.append(f"  {rule}: {count}")
    for violation in violations[:SHOWN]:
        lines += _told(violation, entries)
    return "\n".join(lines)


def _counts(case: Case) -> Iterator[str]:
    statuses = {entry.job: entry.facts["status"] for entry in case.of["ended"]}
    yield f"jobs accepted: {len(case.of['accepted'])}; their ends: {_listed(Counter(statuses.values()))}"
    finishes = Counter(entry.facts["finish"] for entry in case.of["streamed"])
    yield f"calls answered: {len(case.of['answered'])}; streams: {_listed(finishes)}"
    engines = Counter(_harm_of(case, entry) for entry in case.of["accepted"])
    yield f"requests that harm an engine: {engines['hang']} make it hang, {engines['poison']} kill it"
    yield f"job streams interrupted and resumed: {len(case.of['interrupted'])}"
    yield f"calls left early: {len(case.of['left'])}"
    yield f"503: {len(case.of['refused'])}; broken connections: {len(case.of['broken'])}"
    faults = Counter(f"{window.kind} {window.victim.split('-')[0]}" for window in case.windows)
    yield f"faults: {_listed(faults)}"
    yield f"length: {case.entries[-1].at:.0f} s" if case.entries else "empty"


def _harm_of(case: Case, entry: Entry) -> str:
    body = case.sent[entry.number].facts["body"]
    return "poison" if body == POISON else "hang" if body in HANGS else "usual"


def _times(case: Case) -> Iterator[str]:
    losses = [loss for loss in case.of["lost"] if loss.facts["jobs"]]
    yield f"worker parents killed with jobs in hand: {len(losses)}, with {sum(e.facts['jobs'] for e in losses)} jobs"
    for what in ("noticed", "rerun"):
        seen = [entry.facts["seconds"] for entry in case.of[what] if entry.facts["victim"].startswith("worker")]
        yield f"  {what} after: {_spread(seen)}"
        alone = [seconds for loss in losses if (seconds := seconds_after_loss(case, loss, what)) is not None]
        yield f"    less the time in which another fault was in the way: {_spread(alone)}"
    children = [e.facts["seconds"] for e in case.of["noticed"] if e.facts["victim"].startswith("child")]
    yield f"engine children replaced after: {_spread(children)}"
    accepted = {entry.job: entry.at - entry.facts["seconds"] for entry in case.of["accepted"]}
    ends: dict[str | None, float] = {}
    for entry in case.of["ended"]:
        ends.setdefault(entry.job, entry.at)
    yield f"jobs, from request to seen end: {_spread([ends[job] - at for job, at in accepted.items() if job in ends])}"
    yield f"calls: {_spread([entry.facts['seconds'] for entry in case.of['answered']])}"
    yield f"503s: {_spread([entry.facts['seconds'] for entry in case.of['refused']])}"


def _told(violation: Violation, entries: list[Entry]) -> Iterator[str]:
    yield f"- {violation.rule}: {violation.said}"
    if violation.number is not None:
        for entry in of_number(entries, violation.number):
            yield f"    {entry.at:9.3f} {entry.what} {entry.job or ''} {str(entry.facts)[:400]}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _spread(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return ", ".join(f"{each:.3f} s" for each in seconds) or "none"
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"p50 {cuts[49]:.3f} s, p99 {cuts[98]:.3f} s, most {max(seconds):.3f} s ({len(seconds)})"

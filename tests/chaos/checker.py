"""The promises, as pure functions over a run's history. Each yields what breaks it; a run passes when none yields."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.chaos.faults import CHILDREN, SERVERS, SERVING, WORKERS
from tests.chaos.history import Entry
from tests.chaos.orders import POISON
from tests.chaos.references import Content
from workers.parent import AFTER_OUTAGE_SECONDS

NOTICED_SECONDS = 15.0  # a dead worker host
RERUN_SECONDS = 30.0  # its jobs run elsewhere
CHILD_NOTICED_SECONDS = 2.0  # "at once", on a busy machine
REFUSED_SECONDS = 2.0  # "at once", too, when Redis is dead or its disk is full
REFUSED_SILENT_SECONDS = 15.0  # when it only does not answer, which takes time-outs to find out
STARTED_SECONDS = 5.0  # after Redis is back: connections, announcements and the servers' cache of them
ATTEMPTS = 4  # lost leases or engine deaths that a job may see before it fails
GROWTH = 1.3
GROWTH_BYTES = 24 << 20
STEADY_SAMPLES = 16  # of memory, before a process is judged

Facts = dict[str, Any]


@dataclass(frozen=True)
class Violation:
    rule: str
    said: str
    number: int | None = None  # the request, if it is about one


@dataclass(frozen=True)
class Window:
    """A fault, from its beginning until its victim was well again."""

    kind: str
    victim: str
    began: float
    over: float

    def touches(self, began: float, ended: float) -> bool:
        return self.began <= ended and began <= self.over


class Case:
    """A history, sorted for the rules."""

    def __init__(self, entries: list[Entry], references: list[Content]) -> None:
        self.entries = entries
        self.references = references
        self.of: dict[str, list[Entry]] = defaultdict(list)
        self.of_job: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            self.of[entry.what].append(entry)
            if entry.job is not None:
                self.of_job[entry.job].append(entry)
        self.sent = {entry.number: entry for entry in self.of["sent"]}

    @cached_property
    def windows(self) -> list[Window]:
        last = self.entries[-1].at if self.entries else 0.0
        over = {entry.facts["fault"]: entry.at for entry in self.of["over"]}
        return [
            Window(entry.facts["kind"], entry.facts["victim"], entry.at, over.get(entry.facts["fault"], last))
            for entry in self.of["fault"]
        ]

    def touched(
        self, victims: tuple[str, ...], began: float, ended: float, kinds: tuple[str, ...] = ()
    ) -> list[Window]:
        """Faults of these victims (and kinds) at any time between."""
        return [
            window
            for window in self.windows
            if window.victim in victims and (not kinds or window.kind in kinds) and window.touches(began, ended)
        ]

    def reference(self, number: int | None) -> Content:
        return self.references[self.sent[number].facts["body"]]


def check(entries: list[Entry], references: list[Content]) -> list[Violation]:
    case = Case(entries, references)
    return [Violation(rule.__name__, said, number) for rule in RULES for said, number in rule(case)]


Findings = Iterator[tuple[str, int | None]]


def every_accepted_job_ends(case: Case) -> Findings:
    for entry in case.of["accepted"]:
        if not any(later.what in {"ended", "deleted"} for later in case.of_job[entry.job or ""]):
            yield f"job {entry.job} was accepted at {entry.at} and never seen to end", entry.number
    for entry in case.of["drained"]:
        for job in entry.facts["unfinished"]:
            yield f"{job} had not ended long after the last client had its answer", None


def an_ended_job_never_changes(case: Case) -> Findings:
    for job, entries in case.of_job.items():
        ended = [entry for entry in entries if entry.what == "ended"]
        for entry in ended[1:]:
            if entry.facts != ended[0].facts:
                yield f"job {job} changed after its end, {ended[0].facts} -> {entry.facts}", entry.number
    for entry in case.of["missing"]:
        if case.sent[entry.number].facts["manner"] != "cancel":
            yield f"job {entry.job} was accepted and is not there", entry.number


def no_job_has_two_results(case: Case) -> Findings:
    for entry in case.of["results"]:
        if entry.facts["count"] > 1:
            yield f"job {entry.job} has {entry.facts['count']} results", entry.number


def results_are_what_their_seeds_define(case: Case) -> Findings:
    for entry in case.of["ended"] + case.of["answered"]:
        content = entry.facts["content"]
        if content is not None and content != case.reference(entry.number):
            yield f"got {content}, alone it is {case.reference(entry.number)}", entry.number


def jobs_fail_only_when_all_attempts_were_taken_from_them(case: Case) -> Findings:
    for entry in case.of["ended"]:
        status, error = entry.facts["status"], entry.facts["error"]
        cancelled = status == "cancelled" and case.sent[entry.number].facts["manner"] == "cancel"
        excused = (error or {}).get("code") in {"worker_lost", "engine_failed"} and _attempts(case, entry) >= ATTEMPTS
        poison = case.sent[entry.number].facts["body"] == POISON
        if status != "succeeded" and not cancelled and not excused and not poison:
            yield f"job {entry.job} is {status}: {error}", entry.number


def poison_fails(case: Case) -> Findings:
    for entry in case.of["ended"]:
        code = (entry.facts["error"] or {}).get("code")
        if case.sent[entry.number].facts["body"] == POISON and code not in {"engine_failed", "worker_lost"}:
            yield f"poison {entry.job} is {entry.facts['status']}: {code}", entry.number


def streams_are_unbroken(case: Case) -> Findings:
    for entry in case.of["streamed"]:
        said = _fault_of_stream(entry.facts["events"], entry.facts["finish"], case.reference(entry.number))
        if said is not None:
            yield said, entry.number


def refusals_have_a_reason(case: Case) -> Findings:
    for entry in case.of["refused"]:
        code = entry.facts["code"]
        if entry.facts["status"] != 503 or not _excuse(case, entry, code):
            yield f"{entry.facts} at {entry.at}", entry.number
    for entry in case.of["streamed"] + case.of["interrupted"]:
        finish, _, code = entry.facts["finish"].partition(": ")
        with_its_job = entry.job is not None and entry.what == "streamed"  # whose end another rule looks at
        if finish in {"error", "refused"} and not with_its_job and not _excuse(case, entry, code):
            yield f"a stream ended with {entry.facts['finish']} at {entry.at}", entry.number


def connections_break_only_with_their_server(case: Case) -> Findings:
    streams = case.of["streamed"] + case.of["interrupted"]
    broken = case.of["broken"] + [entry for entry in streams if entry.facts["finish"] == "broken"]
    for entry in broken:
        server = entry.facts["server"]
        victims = (server, server.replace("server", "serving"))
        if not case.touched(victims, entry.at - entry.facts["seconds"], entry.at):
            yield f"{entry.facts} at {entry.at}", entry.number


def refusals_come_at_once(case: Case) -> Findings:
    for entry in case.of["refused"]:
        began = entry.at - entry.facts["seconds"]
        others = (*SERVERS, *SERVING, "redis")
        silent = case.touched(others, began - REFUSED_SILENT_SECONDS, entry.at, ("stop", "block", "delay", "term"))
        limit = REFUSED_SILENT_SECONDS if silent else REFUSED_SECONDS
        if entry.facts["seconds"] > limit + _asked_wait_seconds(entry.facts["asked"]):
            yield f"{entry.facts['asked']} was refused after {entry.facts['seconds']} s", entry.number


def _asked_wait_seconds(asked: str) -> float:
    """How long a client wished to wait for a job's end, in which nothing has to be refused."""
    match = re.search(r"[?&]wait=([\d.]+)", asked)
    return float(match[1]) if match else 0.0


def losses_are_noticed_and_run_again_in_time(case: Case) -> Findings:
    for what, limit in (("noticed", NOTICED_SECONDS), ("rerun", RERUN_SECONDS)):
        for loss in case.of["lost"]:
            seconds = seconds_after_loss(case, loss, what)
            if loss.facts["jobs"] and (seconds is None or seconds > limit):
                yield f"{what} {loss.facts} after {seconds} s of undisturbed time", None
    for entry in case.of["noticed"]:
        if entry.facts["victim"] in CHILDREN:
            worker = entry.facts["victim"].replace("child", "worker")
            began = entry.facts["killed_at"]
            # A parent waits for an answer of Redis that stands still, and takes a step only then.
            silent = [(window.began, window.over) for window in case.windows if window.victim == "redis"]
            seconds = _seconds_between(began, began + entry.facts["seconds"], silent)
            if seconds > CHILD_NOTICED_SECONDS and not case.touched((worker,), began - CHILD_NOTICED_SECONDS, entry.at):
                yield f"{entry.facts}", None


def processes_stay_up(case: Case) -> Findings:
    for entry in case.of["exit"]:
        yield f"{entry.facts} by itself at {entry.at}", None


def nothing_is_left_after_the_lifetimes(case: Case) -> Findings:
    for entry in case.of["key"]:
        if is_left_over(**entry.facts):
            yield f"{entry.facts}", None


def memory_is_steady(case: Case) -> Findings:
    samples: dict[tuple[str, int], list[int]] = defaultdict(list)
    for entry in case.of["memory"]:
        samples[entry.facts["role"], entry.facts["pid"]].append(entry.facts["bytes"])
    for (role, pid), sizes in samples.items():
        if len(sizes) >= STEADY_SAMPLES:
            early, late = max(sizes[: len(sizes) // 2]), max(sizes[-len(sizes) // 4 :])
            if late > early * GROWTH + GROWTH_BYTES:
                yield f"{role} (process {pid}) grew from {early >> 20} to {late >> 20} MiB", None


def the_harness_itself_worked(case: Case) -> Findings:
    for what in ("client failed", "injector failed", "gave up"):
        for entry in case.of[what]:
            yield f"{what}: {entry.facts}", entry.number


RULES: tuple[Callable[[Case], Findings], ...] = (
    every_accepted_job_ends,
    an_ended_job_never_changes,
    no_job_has_two_results,
    results_are_what_their_seeds_define,
    jobs_fail_only_when_all_attempts_were_taken_from_them,
    poison_fails,
    streams_are_unbroken,
    refusals_have_a_reason,
    connections_break_only_with_their_server,
    refusals_come_at_once,
    losses_are_noticed_and_run_again_in_time,
    processes_stay_up,
    nothing_is_left_after_the_lifetimes,
    memory_is_steady,
    the_harness_itself_worked,
)


def is_left_over(name: str, seconds_left: int, entries: int) -> bool:
    """Whether a key in Redis should not be there when all lifetimes are over. -1 seconds are left to what stays for
    ever; `entries` are those of one of RQ's registries of jobs."""
    of_jobs = ("rq:job:", "rq:results:", "rq:execution", "kamishibai:text:", "kamishibai:pictures:")
    books = ("rq:queues", "rq:workers", "kamishibai:workers")  # sets of names, for ever
    return name.startswith(of_jobs) or entries > 0 or (seconds_left < 0 and not name.startswith(books))


def seconds_after_loss(case: Case, loss: Entry, what: str) -> float | None:
    """Seconds from a worker's death until its jobs were `what` (noticed, rerun), less the time in which a further fault
    kept Redis or the other worker from seeing to it, and in which leases may be renewed after that. None: never.
    """
    killed_at, victim = loss.facts["killed_at"], loss.facts["victim"]
    seen = [e for e in case.of[what] if (e.facts["victim"], e.facts["killed_at"]) == (victim, killed_at)]
    if not seen:
        return None
    end = killed_at + float(seen[0].facts["seconds"])
    others = tuple(name for name in (*WORKERS, "redis") if name != victim)
    found = [(w.began, w.over + _lull_seconds(w)) for w in case.windows if w.victim in others]
    return _seconds_between(killed_at, end, found)


def _seconds_between(begin: float, end: float, hindrances: list[tuple[float, float]]) -> float:
    """From one time to another, less the times in which something was in the way."""
    undisturbed, at = 0.0, begin
    for began, over in sorted(hindrances):
        undisturbed += max(0.0, min(began, end) - at)
        at = max(at, min(over, end))
    return undisturbed + max(0.0, end - at)


def _lull_seconds(window: Window) -> float:
    """After Redis was away, workers may renew leases that have run out before anybody calls them lost."""
    return AFTER_OUTAGE_SECONDS if window.victim == "redis" or window.kind in {"cut", "block", "delay"} else 0.0


def _attempts(case: Case, ended: Entry) -> int:
    """Faults in a job's life that may have taken it from a worker or an engine."""
    accepted = next((e.at for e in case.of_job[ended.job or ""] if e.what == "accepted"), 0.0)
    return len(case.touched((*WORKERS, *CHILDREN, "redis"), accepted, ended.at, ("kill", "stop", "block", "away")))


def _excuse(case: Case, entry: Entry, code: str) -> bool:
    """Whether a fault explains a refusal that an entry tells of."""
    began, server = entry.at - float(entry.facts["seconds"]), entry.facts["server"]
    if case.touched((server, "redis"), began - STARTED_SECONDS, entry.at):
        return code in {"queue_unavailable", "no_worker"}
    both_down = all(case.touched((worker,), began - STARTED_SECONDS, entry.at) for worker in WORKERS)
    return code == "no_worker" and both_down


def _fault_of_stream(events: list[tuple[str, int, str]], finish: str, reference: Content) -> str | None:
    texts = [""] * len(reference)
    for event_id, choice, text in events:
        texts[choice] += text
        offsets = ",".join(str(len(each.encode())) for each in texts)
        if event_id != offsets:
            return f"event {event_id} came where {offsets} had been reached"
        if not reference[choice].startswith(texts[choice]):
            return f"choice {choice} so far is {texts[choice]!r}, alone it is {reference[choice]!r}"
    if finish == "done" and texts != reference:
        return f"the stream was done with {texts}, alone it is {reference}"
    return None

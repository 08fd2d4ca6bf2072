"""Each rule of the checker fails when its promise is broken: histories made by hand, one bad thing in each."""

from __future__ import annotations

import pytest

from tests.chaos.checker import RULES, check, seconds_after_loss
from tests.chaos.checker import Case as CheckedCase
from tests.chaos.history import Entry
from tests.chaos.orders import POISON

REFERENCES = [["abc"], ["one", "two"], *[["abc"]] * POISON]
SUCCESS = {"status": "succeeded", "seed": 1, "ended_at": 5.0, "content": ["abc"], "error": None}


def job(number=0, job="j", manner="job", ended=None, body=0):
    """A job's history; good unless told otherwise."""
    return [
        Entry(1.0, "sent", number, None, {"manner": manner, "body": body}),
        Entry(1.1, "accepted", number, job, {"seconds": 0.1, "server": "server-1"}),
        *(Entry(2.0 + i, "ended", number, job, facts) for i, facts in enumerate(ended or [SUCCESS, SUCCESS])),
    ]


def fault(kind, victim, began, over, number=0):
    facts = {"fault": number, "kind": kind, "victim": victim, "seconds": 0.0}
    return [Entry(began, "fault", facts=facts), Entry(over, "over", facts=facts)]


def stream(events, finish="done", body=0, server="server-1"):
    facts = {"events": events, "finish": finish, "server": server, "seconds": 1.0}
    return [Entry(1.0, "sent", 0, None, {"manner": "stream", "body": body}), Entry(3.0, "streamed", 0, None, facts)]


def interrupted(finish):
    facts = {"finish": finish, "server": "server-1", "seconds": 0.5}
    return [*job(manner="follow"), Entry(9.0, "interrupted", 0, "j", facts)]


def refused(code="queue_unavailable", status=503, seconds=0.01, at=10.0, asked="POST /v1/jobs"):
    facts = {"asked": asked, "status": status, "code": code, "server": "server-1", "seconds": seconds}
    return [*job(), Entry(at, "refused", 0, None, facts)]


def loss(noticed=10.0, rerun=12.0):
    facts = {"victim": "worker-1", "killed_at": 10.0, "jobs": 3}
    seen = [("noticed", noticed), ("rerun", rerun)]
    return [
        Entry(10.0, "lost", facts=facts),
        *(Entry(10 + after, what, facts=facts | {"seconds": after}) for what, after in seen if after),
    ]


def broken_connection(at=10.0):
    facts = {"asked": "POST /v1/jobs", "status": 0, "code": "", "server": "server-1", "seconds": 0.1}
    return [*job(), Entry(at, "broken", 0, None, facts)]


def key(name, seconds_left, entries=0):
    return [Entry(90.0, "key", facts={"name": name, "seconds_left": seconds_left, "entries": entries})]


def memory(*mebibytes):
    return [Entry(i, "memory", facts={"role": "redis", "pid": 1, "bytes": m << 20}) for i, m in enumerate(mebibytes)]


def failed(code):
    return SUCCESS | {"status": "failed", "content": None, "error": {"code": code}}


GOOD = {
    "a job that ended once": job(),
    "a job that was cancelled when asked": job(
        manner="cancel", ended=[SUCCESS | {"status": "cancelled", "content": None}]
    ),
    "a stream": stream([("1", 0, "a"), ("3", 0, "bc"), ("3", 0, "")]),
    "a job's stream that its server interrupted": fault("kill", "server-1", 8.9, 9.5) + interrupted("broken"),
    "poison": job(body=POISON, ended=[failed("engine_failed")]),
    "a stream of two texts": stream([("3,0", 0, "one"), ("3,3", 1, "two")], body=1),
    "a stream whose server was killed": fault("kill", "server-1", 2.5, 4) + stream([("1", 0, "a")], "broken"),
    "a refusal while Redis was away": fault("away", "redis", 9, 12) + refused(),
    "no worker while both were down": (
        fault("kill", "worker-1", 9, 12) + fault("kill", "worker-2", 9, 12, 1) + refused("no_worker")
    ),
    "a slow refusal by a Redis that stood still": fault("stop", "redis", 2, 12) + refused(seconds=9.0),
    "a refusal at the end of a wait": (
        fault("kill", "redis", 39, 42) + refused(seconds=20.8, at=40.0, asked="GET /v1/jobs/j?wait=20")
    ),
    "a connection that broke with its server": fault("kill", "server-1", 9.5, 12) + broken_connection(),
    "a loss noticed in time": loss(),
    "a child's death while Redis stood still": [
        Entry(5.0, "noticed", facts={"victim": "child-1", "killed_at": 1.0, "seconds": 4.0}),
        *fault("stop", "redis", 0.5, 4.0),
    ],
    "a loss that Redis' absence hid for long": loss(noticed=40.0, rerun=50.0) + fault("away", "redis", 11, 45),
    "four lost leases": [entry for n in range(4) for entry in fault("kill", "worker-1", 1.1 + n / 10, 1.15 + n / 10, n)]
    + job(ended=[failed("worker_lost")]),
    "books that stay": key("rq:workers", -1) + key("kamishibai:worker:worker-1", 12),
    "steady memory": memory(*[60] * 10, *[65] * 10),
}

BAD = {
    "every_accepted_job_ends": [job()[:2], [Entry(9.0, "drained", facts={"unfinished": ["rq:job:x"]})]],
    "an_ended_job_never_changes": [
        job(ended=[SUCCESS, SUCCESS | {"ended_at": 6.0}]),
        job(ended=[SUCCESS, SUCCESS | {"status": "failed"}]),
        [*job(), Entry(9.0, "missing", 0, "j")],
    ],
    "no_job_has_two_results": [[*job(), Entry(9.0, "results", 0, "j", {"count": 2})]],
    "results_are_what_their_seeds_define": [
        job(ended=[SUCCESS | {"content": ["abd"]}]),
        [*job()[:1], Entry(2.0, "answered", 0, None, {"content": ["ab"], "seconds": 1.0})],
    ],
    "jobs_fail_only_when_all_attempts_were_taken_from_them": [
        job(ended=[failed("worker_lost")]),
        fault("kill", "worker-1", 1.5, 1.8) + job(ended=[failed("engine_failed")]),
        job(ended=[SUCCESS | {"status": "cancelled", "content": None}]),
        job(ended=[failed("invalid_value")]),
    ],
    "poison_fails": [job(body=POISON, ended=[SUCCESS])],
    "streams_are_unbroken": [
        stream([("1", 0, "a"), ("3", 0, "c")]),
        stream([("1", 0, "a"), ("1", 0, "a"), ("3", 0, "bc")]),
        stream([("1", 0, "x")], "broken"),
        stream([("2", 0, "ab")]),
        stream([("3,0", 0, "one"), ("3,3", 1, "owt")], body=1),
    ],
    "refusals_have_a_reason": [
        refused(),
        refused("no_worker"),
        fault("kill", "worker-1", 9, 12) + refused("no_worker"),
        fault("away", "redis", 9, 12) + refused("internal_error", status=500),
        fault("away", "redis", 9, 12) + refused("engine_failed"),
        stream([], "refused: no_worker"),
        stream([("1", 0, "a")], "error: queue_unavailable"),
        interrupted("error: internal_error"),
    ],
    "connections_break_only_with_their_server": [
        broken_connection(),
        fault("kill", "server-2", 9.5, 12) + broken_connection(),
        stream([("1", 0, "a")], "broken"),
        interrupted("broken"),
    ],
    "refusals_come_at_once": [
        fault("away", "redis", 2, 30) + refused(seconds=3.0),
        fault("stop", "redis", 2, 40) + refused(seconds=20.0, at=30.0),
        fault("kill", "redis", 39, 42) + refused(seconds=23.0, at=40.0, asked="GET /v1/jobs/j?wait=20"),
    ],
    "losses_are_noticed_and_run_again_in_time": [
        loss(noticed=16.0),
        loss(rerun=31.0),
        loss(rerun=None),
        loss(noticed=30.0) + fault("kill", "redis", 12, 14),
        [Entry(5.0, "noticed", facts={"victim": "child-1", "killed_at": 1.0, "seconds": 4.0})],
        [
            Entry(5.0, "noticed", facts={"victim": "child-1", "killed_at": 1.0, "seconds": 4.0}),
            *fault("stop", "redis", 0.5, 2.5),
        ],
    ],
    "processes_stay_up": [[Entry(5.0, "exit", facts={"member": "worker-1", "status": 1})]],
    "nothing_is_left_after_the_lifetimes": [
        key("rq:job:x", 3),
        key("kamishibai:pictures:x:y", 86000),
        key("rq:finished:q", -1, entries=2),
        key("something:else", -1),
    ],
    "memory_is_steady": [memory(*[60] * 10, *range(60, 160, 10))],
    "the_harness_itself_worked": [[Entry(1.0, "client failed", facts={"error": "x"})]],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_has_no_violation(name):
    assert check(GOOD[name], REFERENCES) == []


@pytest.mark.parametrize(("rule", "entries"), [(rule, entries) for rule in BAD for entries in BAD[rule]])
def test_a_broken_promise_is_found_by_its_rule(rule, entries):
    assert rule in {violation.rule for violation in check(entries, REFERENCES)}


def test_every_rule_is_shown_to_fail():
    assert [rule.__name__ for rule in RULES] == list(BAD)


def seconds_after(entries, what):
    case = CheckedCase(entries, REFERENCES)
    return seconds_after_loss(case, case.of["lost"][0], what)


def test_the_time_in_which_another_fault_was_in_the_way_does_not_count():
    stopped = fault("stop", "worker-2", 14, 18, 1)
    assert seconds_after(loss(noticed=20.0) + stopped, "noticed") == 16.0
    assert seconds_after(loss(noticed=24.0) + stopped + fault("kill", "redis", 12, 15), "noticed") == 2.0 + 13.0

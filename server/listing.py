"""A page of a client's jobs."""

from __future__ import annotations

from typing import NamedTuple

from contracts.enqueue import MOST_AT_ONCE
from contracts.jobs import JobQueue, JobRecord, Status

MOST_LISTED = 100
DEFAULT_LISTED = 20
MOST_LOOKED_AT = 512  # jobs, for one page: a filter may let few of them through


class Page(NamedTuple):
    records: list[JobRecord]  # newest first
    last_id: str | None  # go on behind this one; it need not be on the page
    has_more: bool


def page_of_jobs(
    jobs: JobQueue, owner: str | None, *, after: str | None, limit: int, status: Status | None, model: str | None
) -> Page:
    """At most `limit` of an owner's jobs that pass the filters. Raises NotFound where `after` is listed no more."""
    found: list[JobRecord] = []
    for _ in range(0, MOST_LOOKED_AT, MOST_AT_ONCE):
        ids = jobs.listed(owner, after, MOST_AT_ONCE)
        for record in jobs.read_all(ids):
            if status in (None, record.status) and model in (None, record.request.target.model):
                if len(found) == limit:
                    return Page(found, found[-1].id, has_more=True)
                found.append(record)
        if len(ids) < MOST_AT_ONCE:
            return Page(found, found[-1].id if found else None, has_more=False)
        after = ids[-1]
    return Page(found, after, has_more=True)

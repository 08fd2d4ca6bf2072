"""Every Redis key and channel that is ours. RQ's own keys begin with `rq:`; these come on top, each with a lifetime but
for the API keys, which stay.

kamishibai:bell:<queue>               list    one token while a queue may hold work; workers wait on it
kamishibai:worker:<worker>            string  JSON: what a worker serves and its counters (contracts.announcements)
kamishibai:workers                    set     names of workers that have announced themselves
kamishibai:text:<job>:<choice>        string  text of a streaming job's choice so far, UTF-8
kamishibai:pictures:<job>:<execution> list    PNG files of a finished picture job
kamishibai:batch:<batch>              hash    what was asked, how far it is, how it ended (server.batches)
kamishibai:batch_lease:<batch>        string  token of the clerk that carries it out
kamishibai:batches                    zset    ids of batches, all with score 0: ids are in the order of their making
kamishibai:batches:<owner>            zset    the same of one owner
kamishibai:batches_open               zset    <owner>:<batch> of those that have not ended, all with score 0
kamishibai:janitor                    string  lock of the worker parent that looks for lost leases
kamishibai:keys                       hash    API keys by id, JSON (contracts.api_keys); only the operator writes it

channel kamishibai:ended              JSON list of job ids that have reached a terminal state
channel kamishibai:deltas             JSON list of [job id, choice, byte offset, text]
channel rq:pubsub:<worker>            RQ's own: {"command": "stop-job", "job_id": ...}
"""

from __future__ import annotations

PREFIX = "kamishibai:"
WORKERS = PREFIX + "workers"
JANITOR = PREFIX + "janitor"
NOTHING = PREFIX + "nothing"  # never there: deleting it asks whether Redis takes writes
API_KEYS = PREFIX + "keys"
BATCHES = PREFIX + "batches"
OPEN_BATCHES = PREFIX + "batches_open"
ENDED_CHANNEL = PREFIX + "ended"
DELTA_CHANNEL = PREFIX + "deltas"

# A key that its owner forgets is gone after this time at the latest.
BELL_SECONDS = 3600
TEXT_SECONDS = 24 * 3600
PICTURES_SECONDS = 600  # until the job's end is written in the next call; then they live as long as the job
ANNOUNCEMENT_SECONDS = 20
BATCH_SECONDS = 30 * 24 * 3600  # after its end; while it has not ended, its window comes on top


def bell(queue: str) -> str:
    return f"{PREFIX}bell:{queue}"


def owner(key_id: str | None) -> str:
    """How keys name whose things they are; there is one owner while there are no API keys."""
    return key_id or "anyone"


def batch(batch_id: str) -> str:
    return f"{PREFIX}batch:{batch_id}"


def batch_lease(batch_id: str) -> str:
    return f"{PREFIX}batch_lease:{batch_id}"


def batches(owner: str) -> str:
    return f"{PREFIX}batches:{owner}"


def worker(name: str) -> str:
    return f"{PREFIX}worker:{name}"


def text(job_id: str, choice: int) -> str:
    return f"{PREFIX}text:{job_id}:{choice}"


def pictures(job_id: str, execution_id: str) -> str:
    return f"{PREFIX}pictures:{job_id}:{execution_id}"

"""Every Redis key and channel that is ours. RQ's own keys begin with `rq:`; these come on top, each with a lifetime but
for what the operator has said, secrets and a few sums, which stay.

kamishibai:bell:<engine>              list    one token while its queues may hold work; workers wait on it
kamishibai:load:<engine>              hash    of what waits in its queues: work, bytes; and turns taken
kamishibai:deadlines:<queue>          zset    jobs in this queue that have a deadline, by it
kamishibai:jobs:<owner>               zset    jobs that an owner can list, by the time of their making
kamishibai:unfinished:<owner>         zset    jobs of an owner whose number is limited, until their end
kamishibai:rate:<owner>               string  Unix seconds up to which an owner's jobs have used up its rate
kamishibai:idempotency:<owner>:<key>  string  digest of a body, and the job that it made
kamishibai:webhooks                   zset    ended jobs whose maker wants word of it, by when to send it
kamishibai:webhook_attempts:<job>     string  how often its webhook has failed
kamishibai:webhook_counts             hash    webhooks delivered, failed and dropped; stays
kamishibai:webhook_secrets            hash    what signs webhooks, by owner (server.webhook_secrets); stays
kamishibai:worker:<worker>            string  JSON: what a worker serves and its counters (contracts.announcements)
kamishibai:workers                    set     names of workers that have announced themselves
kamishibai:text:<job>:<choice>        string  text of a streaming job's choice so far, UTF-8
kamishibai:pictures:<job>:<execution> list    files of a finished picture job
kamishibai:batch:<batch>              hash    what was asked, how far it is, how it ended (server.batches)
kamishibai:batch_lease:<batch>        string  token of the clerk that carries it out
kamishibai:batches                    zset    ids of batches, all with score 0: ids are in the order of their making
kamishibai:batches:<owner>            zset    the same of one owner
kamishibai:batches_open               zset    <owner>:<batch> of those that have not ended, all with score 0
kamishibai:janitor                    string  lock of the worker parent that looks for lost leases
kamishibai:unloaded                   set     models that no worker shall serve; an operator's word, which stays
kamishibai:reloads                    hash    how often each model was to be read anew; likewise
kamishibai:drained                    set     workers that shall take nothing; likewise
kamishibai:shadows                    hash    what is compared with what, by model (contracts.shadows); likewise
kamishibai:shadow_report:<model>      hash    what a comparison has found, in sums
kamishibai:shadowing                  string  token of the clerk that compares
kamishibai:keys                       hash    API keys by id, JSON (contracts.api_keys); only the operator writes it
kamishibai:url_secret                 string  32 random bytes that sign URLs of pictures (server.picture_urls)

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
UNLOADED = PREFIX + "unloaded"
RELOADS = PREFIX + "reloads"
DRAINED = PREFIX + "drained"
SHADOWS = PREFIX + "shadows"
SHADOWING = PREFIX + "shadowing"
URL_SECRET = PREFIX + "url_secret"
BATCHES = PREFIX + "batches"
OPEN_BATCHES = PREFIX + "batches_open"
WEBHOOKS = PREFIX + "webhooks"
WEBHOOK_COUNTS = PREFIX + "webhook_counts"
ENDED_CHANNEL = PREFIX + "ended"
DELTA_CHANNEL = PREFIX + "deltas"

# A key that its owner forgets is gone after this time at the latest.
BELL_SECONDS = 3600
TEXT_SECONDS = 24 * 3600
PICTURES_SECONDS = 600  # until the job's end is written in the next call; then they live as long as the job
ANNOUNCEMENT_SECONDS = 20
LOAD_SECONDS = 24 * 3600
OWNER_SECONDS = 7 * 24 * 3600
IDEMPOTENCY_SECONDS = 24 * 3600
WEBHOOK_SECONDS = 24 * 3600  # after an attempt; the next one comes within 6 hours
SHADOW_REPORT_SECONDS = 7 * 24 * 3600  # after the last thing that was found
BATCH_SECONDS = 30 * 24 * 3600  # after its end; while it has not ended, its window comes on top


def shadow_report(model: str) -> str:
    return f"{PREFIX}shadow_report:{model}"


def bell(engine: str) -> str:
    return f"{PREFIX}bell:{engine}"


def load(engine: str) -> str:
    return f"{PREFIX}load:{engine}"


def owner(key_id: str | None) -> str:
    """How keys name whose jobs they are; there is one owner while there are no API keys."""
    return key_id or "anyone"


def jobs(owner: str) -> str:
    return f"{PREFIX}jobs:{owner}"


def deadlines(queue: str) -> str:
    return f"{PREFIX}deadlines:{queue}"


def idempotency(owner: str, digest: str) -> str:
    return f"{PREFIX}idempotency:{owner}:{digest}"


def webhook_attempts(job_id: str) -> str:
    return f"{PREFIX}webhook_attempts:{job_id}"


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

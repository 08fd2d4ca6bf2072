"""Every Redis key and channel that is ours. RQ's own keys begin with `rq:`; these come on top, each with a lifetime but
for the API keys and the secret of URLs, which stay.

kamishibai:bell:<queue>               list    one token while a queue may hold work; workers wait on it
kamishibai:worker:<worker>            string  JSON: what a worker serves and its counters (contracts.announcements)
kamishibai:workers                    set     names of workers that have announced themselves
kamishibai:text:<job>:<choice>        string  text of a streaming job's choice so far, UTF-8
kamishibai:pictures:<job>:<execution> list    PNG files of a finished picture job
kamishibai:janitor                    string  lock of the worker parent that looks for lost leases
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
URL_SECRET = PREFIX + "url_secret"
ENDED_CHANNEL = PREFIX + "ended"
DELTA_CHANNEL = PREFIX + "deltas"

# A key that its owner forgets is gone after this time at the latest.
BELL_SECONDS = 3600
TEXT_SECONDS = 24 * 3600
PICTURES_SECONDS = 600  # until the job's end is written in the next call; then they live as long as the job
ANNOUNCEMENT_SECONDS = 20


def bell(queue: str) -> str:
    return f"{PREFIX}bell:{queue}"


def worker(name: str) -> str:
    return f"{PREFIX}worker:{name}"


def text(job_id: str, choice: int) -> str:
    return f"{PREFIX}text:{job_id}:{choice}"


def pictures(job_id: str, execution_id: str) -> str:
    return f"{PREFIX}pictures:{job_id}:{execution_id}"

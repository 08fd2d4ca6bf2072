"""Orders become jobs: limits, idempotency and enqueueing in one call to Redis, which leaves what RQ's own leaves."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import astuple
from typing import NamedTuple

from redis import Redis

from contracts import keys
from contracts.errors import (
    BodyTooLarge,
    IdempotencyConflict,
    KamishibaiError,
    QueueFull,
    RateLimited,
    TooManyJobs,
)
from contracts.lua import CLOCK, IS, RING, TOLD, WEIGH, WHOLE
from contracts.orders import Order, OrderLimits
from contracts.requests import Request

JOB_FUNCTION = "workers.tasks.perform"
LOST_LEASES_ALLOWED = 3  # RQ's own cleanup fails a job whose lease has run out unless retries are left
MAX_DATA_BYTES = 16 << 20  # of a job's data; a thousandth of that in zlib can stand for it
MOST_AT_ONCE = 64  # jobs in one round trip: Redis serves the others between two of them

ENQUEUE = (
    CLOCK
    + IS
    + WHOLE
    + RING
    + TOLD
    + WEIGH
    + """
-- ARGV: owner, most jobs, work and bytes in an engine's queues, jobs of the owner a minute and unfinished (0: no
--   limit), lifetimes of what is kept of owners and of idempotency keys, then per job: id, queue, data, meta, work,
--   description, timeout, lifetime of the result, 1 if listed, idempotency key and digest
-- Returns per job {word, text}: ok and repeated with the job's id; full, rate, many and conflict with a number.
local time, stamp, iso = clock()
local owner, most_jobs, most_work, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local a_minute, most_unfinished, owner_seconds = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local rate, unfinished = 'kamishibai:rate:' .. owner, 'kamishibai:unfinished:' .. owner
local listed = 'kamishibai:jobs:' .. owner

-- What waits for an engine: jobs, work, bytes. Sums that belong to no job are forgotten.
local function waiting(engine)
  local jobs, load = 0, 'kamishibai:load:' .. engine
  for _, priority in ipairs({'high', 'normal', 'low'}) do
    local queue = 'rq:queue:' .. engine .. '/' .. priority
    if is(queue, 'list') then jobs = jobs + redis.call('LLEN', queue) end
  end
  if jobs == 0 then redis.call('DEL', load) end
  local sums = redis.call('HMGET', load, 'work', 'bytes')
  return jobs, whole(sums[1], 0), whole(sums[2], 0)
end

-- Jobs that are gone without an end count no longer.
local function tidy(key, ids)
  for _, id in ipairs(ids) do
    if redis.call('EXISTS', 'rq:job:' .. id) == 0 then redis.call('ZREM', key, id) end
  end
end

-- The generic cell rate algorithm: when the owner's last job would have been paid for, at an even pace.
local interval = a_minute > 0 and 60 / a_minute or 0
local paid = time
if a_minute > 0 then paid = math.max(time, tonumber(redis.call('GET', rate) or '') or 0) end

local function refusal(queue, work, bytes)
  if a_minute > 0 and paid + interval - time > 60 then
    return {'rate', string.format('%.3f', paid + interval - time - 60)}
  end
  if most_unfinished > 0 and redis.call('ZCARD', unfinished) >= most_unfinished then
    tidy(unfinished, redis.call('ZRANGE', unfinished, 0, 15))
    local count = redis.call('ZCARD', unfinished)
    if count >= most_unfinished then return {'many', tostring(count)} end
  end
  local jobs, queued_work, queued_bytes = waiting(engine_of(queue))
  if most_jobs > 0 and jobs >= most_jobs
     or jobs > 0 and most_work > 0 and queued_work + work > most_work
     or jobs > 0 and most_bytes > 0 and queued_bytes + bytes > most_bytes then
    return {'full', tostring(jobs)}
  end
end

local answers = {}
for i = 9, #ARGV, 11 do
  local id, queue, data, key, digest = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 9], ARGV[i + 10]
  local job, answer = 'rq:job:' .. id, nil
  local before = key ~= '' and redis.call('GET', key)
  if before then
    local its_digest, first = string.match(before, '^(%S+) (%S+)$')
    answer = {its_digest == digest and 'repeated' or 'conflict', first or ''}
  elseif redis.call('EXISTS', job) == 1 then
    answer = {'repeated', id}
  else
    answer = refusal(queue, tonumber(ARGV[i + 4]), #data)
  end
  if not answer then
    answer = {'ok', id}
    redis.call('SADD', 'rq:queues', 'rq:queue:' .. queue)
    redis.call('HSET', job, 'created_at', iso, 'enqueued_at', iso, 'started_at', '', 'ended_at', '',
               'last_heartbeat', '', 'worker_name', '', 'group_id', '', 'data', data, 'status', 'queued',
               'origin', queue, 'description', ARGV[i + 5], 'timeout', ARGV[i + 6], 'result_ttl', ARGV[i + 7],
               'failure_ttl', ARGV[i + 7], 'meta', ARGV[i + 3], 'success_callback_name', '',
               'failure_callback_name', '', 'stopped_callback_name', '', 'retries_left', """
    + str(LOST_LEASES_ALLOWED)
    + """, 'retry_intervals', '[0]')
    redis.call('RPUSH', 'rq:queue:' .. queue, id)
    weigh(queue, id, 1)
    ring(queue)
    paid = paid + interval
    if most_unfinished > 0 then
      redis.call('ZADD', unfinished, time, id)
      redis.call('EXPIRE', unfinished, owner_seconds)
    end
    if ARGV[i + 8] == '1' then
      tidy(listed, redis.call('ZRANDMEMBER', listed, 2))   -- so that at most a third of them is past its lifetime
      redis.call('ZADD', listed, time + #answers / 1e6, id)  -- in the order in which they came
      redis.call('EXPIRE', listed, owner_seconds)
    end
    if key ~= '' then redis.call('SET', key, digest .. ' ' .. id, 'EX', ARGV[8]) end
  end
  answers[#answers + 1] = answer
end
if paid > time then redis.call('SET', rate, string.format('%.6f', paid), 'EX', 120) end
return answers
"""
)


class Accepted(NamedTuple):
    """The queue has the job: it ends in exactly one terminal state."""

    job_id: str
    repeated: bool  # the order had been accepted before


class Enqueuer:
    """Puts orders on their queues and rings the bells."""

    def __init__(self, connection: Redis) -> None:
        self._script = connection.register_script(ENQUEUE)

    def enqueue(self, orders: Sequence[Order], limits: OrderLimits) -> list[Accepted | KamishibaiError]:
        """What became of each order, all of one owner: Accepted, QueueFull, RateLimited, TooManyJobs or
        IdempotencyConflict.

        Raises BodyTooLarge for a request that no worker would read; then none is enqueued.
        """
        if not orders:
            return []
        owner = keys.owner(orders[0].owner)
        rows = [_row(order, owner) for order in orders]
        head = (owner, *astuple(limits), keys.OWNER_SECONDS, keys.IDEMPOTENCY_SECONDS)
        answers: list[list[bytes]] = []
        for begin in range(0, len(rows), MOST_AT_ONCE):
            part = rows[begin : begin + MOST_AT_ONCE]
            answers += self._script(keys=[], args=[*head, *(value for row in part for value in row)])
        return [_outcome(word, text.decode(), limits) for word, text in answers]


def _row(order: Order, owner: str) -> tuple[str | bytes | int, ...]:
    request, target = order.request, order.request.target
    repeats = order.idempotency
    return (
        order.job_id,
        order.queue,
        pack(request),
        order.meta.write(),
        request.work,
        f"{request.task} {target.model}@{target.version}",
        order.timeout_seconds,
        order.result_seconds,
        int(order.listed),
        keys.idempotency(owner, repeats.key) if repeats else "",
        repeats.digest if repeats else "",
    )


def pack(request: Request) -> bytes:
    """The `data` field of RQ's job hash. Raises BodyTooLarge for a request that no worker would read."""
    data = f'["{JOB_FUNCTION}",null,[{request.model_dump_json()}],{{}}]'.encode()
    if len(data) > MAX_DATA_BYTES:
        raise BodyTooLarge(f"As a job the request has {len(data)} bytes, over {MAX_DATA_BYTES}; send less.")
    return zlib.compress(data)


def _outcome(word: bytes, text: str, limits: OrderLimits) -> Accepted | KamishibaiError:
    match word:
        case b"ok" | b"repeated":
            return Accepted(text, repeated=word == b"repeated")
        case b"conflict":
            return IdempotencyConflict(
                "This 'Idempotency-Key' came with another body before; use a new key for a new request."
            )
        case b"rate":
            return RateLimited(
                f"This key may make {limits.jobs_per_minute} jobs a minute; try again in {float(text):.1f} seconds.",
                retry_after_seconds=float(text),
            )
        case b"many":
            return TooManyJobs(
                f"{text} jobs of this key have not ended, and it may have {limits.unfinished_jobs}; wait for some."
            )
        case _:
            return QueueFull(f"The queue of this model is full: {text} jobs wait. Try again later.")

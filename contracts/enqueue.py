"""Orders become jobs: limits, idempotency and enqueueing in one call to Redis, which leaves what RQ's own leaves."""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from redis import Redis, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts import keys
from contracts.errors import (
    BodyTooLarge,
    IdempotencyConflict,
    KamishibaiError,
    QueueFull,
    RateLimited,
    TooManyJobs,
)
from contracts.lua import CLOCK, IS, RING, WEIGH_ALL, WHOLE
from contracts.orders import Order, OrderLimits
from contracts.requests import Request

JOB_FUNCTION = "workers.tasks.perform"
LOST_LEASES_ALLOWED = 3  # RQ's own cleanup fails a job whose lease has run out unless retries are left
MAX_DATA_BYTES = 16 << 20  # of a job's data; a thousandth of that in zlib can stand for it
SMALL_DATA_BYTES = 4096  # all that a window of 12 bits can look back to
MOST_AT_ONCE = 64  # jobs in one round trip: Redis serves the others between two of them

ENQUEUE = (
    CLOCK
    + IS
    + WHOLE
    + RING
    + WEIGH_ALL
    + """
-- ARGV: lifetimes of what is kept of owners and of idempotency keys, then per job: owner, most jobs, work and bytes in
--   its engine's queues, jobs of the owner a minute and unfinished (0: no limit), id, queue, data, meta, work, deadline
--   if any, description, timeout, lifetime of the result, 1 if listed, idempotency key and digest
-- Returns per job {word, text}: ok and repeated with the job's id; full, rate, many and conflict with a number.
local time, stamp, iso = clock()
local owner_seconds, key_seconds = ARGV[1], ARGV[2]

-- What waits for an engine: jobs, work, bytes. Sums that belong to no job are forgotten.
local engines = {}
local function engine_named(name)
  local found = engines[name]
  if not found then
    local jobs, load = 0, 'kamishibai:load:' .. name
    for _, priority in ipairs({'high', 'normal', 'low'}) do
      local queue = 'rq:queue:' .. name .. '/' .. priority
      if is(queue, 'list') then jobs = jobs + redis.call('LLEN', queue) end
    end
    if jobs == 0 or not is(load, 'hash') then redis.call('DEL', load) end
    local sums = redis.call('HMGET', load, 'work', 'bytes')
    found = {jobs = jobs, work = whole(sums[1], 0), bytes = whole(sums[2], 0), new_work = 0, new_bytes = 0}
    engines[name] = found
  end
  return found
end

-- The generic cell rate algorithm: when an owner's last job would have been paid for, at an even pace.
local accounts = {}
local function account_of(owner, a_minute)
  local found = accounts[owner]
  if not found then
    found = {interval = 0, paid = time}
    if a_minute > 0 then
      found.interval = 60 / a_minute
      found.paid = math.max(time, tonumber(redis.call('GET', 'kamishibai:rate:' .. owner) or '') or 0)
    end
    accounts[owner] = found
  end
  return found
end

-- Jobs that are gone without an end count no longer.
local function tidy(key, ids)
  for _, id in ipairs(ids) do
    if redis.call('EXISTS', 'rq:job:' .. id) == 0 then redis.call('ZREM', key, id) end
  end
end

local function refusal(engine, account, unfinished, most_jobs, most_work, most_bytes, most_unfinished, work, bytes)
  if account.paid + account.interval - time > 60 then
    return {'rate', string.format('%.3f', account.paid + account.interval - time - 60)}
  end
  if most_unfinished > 0 and redis.call('ZCARD', unfinished) >= most_unfinished then
    tidy(unfinished, redis.call('ZRANGE', unfinished, 0, 15))
    local count = redis.call('ZCARD', unfinished)
    if count >= most_unfinished then return {'many', tostring(count)} end
  end
  if most_jobs > 0 and engine.jobs >= most_jobs
     or engine.jobs > 0 and most_work > 0 and engine.work + work > most_work
     or engine.jobs > 0 and most_bytes > 0 and engine.bytes + bytes > most_bytes then
    return {'full', tostring(engine.jobs)}
  end
end

local answers, queues = {}, {}
for i = 3, #ARGV, 18 do
  local owner, a_minute, most_unfinished = ARGV[i], tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  local id, queue, data, work, deadline = ARGV[i + 6], ARGV[i + 7], ARGV[i + 8], tonumber(ARGV[i + 10]), ARGV[i + 11]
  local key, digest = ARGV[i + 16], ARGV[i + 17]
  local job, unfinished, answer = 'rq:job:' .. id, 'kamishibai:unfinished:' .. owner, nil
  local engine, account = engine_named(engine_of(queue)), account_of(owner, a_minute)
  local before = key ~= '' and redis.call('GET', key)
  if before then
    local its_digest, first = string.match(before, '^(%S+) (%S+)$')
    answer = {its_digest == digest and 'repeated' or 'conflict', first or ''}
  elseif redis.call('EXISTS', job) == 1 then
    answer = {'repeated', id}
  else
    answer = refusal(engine, account, unfinished, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]),
                     most_unfinished, work, #data)
  end
  if not answer then
    answer = {'ok', id}
    redis.call('HSET', job, 'created_at', iso, 'enqueued_at', iso, 'started_at', '', 'ended_at', '',
               'last_heartbeat', '', 'worker_name', '', 'group_id', '', 'data', data, 'status', 'queued',
               'origin', queue, 'description', ARGV[i + 12], 'timeout', ARGV[i + 13], 'result_ttl', ARGV[i + 14],
               'failure_ttl', ARGV[i + 14], 'meta', ARGV[i + 9], 'success_callback_name', '',
               'failure_callback_name', '', 'stopped_callback_name', '', 'retries_left', """
    + str(LOST_LEASES_ALLOWED)
    + """, 'retry_intervals', '[0]')
    redis.call('RPUSH', 'rq:queue:' .. queue, id)
    queues[queue] = true
    engine.jobs, engine.work, engine.bytes = engine.jobs + 1, engine.work + work, engine.bytes + #data
    engine.new_work, engine.new_bytes = engine.new_work + work, engine.new_bytes + #data
    account.paid = account.paid + account.interval
    if deadline ~= '' and is('kamishibai:deadlines:' .. queue, 'zset', 'none') then
      redis.call('ZADD', 'kamishibai:deadlines:' .. queue, deadline, id)
    end
    if most_unfinished > 0 then
      redis.call('ZADD', unfinished, time, id)
      redis.call('EXPIRE', unfinished, owner_seconds)
    end
    if ARGV[i + 15] == '1' then
      local listed = 'kamishibai:jobs:' .. owner
      tidy(listed, redis.call('ZRANDMEMBER', listed, 2))   -- so that at most a third of them is past its lifetime
      redis.call('ZADD', listed, time + #answers / 1e6, id)  -- in the order in which they came
      redis.call('EXPIRE', listed, owner_seconds)
    end
    if key ~= '' then redis.call('SET', key, digest .. ' ' .. id, 'EX', key_seconds) end
  end
  answers[#answers + 1] = answer
end

for queue in pairs(queues) do redis.call('SADD', 'rq:queues', 'rq:queue:' .. queue) end
for name, engine in pairs(engines) do
  if engine.new_bytes > 0 then
    weigh_all(name, engine.new_work, engine.new_bytes)
    ring(name)
  end
end
for owner, account in pairs(accounts) do
  if account.paid > time then
    redis.call('SET', 'kamishibai:rate:' .. owner, string.format('%.6f', account.paid), 'EX', 120)
  end
end
return answers
"""
)


class Accepted(NamedTuple):
    """The queue has the job: it ends in exactly one terminal state."""

    job_id: str
    repeated: bool  # the order had been accepted before


Row = tuple[str | bytes | int | float, ...]  # of an order, as the script wants it


class _Ticket:
    """Some orders of one caller on their way to Redis."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.answers: list[list[bytes]] | None = None
        self.error: RedisError | None = None

    @property
    def open(self) -> bool:
        return self.answers is None and self.error is None


class Enqueuer:
    """Puts orders on their queues and rings the bells. While one call to Redis is under way, the orders of others
    gather, and go together with the next."""

    def __init__(self, connection: Redis) -> None:
        self._script = connection.register_script(ENQUEUE)
        self._line: deque[_Ticket] = deque()
        self._sending = threading.Lock()

    def enqueue(self, orders: Sequence[Order], limits: OrderLimits) -> list[Accepted | KamishibaiError]:
        """What became of each order, all of one owner: Accepted, QueueFull, RateLimited, TooManyJobs,
        IdempotencyConflict, or BodyTooLarge for a request that no worker would read."""
        packed = [pack(order.request) for order in orders]
        rows = [
            _row(order, limits, data) for order, data in zip(orders, packed, strict=True) if isinstance(data, bytes)
        ]
        answers: list[list[bytes]] = []
        for begin in range(0, len(rows), MOST_AT_ONCE):
            answers += self._send(_Ticket(rows[begin : begin + MOST_AT_ONCE]))
        outcomes = (_outcome(word, text.decode(), limits) for word, text in answers)
        return [next(outcomes) if isinstance(data, bytes) else data for data in packed]

    def _send(self, ticket: _Ticket) -> list[list[bytes]]:
        self._line.append(ticket)
        with self._sending:
            while ticket.open:  # else somebody before us has taken it along
                self._send_first()
        if ticket.error is not None:
            raise ticket.error
        return ticket.answers or []

    def _send_first(self) -> None:
        """One call to Redis for those who came first. If it cannot be reached, all who wait in line are told."""
        tickets = [self._line.popleft()]
        rows = list(tickets[0].rows)
        while self._line and len(rows) + len(self._line[0].rows) <= MOST_AT_ONCE:
            tickets.append(self._line.popleft())
            rows += tickets[-1].rows
        try:
            head = (keys.OWNER_SECONDS, keys.IDEMPOTENCY_SECONDS)
            answers = iter(self._script(keys=[], args=[*head, *(value for row in rows for value in row)]))
            for ticket in tickets:
                ticket.answers = list(islice(answers, len(ticket.rows)))
        except BaseException as error:
            if isinstance(error, RedisConnectionError | RedisTimeoutError):
                tickets += self._line
                self._line.clear()
            for ticket in tickets:
                ticket.error = error if isinstance(error, RedisError) else RedisError("the call was broken off")
            if not isinstance(error, RedisError):
                raise


def _row(order: Order, limits: OrderLimits, data: bytes) -> Row:
    request, target = order.request, order.request.target
    repeats, owner = order.idempotency, keys.owner(order.owner)
    return (
        owner,
        limits.queued_jobs,
        limits.queued_work,
        limits.queued_bytes,
        limits.jobs_per_minute,
        limits.unfinished_jobs,
        order.job_id,
        order.queue,
        data,
        order.meta.write(),
        request.work,
        "" if order.deadline is None else order.deadline,
        f"{request.task} {target.model}@{target.version}",
        order.timeout_seconds,
        order.result_seconds,
        int(order.listed),
        keys.idempotency(owner, repeats.key) if repeats else "",
        repeats.digest if repeats else "",
    )


def pack(request: Request) -> bytes | BodyTooLarge:
    """The `data` field of RQ's job hash, unless no worker would read it."""
    data = f'["{JOB_FUNCTION}",null,[{request.model_dump_json()}],{{}}]'.encode()
    if len(data) > MAX_DATA_BYTES:
        return BodyTooLarge(f"As a job the request has {len(data)} bytes, over {MAX_DATA_BYTES}; send less.")
    return _deflated(data)


def _deflated(data: bytes) -> bytes:
    """As zlib.compress does it, but short data with a small window: to get and clear the memory of the usual one, a
    quarter of a megabyte, takes seven times as long as all the rest."""
    window_bits, memory_level = (12, 5) if len(data) <= SMALL_DATA_BYTES else (zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL)
    packer = zlib.compressobj(wbits=window_bits, memLevel=memory_level)
    return packer.compress(data) + packer.flush()


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

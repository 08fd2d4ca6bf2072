"""The Lua scripts of the worker: claim, publish, complete, renew, release, recover.

They write the keys and fields that RQ 2.12's own worker writes, in one call for up to MOST_JOBS jobs. The execution id
is a fencing token: a worker that has lost its lease can neither complete a job nor publish text of it. `rq:wip:<queue>`
holds `<job>:<execution>` with the Unix second at which the lease ends.
"""

from __future__ import annotations

from contracts.lua import CLOCK, EXPIRE_TEXTS, IS, LEAVE, RING, TOLD, WEIGH, WEIGH_ALL, WHOLE

MOST_JOBS = 64  # a claim of 1,000 would block Redis for 16 ms

# fail(...): what RQ leaves of a failed or stopped job. `exc` is base64 of zlib, as RQ's Result keeps it.
_FAIL = """
local function fail(id, execution, queue, worker, status, exc, time, stamp, iso)
  local job, results = 'rq:job:' .. id, 'rq:results:' .. id
  local fields = redis.call('HMGET', job, 'failure_ttl', 'meta')
  local lifetime = whole(fields[1], 3600)
  local started = redis.call('HGET', 'rq:execution:' .. id .. ':' .. execution, 'created_at')
  redis.call('HSET', job, 'status', status, 'ended_at', iso)
  redis.call('XADD', results, 'MAXLEN', '~', 10, '*', 'type', 2, 'worker_name', worker, 'exc_string', exc,
             'execution_id', execution, 'execution_started_at', started or stamp, 'execution_ended_at', stamp)
  redis.call('EXPIRE', results, lifetime)
  redis.call('EXPIRE', job, lifetime)
  expire_texts(id, lifetime)
  redis.call('ZADD', 'rq:failed:' .. queue, math.floor(time) + lifetime, id)
  leave(id, fields[2], time)
end
"""

# put_back(queue, id): a job that was claimed waits again, as the next of its queue.
_PUT_BACK = """
local function put_back(queue, id)
  redis.call('HSET', 'rq:job:' .. id, 'status', 'queued')
  redis.call('LPUSH', 'rq:queue:' .. queue, id)
  weigh(queue, id, 1)
  ring(engine_of(queue))
end
"""

CLAIM = (
    CLOCK
    + IS
    + WHOLE
    + EXPIRE_TEXTS
    + RING
    + TOLD
    + WEIGH_ALL
    + LEAVE
    + _FAIL
    + """
-- ARGV: until when, worker, lease seconds, most jobs, execution id prefix, exc_string of a job past its deadline,
--   payloads that the worker reads, each between two commas, then per engine: name, free places
-- Returns per job: {id, execution id, queue, data, timeout seconds, meta, when enqueued, when started before, now}
local time, stamp, iso = clock()
if time > tonumber(ARGV[1]) then return {} end             -- nobody waits for the answer any more
local now, worker, lease, most = math.floor(tonumber(stamp)), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local claimed, expired, looked_at = {}, {}, 0

-- RQ's list and the jobs with deadlines of a queue of ours; nil for what is of another type.
local function open(queue)
  local list, deadlines = 'rq:queue:' .. queue, 'kamishibai:deadlines:' .. queue
  return {name = queue, list = is(list, 'list') and list, deadlines = is(deadlines, 'zset') and deadlines}
end

-- The next job of an engine, urgent ones first; but every eighth turn begins with those that are not, so that they wait
-- for ever behind nobody. On every other turn jobs with deadlines come first in their queue. RQ's list keeps them.
-- Returns the id, its queue, and whether it was taken off the list.
local function next_job(queues, turn)
  for place = 1, 3 do
    local queue = queues[turn % 8 == 7 and 4 - place or place]
    if queue.list then
      local id = turn % 2 == 1 and queue.deadlines and redis.call('ZPOPMIN', queue.deadlines)[1]
      if id then return id, queue.name, false end
      id = redis.call('LPOP', queue.list)
      if id then return id, queue.name, true end
      queue.list = nil                                     -- it is empty
    end
  end
end

-- The fields of a queued job; nil for cancelled and deleted ids, those that are none of RQ's, and those beside which
-- others have put keys.
local function claimable(id)
  local job = 'rq:job:' .. id
  if not string.match(id, '^[%w_-]+$') or not is(job, 'hash') then return nil end
  local fields = redis.call('HMGET', job, 'status', 'data', 'timeout', 'meta', 'enqueued_at', 'started_at')
  local sound = fields[1] == 'queued' and is('rq:results:' .. id, 'stream', 'none')
                and is('rq:executions:' .. id, 'zset', 'none')
  return sound and fields
end

-- Whether a worker that is newer than this one has to run the job: it stays where it is, and loses no attempt.
local function too_new(meta)
  local payload = meta.payload
  return type(payload) == 'string' and string.match(payload, '^%l+:%d+$') ~= nil
         and not string.find(ARGV[7], ',' .. payload .. ',', 1, true)
end

-- Jobs that were looked at and stay go back to the front of their queues, in their old order.
local function leave_waiting(left)
  for i = #left, 1, -1 do
    local queue, id, deadline, listed = unpack(left[i])
    if listed then redis.call('LPUSH', 'rq:queue:' .. queue, id) end
    if deadline and is('kamishibai:deadlines:' .. queue, 'zset', 'none') then
      redis.call('ZADD', 'kamishibai:deadlines:' .. queue, deadline, id)
    end
  end
end

local function claim(id, queue, fields)
  local job = 'rq:job:' .. id
  local execution = ARGV[5] .. #claimed
  local key = 'rq:execution:' .. id .. ':' .. execution
  redis.call('HSET', key, 'id', execution, 'created_at', stamp, 'last_heartbeat', stamp, 'worker_name', worker)
  redis.call('EXPIRE', key, lease)
  redis.call('ZADD', 'rq:executions:' .. id, now + lease + 60, execution)
  redis.call('EXPIRE', 'rq:executions:' .. id, lease + 60)
  redis.call('ZADD', 'rq:wip:' .. queue, now + lease, id .. ':' .. execution)
  redis.call('HSET', job, 'last_heartbeat', iso, 'status', 'started', 'started_at', iso, 'worker_name', worker)
  redis.call('PERSIST', job)
  claimed[#claimed + 1] = {id, execution, queue, fields[2], fields[3] or '', fields[4] or '', fields[5] or '',
                           fields[6] or '', stamp}
end

for i = 8, #ARGV, 2 do
  local engine, free, load = ARGV[i], tonumber(ARGV[i + 1]), 'kamishibai:load:' .. ARGV[i]
  if not is(load, 'hash', 'none') then redis.call('DEL', load) end
  local turn = whole(redis.call('HGET', load, 'turn'), 0)
  local queues = {open(engine .. '/high'), open(engine .. '/normal'), open(engine .. '/low')}
  local first, id, queue, listed, work, bytes, left = turn, '', '', true, 0, 0, {}
  while turn - first < free and #claimed < most and looked_at < 16 * most and #left < most and id do
    id, queue, listed = next_job(queues, turn)
    looked_at = looked_at + 1
    local fields = id and claimable(id)
    local meta = fields and told(fields[4])
    if fields and too_new(meta) then
      left[#left + 1] = {queue, id, type(meta.deadline) == 'number' and meta.deadline, listed}
      fields = nil
    end
    if fields then
      work, bytes = work + whole(meta.work, 0), bytes + #(fields[2] or '')
      if type(meta.deadline) == 'number' then
        local deadlines = 'kamishibai:deadlines:' .. queue
        if is(deadlines, 'zset') then redis.call('ZREM', deadlines, id) end
        if meta.deadline < time then
          fail(id, '', queue, worker, 'failed', ARGV[6], time, stamp, iso)
          expired[#expired + 1] = id
          fields = nil
        end
      end
    end
    if fields then
      claim(id, queue, fields)
      turn = turn + 1
    end
  end
  leave_waiting(left)
  local rest = #left > 0
  for place = 1, 3 do
    local list = queues[place].list
    rest = rest or (list and redis.call('EXISTS', list) == 1)
  end
  if rest then
    weigh_all(engine, -work, -bytes)
    -- Were we to wait for this bell with free places, we would ring it for ourselves for ever.
    if #left == 0 or turn - first == free then ring(engine) end
    if turn > first then redis.call('HSET', load, 'turn', turn % 8) end
  else
    redis.call('DEL', load)
  end
end
if #expired > 0 then redis.call('PUBLISH', 'kamishibai:ended', cjson.encode(expired)) end
return claimed
"""
)

# held(id, execution, queue): does this execution still hold the job?
_HELD = """
local function held(id, execution, queue)
  return redis.call('HGET', 'rq:job:' .. id, 'status') == 'started'
     and redis.call('ZSCORE', 'rq:wip:' .. queue, id .. ':' .. execution)
end
local function forget(id, execution, queue)
  redis.call('DEL', 'rq:execution:' .. id .. ':' .. execution)
  redis.call('ZREM', 'rq:wip:' .. queue, id .. ':' .. execution)
  redis.call('ZREM', 'rq:executions:' .. id, execution)
end
"""

# settle_pictures(id, execution): of a completion that is not taken. If this execution has finished the job before (the
# answer got lost, and it was sent again) they live as long as the job; those of any other execution go.
_PICTURES = """
local function settle_pictures(id, execution)
  local pictures = 'kamishibai:pictures:' .. id .. ':' .. execution
  local last = redis.call('XREVRANGE', 'rq:results:' .. id, '+', '-', 'COUNT', 1)[1]
  for i = 1, last and #last[2] or 0, 2 do
    if last[2][i] == 'execution_id' and last[2][i + 1] == execution then
      redis.call('EXPIRE', pictures, redis.call('TTL', 'rq:job:' .. id))
      return
    end
  end
  redis.call('DEL', pictures)
end
"""

COMPLETE = (
    CLOCK
    + IS
    + WHOLE
    + EXPIRE_TEXTS
    + TOLD
    + LEAVE
    + _HELD
    + _FAIL
    + _PICTURES
    + """
-- ARGV: worker, then per job: id, execution id, queue, outcome (finished, failed, stopped), base64 value or exc_string
-- Returns execution ids: {those that had lost their lease, those whose job has dependents in RQ}.
-- Publishes the jobs that have ended.
local time, stamp, iso = clock()
local worker = 'rq:worker:' .. ARGV[1]
local lost, dependents, ended, finished, seconds = {}, {}, {}, 0, 0
for i = 2, #ARGV, 5 do
  local id, execution, queue, outcome, payload = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local job, results = 'rq:job:' .. id, 'rq:results:' .. id
  if not held(id, execution, queue) then
    lost[#lost + 1] = execution                            -- cancelled, deleted, or given to another worker
    settle_pictures(id, execution)
  else
    local started = redis.call('HGET', 'rq:execution:' .. id .. ':' .. execution, 'created_at') or stamp
    if outcome == 'finished' then
      local fields = redis.call('HMGET', job, 'result_ttl', 'meta')
      local lifetime = whole(fields[1], 500)
      redis.call('HSET', job, 'status', 'finished', 'ended_at', iso)
      redis.call('XADD', results, 'MAXLEN', '~', 10, '*', 'type', 1, 'worker_name', ARGV[1], 'return_value', payload,
                 'execution_id', execution, 'execution_started_at', started, 'execution_ended_at', stamp)
      redis.call('EXPIRE', results, lifetime)
      redis.call('EXPIRE', job, lifetime)
      expire_texts(id, lifetime)
      redis.call('EXPIRE', 'kamishibai:pictures:' .. id .. ':' .. execution, lifetime)
      redis.call('ZADD', 'rq:finished:' .. queue, math.floor(tonumber(stamp)) + lifetime, id)
      leave(id, fields[2], time)
      finished = finished + 1
    else
      fail(id, execution, queue, ARGV[1], outcome, payload, time, stamp, iso)
    end
    seconds = seconds + tonumber(stamp) - tonumber(started)
    if redis.call('EXISTS', job .. ':dependents') == 1 then dependents[#dependents + 1] = execution end
    ended[#ended + 1] = id
  end
  forget(id, execution, queue)
end
if finished > 0 then redis.call('HINCRBY', worker, 'successful_job_count', finished) end
if #ended > finished then redis.call('HINCRBY', worker, 'failed_job_count', #ended - finished) end
if #ended > 0 then redis.call('HINCRBYFLOAT', worker, 'total_working_time', string.format('%.6f', seconds)) end
if #ended > 0 then redis.call('PUBLISH', 'kamishibai:ended', cjson.encode(ended)) end
return {lost, dependents}
"""
)

PUBLISH = (
    _HELD
    + IS
    + """
-- ARGV: lifetime seconds, then per choice of a streaming job: id, execution id, queue, choice, byte offset, text
-- Appends what goes beyond the text that is there (a re-run after a crash repeats it silently) and publishes that.
-- Returns the execution ids that have lost their lease.
local lost, deltas = {}, {}
for i = 2, #ARGV, 6 do
  local id, choice, offset, text = ARGV[i], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), ARGV[i + 5]
  local key = 'kamishibai:text:' .. id .. ':' .. choice
  if not held(id, ARGV[i + 1], ARGV[i + 2]) then
    lost[#lost + 1] = ARGV[i + 1]
  elseif is(key, 'string', 'none') then
    local known = redis.call('STRLEN', key)
    if offset <= known and offset + #text > known then
      local fresh = string.sub(text, known - offset + 1)
      redis.call('APPEND', key, fresh)
      redis.call('EXPIRE', key, ARGV[1])
      deltas[#deltas + 1] = {id, choice, known, fresh}
    end
  end
end
if #deltas > 0 then redis.call('PUBLISH', 'kamishibai:deltas', cjson.encode(deltas)) end
return lost
"""
)

RENEW = (
    CLOCK
    + _HELD
    + """
-- ARGV: lease seconds, then per job: id, execution id, queue. Returns the execution ids that have lost their lease.
local _, stamp, iso = clock()
local now, lease = math.floor(tonumber(stamp)), tonumber(ARGV[1])
local lost = {}
for i = 2, #ARGV, 3 do
  local id, execution, queue = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if held(id, execution, queue) then
    local key = 'rq:execution:' .. id .. ':' .. execution
    if redis.call('HEXISTS', key, 'created_at') == 0 then  -- it ran out; RQ cannot read half of it
      local worker = redis.call('HGET', 'rq:job:' .. id, 'worker_name') or ''
      redis.call('HSET', key, 'id', execution, 'created_at', stamp, 'worker_name', worker)
    end
    redis.call('HSET', key, 'last_heartbeat', stamp)
    redis.call('EXPIRE', key, lease)
    redis.call('ZADD', 'rq:wip:' .. queue, 'XX', now + lease, id .. ':' .. execution)
    redis.call('ZADD', 'rq:executions:' .. id, now + lease + 60, execution)
    redis.call('EXPIRE', 'rq:executions:' .. id, lease + 60)
    redis.call('HSET', 'rq:job:' .. id, 'last_heartbeat', iso)
  else
    forget(id, execution, queue)
    lost[#lost + 1] = execution
  end
end
return lost
"""
)

RELEASE = (
    IS
    + WHOLE
    + RING
    + TOLD
    + WEIGH
    + _PUT_BACK
    + _HELD
    + """
-- ARGV: per job: id, execution id, queue. Gives jobs back to the front of their queues; costs them no attempt.
for i = 1, #ARGV, 3 do
  local id, execution, queue = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if held(id, execution, queue) then put_back(queue, id) end
  forget(id, execution, queue)
end
"""
)

# leave_canceled(queue, now, most): a cancelled job leaves RQ's registry when its record goes. RQ's own cancel, which
# knows no lifetime, puts it there with the time of its end: it gets its lifetime here.
_CANCELED = """
local function leave_canceled(queue, now, most)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'rq:canceled:' .. queue, 0, now, 'LIMIT', 0, 16 * most)) do
    local job, left = 'rq:job:' .. id, -2
    if is(job, 'hash') and redis.call('HGET', job, 'status') == 'canceled' then left = redis.call('TTL', job) end
    if left == -1 then
      left = whole(redis.call('HGET', job, 'result_ttl'), 3600)
      redis.call('EXPIRE', job, left)
      expire_texts(id, left)
    end
    if left > 0 then
      redis.call('ZADD', 'rq:canceled:' .. queue, now + left, id)
    else
      redis.call('ZREM', 'rq:canceled:' .. queue, id)
    end
  end
end
"""

# expire_due(queue, ...): fails queued jobs whose deadline has passed, and notes them in `ended`.
_EXPIRE_DUE = """
local function expire_due(queue, most, exc, time, stamp, iso, ended)
  local deadlines = 'kamishibai:deadlines:' .. queue
  if not is(deadlines, 'zset') then return end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', deadlines, 0, time, 'LIMIT', 0, most)) do
    redis.call('ZREM', deadlines, id)
    local job = 'rq:job:' .. id
    if is(job, 'hash') and redis.call('HGET', job, 'status') == 'queued' and is('rq:results:' .. id, 'stream', 'none')
    then
      redis.call('LREM', 'rq:queue:' .. queue, 1, id)
      weigh(queue, id, -1)
      fail(id, '', queue, '', 'failed', exc, time, stamp, iso)
      ended[#ended + 1] = id
    end
  end
end
"""

RECOVER = (
    CLOCK
    + IS
    + WHOLE
    + EXPIRE_TEXTS
    + RING
    + TOLD
    + WEIGH
    + LEAVE
    + _PUT_BACK
    + _HELD
    + _FAIL
    + _CANCELED
    + _EXPIRE_DUE
    + """
-- ARGV: until when, most jobs, exc_strings of a job without attempts left and of one past its deadline, then the queues
--   to look at
-- Gives jobs whose lease has run out to the front of their queue, or fails them; fails those whose deadline has passed.
-- Clears RQ's registries of ended jobs.
-- Returns {jobs given back, jobs failed}.
local time, stamp, iso = clock()
if time > tonumber(ARGV[1]) then return {0, 0} end         -- nobody could renew a lease while Redis stood still
local now, most = math.floor(tonumber(stamp)), tonumber(ARGV[2])
local again, failed = 0, {}
for i = 5, #ARGV do
  local queue = ARGV[i]
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', 'rq:wip:' .. queue, 0, now - 1, 'LIMIT', 0, most)) do
    local id, execution = string.match(entry, '^([^:]*):(.*)$')
    if not id then                                         -- an entry that no RQ of ours wrote
      redis.call('ZREM', 'rq:wip:' .. queue, entry)
      id, execution = '', ''
    end
    local job = 'rq:job:' .. id
    redis.call('ZREM', 'rq:executions:' .. id, execution)
    if redis.call('HGET', job, 'status') == 'started' and redis.call('ZCARD', 'rq:executions:' .. id) == 0 then
      local attempts = whole(redis.call('HGET', job, 'retries_left'), 0)
      if attempts > 0 then
        redis.call('HSET', job, 'retries_left', attempts - 1)
        put_back(queue, id)
        again = again + 1
      else
        fail(id, execution, queue, '', 'failed', ARGV[3], time, stamp, iso)
        failed[#failed + 1] = id
      end
    end
    forget(id, execution, queue)
  end
  expire_due(queue, most, ARGV[4], time, stamp, iso, failed)
  redis.call('ZREMRANGEBYSCORE', 'rq:finished:' .. queue, 0, now)
  redis.call('ZREMRANGEBYSCORE', 'rq:failed:' .. queue, 0, now)
  leave_canceled(queue, now, most)
end
if #failed > 0 then redis.call('PUBLISH', 'kamishibai:ended', cjson.encode(failed)) end
return {again, #failed}
"""
)

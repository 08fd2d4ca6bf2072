"""What the Lua scripts of several packages share. All times in our scripts come from Redis' own clock."""

from __future__ import annotations

from contracts import keys
from contracts.orders import MAX_META_BYTES
from contracts.requests import MAX_CHOICES

# clock() -> seconds as a float, the same with microseconds as RQ writes a timestamp, and RQ's ISO form in UTC.
# Redis' Lua has no os.date; the date is made from the day number by Howard Hinnant's `civil_from_days`.
CLOCK = """
local function clock()
  local time = redis.call('TIME')
  local seconds, micros = tonumber(time[1]), tonumber(time[2])
  local z = math.floor(seconds / 86400) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day, month = doy - math.floor((153 * mp + 2) / 5) + 1, mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local rest = seconds % 86400
  local iso = string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, day,
                            math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60, micros)
  return seconds + micros / 1e6, string.format('%d.%06d', seconds, micros), iso
end
"""

# is(key, ...): is the key of one of these types? A command on another type would end the script half-way.
IS = """
local function is(key, ...)
  local type = redis.call('TYPE', key).ok
  for _, wanted in ipairs({...}) do
    if type == wanted then return true end
  end
  return false
end
"""

# engine_of(queue): the engine that runs the jobs of a queue. ring(engine): leave one token at its bell.
RING = f"""
local function engine_of(queue) return string.match(queue, '^(.*)/[^/]*$') or queue end
local function ring(engine)
  local bell = 'kamishibai:bell:' .. engine
  if redis.call('LLEN', bell) == 0 then redis.call('RPUSH', bell, '1') end
  redis.call('EXPIRE', bell, {keys.BELL_SECONDS})
end
"""

# told(meta): what RQ's `meta` of a job says, as a table. It may be anybody's.
TOLD = f"""
local function told(meta)
  if not meta or #meta > {MAX_META_BYTES} then return {{}} end
  local read, found = pcall(cjson.decode, meta)
  return read and type(found) == 'table' and found or {{}}
end
"""

# weigh_all(engine, work, bytes): so much has come to an engine's queues, or, below 0, gone from them. The sums are only
# as good as everybody who takes jobs off; whoever finds all queues of an engine empty forgets them.
WEIGH_ALL = f"""
local function weigh_all(engine, work, bytes)
  local load = 'kamishibai:load:' .. engine
  if is(load, 'hash', 'none') then
    redis.call('HINCRBY', load, 'work', work)
    redis.call('HINCRBY', load, 'bytes', bytes)
    redis.call('EXPIRE', load, {keys.LOAD_SECONDS})
  end
end
"""

# weigh(queue, id, sign): a job has come to its engine's queues (1) or gone from them (-1), with its deadline.
WEIGH = (
    WEIGH_ALL
    + """
local function weigh(queue, id, sign)
  local job, deadlines = 'rq:job:' .. id, 'kamishibai:deadlines:' .. queue
  local meta = told(redis.call('HGET', job, 'meta'))
  weigh_all(engine_of(queue), sign * whole(meta.work, 0), sign * redis.call('HSTRLEN', job, 'data'))
  if type(meta.deadline) == 'number' and is(deadlines, 'zset', 'none') then
    if sign > 0 then redis.call('ZADD', deadlines, meta.deadline, id) else redis.call('ZREM', deadlines, id) end
  end
  return meta
end
"""
)

# leave(id, meta, now): a job with this `meta` has ended. It counts no longer as one of its owner's, and whoever asked
# for word gets some.
LEAVE = """
local function leave(id, meta, now)
  meta = told(meta)
  local unfinished, webhooks = 'kamishibai:unfinished:' .. tostring(meta.owner), 'kamishibai:webhooks'
  if meta.owner and is(unfinished, 'zset') then redis.call('ZREM', unfinished, id) end
  if meta.webhook and is(webhooks, 'zset', 'none') then redis.call('ZADD', webhooks, now, id) end
end
"""

# whole(text, default): the whole number in a field of a job. What is none would end the script half-way.
WHOLE = """
local function whole(text, default)
  local number = tonumber(text or '')
  if not number or not (number >= 0 and number <= 2147483647) then return default end
  return math.floor(number)
end
"""

# expire_texts(id, seconds): give the texts of a streaming job their lifetime.
EXPIRE_TEXTS = f"""
local function expire_texts(id, seconds)
  local texts = {{}}
  for choice = 0, {MAX_CHOICES - 1} do texts[choice + 1] = 'kamishibai:text:' .. id .. ':' .. choice end
  if redis.call('EXISTS', unpack(texts)) == 0 then return end
  for _, text in ipairs(texts) do redis.call('EXPIRE', text, seconds) end
end
"""

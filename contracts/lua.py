"""What the Lua scripts of several packages share. All times in our scripts come from Redis' own clock."""

from __future__ import annotations

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

# ring(queue): leave one token at a queue's bell.
RING = """
local function ring(queue)
  local bell = 'kamishibai:bell:' .. queue
  if redis.call('LLEN', bell) == 0 then redis.call('RPUSH', bell, '1') end
  redis.call('EXPIRE', bell, 3600)
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
  for choice = 0, {MAX_CHOICES - 1} do
    redis.call('EXPIRE', 'kamishibai:text:' .. id .. ':' .. choice, seconds)
  end
end
"""

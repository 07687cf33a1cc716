"""The changes of a run's state, each one script: workers that finish at once agree on them.

The scripts share KEYS: the run, `active`, `runs`, `ended`; and ARGV: the run's id, how long to keep
the record while it is open and once it is over (seconds); then what each needs; then the databases.
"""

from __future__ import annotations

_SHARED = """
local function keep(run, seconds, argv, first)
  for i = first, #argv do redis.call('EXPIRE', run .. ':order:' .. argv[i], seconds) end
  for _, part in ipairs({'', ':migrations', ':kinds', ':names', ':surveys', ':first', ':waits',
                         ':ended', ':confirmed', ':events', ':progress',
                         ':signatures'}) do
    redis.call('EXPIRE', run .. part, seconds)
  end
end

-- A run that was refused has changed nothing, so how the one before it has ended still counts.
local function count(state, argv, first)
  redis.call('HINCRBY', KEYS[4], 'count:' .. state, 1)
  if state == 'refused' or state == 'unreachable' then return end
  for i = first, #argv do redis.call('HSET', KEYS[4], 'last:' .. argv[i], state) end
end

local function close(run, argv, first)
  count(redis.call('HGET', run, 'state'), argv, first)
  redis.call('SREM', KEYS[3], argv[1])
  for i = first, #argv do
    if redis.call('HGET', KEYS[2], argv[i]) == argv[1] then
      redis.call('HDEL', KEYS[2], argv[i])
    end
  end
  keep(run, argv[3], argv, first)
end

local function ready(run, db, version)
  local waits = redis.call('HGET', run .. ':waits', db .. ':' .. version) or ''
  for other in string.gmatch(waits, '%S+') do
    if redis.call('SISMEMBER', run .. ':ended', other) == 0 then return false end
  end
  return true
end

local function now()
  local time = redis.call('TIME')
  return string.format('%d.%06d', time[1], time[2])
end

local function is_open(state)
  return state == 'planning' or state == 'running' or state == 'failing' or state == 'paused'
         or state == 'cancelling'
end

-- Nothing new begins from now on, or once it is resumed; what is cancelled stays cancelled.
local function failing(run)
  local state = redis.call('HGET', run, 'state')
  local field = state == 'paused' and 'was' or 'state'
  if redis.call('HGET', run, field) ~= 'cancelling' then
    redis.call('HSET', run, field, 'failing')
  end
end

-- Starts what has become ready, and ends the run when nothing is open or left.
local ENDS = {running = 'done', failing = 'failed', cancelling = 'cancelled'}
local function advance(run, argv, first)
  local state = redis.call('HGET', run, 'state')
  if not ENDS[state] then return {} end
  keep(run, argv[2], argv, first)
  local started, open, left = {}, false, false
  for i = first, #argv do
    local db = argv[i]
    local total = tonumber(redis.call('HGET', run, 'total:' .. db) or 0)
    local done = tonumber(redis.call('HGET', run, 'done:' .. db) or 0)
    if redis.call('HEXISTS', run, 'working:' .. db) == 1 then
      open = true
    elseif done < total then
      left = true
      if state == 'running' and redis.call('HEXISTS', run, 'generation:' .. db) == 1 then
        local version = redis.call('LINDEX', run .. ':order:' .. db, done)
        if ready(run, db, version) then
          local first = redis.call('HGET', run .. ':first', db .. ':' .. version)
                        or (version .. ' 1')
          redis.call('HSET', run, 'working:' .. db, first, 'since:' .. db, now())
          table.insert(started, db .. ' ' .. first)
          open = true
        end
      end
    end
  end
  if not open and (state ~= 'running' or not left) then
    redis.call('HSET', run, 'state', ENDS[state])
    close(run, argv, first)
  end
  return started
end
"""
ADVANCE = _SHARED + "return advance(KEYS[1], ARGV, 4)"
BEGUN = (
    _SHARED
    + """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return {} end
redis.call('HSET', KEYS[1], 'generation:' .. ARGV[4], ARGV[5])
return advance(KEYS[1], ARGV, 6)
"""
)
STOP = (
    _SHARED
    + """
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'running' and state ~= 'paused' then return {} end
failing(KEYS[1])
redis.call('RPUSH', KEYS[1] .. ':events', ARGV[4])
return advance(KEYS[1], ARGV, 5)
"""
)
# Only the first delivery that ends an operation moves on; a duplicate gets false (Law 6).
MOVE = (
    _SHARED
    + """
local database, at, following, ended, event = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
if redis.call('HGET', KEYS[1], 'working:' .. database) ~= at then return false end
redis.call('HDEL', KEYS[1] .. ':progress', database)
redis.call('HDEL', KEYS[1], 'ranges:' .. database)
if following ~= '' then
  redis.call('HSET', KEYS[1], 'working:' .. database, following)
  return {}
end
redis.call('HDEL', KEYS[1], 'working:' .. database)
if ended ~= '' then
  redis.call('HINCRBY', KEYS[1], 'done:' .. database, 1)
  redis.call('SADD', KEYS[1] .. ':ended', ended)
end
redis.call('RPUSH', KEYS[1] .. ':events', event)
return advance(KEYS[1], ARGV, 9)
"""
)
FAIL = (
    _SHARED
    + """
local database, at, following = ARGV[4], ARGV[5], ARGV[6]
if not is_open(redis.call('HGET', KEYS[1], 'state')) then return {} end
if redis.call('HGET', KEYS[1], 'working:' .. database) ~= at then return {} end
failing(KEYS[1])
redis.call('HDEL', KEYS[1] .. ':progress', database)
redis.call('HDEL', KEYS[1], 'ranges:' .. database)
redis.call('RPUSH', KEYS[1] .. ':events', ARGV[7])
if following ~= '' then
  redis.call('HSET', KEYS[1], 'working:' .. database, following)
  return {database .. ' ' .. following}
end
redis.call('HDEL', KEYS[1], 'working:' .. database)
advance(KEYS[1], ARGV, 8)
return {}
"""
)
RANGES = """
if redis.call('HGET', KEYS[1], 'working:' .. ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HSET', KEYS[1], 'ranges:' .. ARGV[1], ARGV[3])
"""
END = (
    _SHARED
    + """
local state = redis.call('HGET', KEYS[1], 'state')
if not is_open(state) then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[4], 'problems', ARGV[5])
close(KEYS[1], ARGV, 6)
return 1
"""
)
_CONTROL = """
-- Of two that ask at once the later one counts: false for the one that comes after it.
local function asked(run, text, signature)
  if text == '' then return true end
  local last = string.match(redis.call('HGET', run, 'control') or '', '^%d+') or '0'
  if tonumber(string.match(text, '^%d+')) <= tonumber(last) then return false end
  redis.call('HSET', run, 'control', text)
  redis.call('HSET', run .. ':signatures', 'control', signature)
  return true
end
"""
# What a person asks for, signed in ARGV 5 and 6 where there is a key. Each returns the state that
# the run was in, empty for one not known; false where somebody has asked for something meanwhile.
PAUSE = (
    _SHARED
    + _CONTROL
    + """
local state = redis.call('HGET', KEYS[1], 'state') or ''
if not is_open(state) or state == 'paused' then return state end
if not asked(KEYS[1], ARGV[5], ARGV[6]) then return false end
redis.call('HSET', KEYS[1], 'state', 'paused', 'was', state)
redis.call('RPUSH', KEYS[1] .. ':events', ARGV[4])
keep(KEYS[1], ARGV[2], ARGV, 7)
return state
"""
)
RESUME = (
    _SHARED
    + _CONTROL
    + """
local state = redis.call('HGET', KEYS[1], 'state') or ''
if state ~= 'paused' then return state end
if not asked(KEYS[1], ARGV[5], ARGV[6]) then return false end
redis.call('HSET', KEYS[1], 'state', redis.call('HGET', KEYS[1], 'was'))
redis.call('HDEL', KEYS[1], 'was')
redis.call('RPUSH', KEYS[1] .. ':events', ARGV[4])
keep(KEYS[1], ARGV[2], ARGV, 7)
return state
"""
)
# With the flag, or before there is a plan, it ends at once; else when what is open is undone.
CANCEL = (
    _SHARED
    + _CONTROL
    + """
local state, at_once = redis.call('HGET', KEYS[1], 'state') or '', ARGV[7] ~= ''
if not is_open(state) or (state == 'cancelling' and not at_once) then return state end
if not asked(KEYS[1], ARGV[5], ARGV[6]) then return false end
local was = state == 'paused' and redis.call('HGET', KEYS[1], 'was') or state
redis.call('HDEL', KEYS[1], 'was')
redis.call('RPUSH', KEYS[1] .. ':events', ARGV[4])
if at_once or was == 'planning' then
  redis.call('HSET', KEYS[1], 'state', 'cancelled')
  close(KEYS[1], ARGV, 8)
else
  redis.call('HSET', KEYS[1], 'state', 'cancelling')
  advance(KEYS[1], ARGV, 8)
end
return state
"""
)

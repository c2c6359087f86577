-- Takes tokens from one bucket: the generic cell rate algorithm on the server's clock.
--
-- KEYS[1]  the bucket. Its value is the time at which it is full again, in microseconds of Unix time with nine decimals.
-- ARGV     what the tokens cost (1, 2) and what a full bucket holds (3, 4), both as a span of time: whole
--          microseconds, and the rest in femtoseconds.
-- Answers  1 or 0 for allowed or not, and how long from now until the bucket is full (microseconds, femtoseconds).
--
-- All numbers are integers below 2^53, which doubles hold exactly. A bucket that is full has no key.
local REST = 1000000000
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local cost, cost_rest = tonumber(ARGV[1]), tonumber(ARGV[2])
local hold, hold_rest = tonumber(ARGV[3]), tonumber(ARGV[4])

local full, full_rest = now, 0
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then
  -- A value of another type is replaced below. Any other error is the caller's to know.
  if not string.find(stored['err'], 'WRONGTYPE', 1, true) then
    return stored
  end
elseif stored then
  local us, rest = string.match(stored, '^(%d+)%.(%d+)$')
  if us and #us <= 16 and #rest == 9 and tonumber(us) >= now then
    full, full_rest = tonumber(us), tonumber(rest)
  end
end

local function store(us, rest)
  -- The key outlives the bucket's need of it by at most two milliseconds.
  local millis = math.floor((us - now) / 1000) + 2
  redis.call('SET', KEYS[1], string.format('%.0f.%09.0f', us, rest), 'PX', string.format('%.0f', millis))
end

-- No bucket is emptier than empty: if it seems so, then the clock was set back, another server with a fast clock
-- wrote the value, or the quota was another one.
local empty = now + hold
local beyond = full > empty or (full == empty and full_rest > hold_rest)
if beyond then
  full, full_rest = empty, hold_rest
end

local spent, spent_rest = full + cost, full_rest + cost_rest
if spent_rest >= REST then
  spent, spent_rest = spent + 1, spent_rest - REST
end
if spent > empty or (spent == empty and spent_rest > hold_rest) then
  if beyond then
    -- Or it would be empty again at each look, and never fill.
    store(full, full_rest)
  end
  return {0, full - now, full_rest}
end
if cost > 0 or cost_rest > 0 then
  store(spent, spent_rest)
end
return {1, spent - now, spent_rest}

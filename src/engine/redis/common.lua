-- The scripts publish.lua and tend.lua both begin with this code. It formats numbers with %.0f, because Lua would write
-- a large one as 1.7e+12. A 'process' of the broker is one run of a Redis server, named by its run_id. After a restart
-- or a failover, nodes meet another process.
--
-- KEYS: the stream; the hash of facts; the stored answer to this request; then for each topic its state, its deletions
-- and its expiries. All keys are in one slot of a cluster.
-- ARGV: the last entry that the node has seen, as epoch, offset and nonce ('' if the entry has none); the broker's
-- process in which the node saw that entry; the maximum number of keys of a topic; '1' if unchanged messages are not
-- stored.
local log, facts, answer = KEYS[1], KEYS[2], KEYS[3]
local seen_epoch, seen_last, seen_nonce, seen_process = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local max_keys, suppress = tonumber(ARGV[5]), ARGV[6] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function text(number)
  return string.format('%.0f', number)
end

-- The keys of the topic with this number. Numbers begin at 1.
local function keys_of(topic)
  return { state = KEYS[1 + 3 * topic], deletions = KEYS[2 + 3 * topic], expiries = KEYS[3 + 3 * topic] }
end

-- Begins a new epoch. Offsets continue from the previous epoch, because the values in the states keep their offsets.
-- The entry that opens the epoch takes no new offset, because clients count one message for each offset.
local function open(epoch, last)
  local opened = math.max(now, epoch + 1, seen_epoch + 1)
  redis.call('XADD', log, text(opened) .. '-' .. text(last), 'o', '1')
  redis.call('HSET', facts, 'epoch', text(opened), 'last', text(last))
  redis.call('HDEL', facts, 'unproven')
  return opened, last
end

-- After the broker's process has changed, batches are refused until this time. It is the later of two times. 'settled':
-- by then, all nodes had time to report the last entry that they have seen. 'unproven': the end of the wait for a node
-- that finds its last entry in the stream. The first such node removes it.
local function settled()
  local times = redis.call('HMGET', facts, 'settled', 'unproven')
  return math.max(tonumber(times[1] or 0), tonumber(times[2] or 0))
end

-- Whether the stream still has the last entry that the node has seen, at the same position. nil if that is unknown,
-- because the stream no longer has the entry or the node does not know the entry's nonce.
local function is_same(epoch)
  local id = text(epoch) .. '-' .. text(seen_last)
  local entry = redis.call('XRANGE', log, id, id)[1]
  if not entry then
    return nil
  end
  local fields, nonce = entry[2], ''
  for at = 1, #fields, 2 do
    if fields[at] == 'n' then
      nonce = fields[at + 1]
    end
  end
  if seen_nonce == '' and nonce ~= '' then
    return nil
  end
  return nonce == seen_nonce
end

-- Returns the present epoch and its last offset. Begins a new epoch if the end of the sequence was lost, which is
-- assumed if
-- - the calling node has seen a later entry than the last one of the stream, or another entry at the same position;
-- - the calling node comes from an earlier process, and has seen a later entry than the last one of that process;
-- - no node has found its last entry in the stream by the time 'unproven'.
local function present()
  local held = redis.call('HMGET', facts, 'epoch', 'last', 'process', 'ended', 'unproven')
  local epoch, last = tonumber(held[1] or 0), tonumber(held[2] or 0)
  local exists = redis.call('EXISTS', log) == 1
  if epoch == 0 and exists then
    -- The stream exists, but the facts are gone. Only an eviction of keys by Redis causes this.
    for at, field in ipairs(redis.call('XINFO', 'STREAM', log)) do
      if field == 'last-generated-id' then
        held = redis.call('XINFO', 'STREAM', log)[at + 1]
      end
    end
    local top_epoch, top = string.match(held, '(%d+)-(%d+)')
    return open(tonumber(top_epoch), tonumber(top))
  end
  if epoch == 0 or not exists then
    return open(epoch, last)
  end
  if seen_epoch > epoch or (seen_epoch == epoch and seen_last > last) then
    return open(epoch, last)
  end
  local same = seen_epoch == epoch and is_same(epoch)
  if same == false and seen_epoch == epoch then
    return open(epoch, last)
  end
  local came_over = seen_epoch == epoch and seen_process ~= '' and seen_process ~= held[3]
  if came_over then
    local ended = string.match(held[4] or '', seen_process .. '=(%d+)')
    if not ended or seen_last > tonumber(ended) then
      return open(epoch, last)
    end
  end
  if held[5] then
    if came_over and same then
      redis.call('HDEL', facts, 'unproven')
    elseif tonumber(held[5]) <= now then
      return open(epoch, last)
    end
  end
  return epoch, last
end

-- Parses a value of a state: '<offset> <time> <expiry or 0> <type>', a line feed, and the data.
local function parse(value)
  local offset, at, expiry, kind, data = string.match(value, '^(%d+) (%d+) (%d+) ([^\n]*)\n(.*)$')
  if not offset then
    error('a state holds a value in an unknown format')
  end
  return { offset = offset, at = at, expiry = expiry, kind = kind, data = data }
end

local function compose(value)
  return value.offset .. ' ' .. value.at .. ' ' .. value.expiry .. ' ' .. value.kind .. '\n' .. value.data
end

-- Sets the expiry of a key. '0' means never.
local function set_expiry(keys, key, expiry)
  if expiry == '0' then
    redis.call('ZREM', keys.expiries, key)
  else
    redis.call('ZADD', keys.expiries, expiry, key)
  end
end

-- Adds a message to the stream and to the state. The field '' of a state holds the newest keyless message.
local function append(epoch, last, nonce, topic, keys, key, kind, expiry, data)
  local fields = { 't', topic, 's', text(now), 'n', nonce, 'd', data }
  if key ~= '' then
    fields[#fields + 1] = 'k'
    fields[#fields + 1] = key
  end
  if kind ~= '' then
    fields[#fields + 1] = 'y'
    fields[#fields + 1] = kind
  end
  local before = key == '' and redis.call('HGET', keys.state, '')
  local older = before and parse(before).offset
  redis.call('XADD', log, text(epoch) .. '-*', unpack(fields))
  local offset = text(last + 1)
  if key == '' then
    if older then
      redis.call('HSET', facts, 'keyless:' .. topic, older)
    end
  elseif data == 'null' then
    redis.call('ZADD', keys.deletions, text(now), key)
    set_expiry(keys, key, '0')
  else
    redis.call('ZREM', keys.deletions, key)
    set_expiry(keys, key, expiry)
  end
  local value = { offset = offset, at = text(now), expiry = expiry, kind = kind, data = data }
  redis.call('HSET', keys.state, key, compose(value))
  return last + 1
end

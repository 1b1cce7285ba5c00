-- Every node calls this script several times a second. It checks whether the sequence is the one that the node knows.
-- It also deletes expired keys, removes old deletions from the states, and trims stream entries that no node needs.
--
-- More ARGV: nonce; the age in ms at which a deletion is removed; the maximum number of keys of a topic per call; '1'
-- if the node has just connected; the time in ms for which batches are refused after the broker's process has changed;
-- the maximum time in ms to wait for a node that finds its last entry in the stream; the oldest offset that nodes need;
-- the number of topics; the topics.
-- Returns {epoch, last offset, the largest number of expired keys of a topic, the broker's process}.
local nonce, deletion_age, at_once, joins, settle = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11])
local proof, needed, topics = tonumber(ARGV[12]), ARGV[13], tonumber(ARGV[14])
-- The maximum length in bytes of 'ended', the list of ended processes, newest first. It suffices for some 50 processes.
local MOST_ENDED = 3000

if joins == '1' then
  -- If the broker's process has changed, the end of the sequence may be lost. Nodes that have seen later entries report
  -- them before new batches are accepted. A node that connects after that is compared with the last offset of the ended
  -- process.
  local process = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local before = redis.call('HGET', facts, 'process')
  if before ~= process then
    redis.call('HSET', facts, 'process', process)
    if before then
      local known = redis.call('HMGET', facts, 'last', 'ended')
      local ended = before .. '=' .. (known[1] or '0') .. ' ' .. (known[2] or '')
      if #ended > MOST_ENDED then
        ended = string.match(string.sub(ended, 1, MOST_ENDED), '^.* ')
      end
      redis.call('HSET', facts, 'settled', text(now + settle), 'ended', ended, 'unproven', text(now + proof))
    end
  end
end

local epoch, last = present()
local began, expired = last, 0
if settled() > now then
  topics = 0
end

-- First read everything, so that a value in an unknown format raises an error before anything is written.
local due, ended, old, forgotten = {}, {}, {}, {}
for number = 1, topics do
  local keys, gone = keys_of(number), {}
  due[number] = redis.call('ZRANGEBYSCORE', keys.expiries, '-inf', text(now), 'LIMIT', 0, at_once)
  for _, key in ipairs(due[number]) do
    local stored = redis.call('HGET', keys.state, key)
    if stored and parse(stored).data ~= 'null' then
      gone[#gone + 1] = key
    end
  end
  ended[number] = gone
  expired = math.max(expired, #due[number])

  local aged = redis.call('ZRANGEBYSCORE', keys.deletions, '-inf', '(' .. text(now - deletion_age), 'LIMIT', 0, at_once)
  local over = redis.call('ZCARD', keys.deletions) + #gone - max_keys
  if over > #aged then
    aged = redis.call('ZRANGE', keys.deletions, 0, math.min(over, at_once) - 1)
  end
  old[number] = aged
  forgotten[number] = tonumber(redis.call('HGET', facts, 'forgotten:' .. ARGV[14 + number]) or 0)
  for _, key in ipairs(aged) do
    local stored = redis.call('HGET', keys.state, key)
    if stored then
      forgotten[number] = math.max(forgotten[number], tonumber(parse(stored).offset))
    end
  end
end

-- Then write the changes.
for number = 1, topics do
  local topic, keys = ARGV[14 + number], keys_of(number)
  for _, key in ipairs(due[number]) do
    redis.call('ZREM', keys.expiries, key)
  end
  for _, key in ipairs(ended[number]) do
    last = append(epoch, last, nonce, topic, keys, key, '', '0', 'null')
  end
  for _, key in ipairs(old[number]) do
    redis.call('HDEL', keys.state, key)
    redis.call('ZREM', keys.deletions, key)
  end
  if #old[number] > 0 then
    redis.call('HSET', facts, 'forgotten:' .. topic, text(forgotten[number]))
  end
end

-- Do not write if nothing has changed. A broker whose memory is full refuses this write, and the trim below, which
-- frees memory, would not run.
if last > began then
  redis.call('HSET', facts, 'last', text(last))
end
if epoch == seen_epoch then
  redis.call('XTRIM', log, 'MINID', '~', text(epoch) .. '-' .. needed)
end
return { text(epoch), text(last), expired, redis.call('HGET', facts, 'process') or '' }

-- What every node does a few times a second: looks whether the sequence is the one that it knows, deletes keys whose time
-- has come, forgets old deletions, and drops what no history needs.
--
-- ARGV further: nonce, the age of a deletion in ms, how many keys of a topic at most at once, 1 where the node has just
-- connected, the time in ms for which nothing is taken after the server was another one, and for how long at most it is
-- waited for a node that finds what it has seen; the oldest offset that nodes need, number of topics, the topics.
-- Returns {epoch, last offset, the most keys of a topic that expired, the broker's process}.
local nonce, deletion_age, at_once, joins, settle = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11])
local proof, needed, topics = tonumber(ARGV[12]), ARGV[13], tonumber(ARGV[14])
-- Processes of the broker whose end is remembered take so many bytes, the latest first: some 50 of them.
local MOST_ENDED = 3000

if joins == '1' then
  -- Another process than the last time: it may lack the end of what its predecessor had. Whoever has seen more than it
  -- has says so before anything new takes the place, or later by where its predecessor's end is here.
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

for number = 1, topics do
  local topic, keys = ARGV[14 + number], keys_of(number)
  local due = redis.call('ZRANGEBYSCORE', keys.expiries, '-inf', text(now), 'LIMIT', 0, at_once)
  for _, key in ipairs(due) do
    local stored = redis.call('HGET', keys.state, key)
    redis.call('ZREM', keys.expiries, key)
    if stored and parse(stored).data ~= 'null' then
      last = append(epoch, last, nonce, topic, keys, key, '', '0', 'null')
    end
  end
  expired = math.max(expired, #due)

  local old = redis.call('ZRANGEBYSCORE', keys.deletions, '-inf', '(' .. text(now - deletion_age), 'LIMIT', 0, at_once)
  local over = redis.call('ZCARD', keys.deletions) - max_keys
  if over > #old then
    old = redis.call('ZRANGE', keys.deletions, 0, math.min(over, at_once) - 1)
  end
  local forgotten = tonumber(redis.call('HGET', facts, 'forgotten:' .. topic) or 0)
  for _, key in ipairs(old) do
    local stored = redis.call('HGET', keys.state, key)
    if stored then
      forgotten = math.max(forgotten, tonumber(parse(stored).offset))
    end
    redis.call('HDEL', keys.state, key)
    redis.call('ZREM', keys.deletions, key)
  end
  if #old > 0 then
    redis.call('HSET', facts, 'forgotten:' .. topic, text(forgotten))
  end
end

-- Nothing is written that need not be: a broker whose memory is full refuses it, and what follows gives some back.
if last > began then
  redis.call('HSET', facts, 'last', text(last))
end
if epoch == seen_epoch then
  redis.call('XTRIM', log, 'MINID', '~', text(epoch) .. '-' .. needed)
end
return { text(epoch), text(last), expired, redis.call('HGET', facts, 'process') or '' }

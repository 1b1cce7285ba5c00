-- Accepts a whole batch or refuses it.
--
-- More ARGV: nonce; fingerprint of the request ('' without an Idempotency-Key); how long the answer is kept, in ms; the
-- number of topics; the topics. Then for each message: the number of its topic from 1, key ('' for none), type ('' for
-- none), expiry in ms or '0', data.
-- Returns {'ok', epoch, offset, {indexes of the unchanged messages}}, {'first', answer to the first request},
-- {'reused'} if another request used the key, {'settling', ms until batches are accepted}, or {'full', index of the
-- message without room}. Indexes begin at 0.
local nonce, fingerprint, kept_for, topics = ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
local first = 11 + topics

if fingerprint ~= '' then
  local given = redis.call('GET', answer)
  if given then
    if string.sub(given, 1, #fingerprint) == fingerprint then
      return { 'first', string.sub(given, #fingerprint + 2) }
    end
    return { 'reused' }
  end
end

local until_settled = settled() - now
if until_settled > 0 then
  return { 'settling', until_settled }
end
local epoch, last = present()

-- First read everything: the present values, and whether the topics have room for new keys.
local held, live, fates, unchanged = {}, {}, {}, {}
local number = 0
for at = first, #ARGV, 5 do
  local topic, key, expiry, data = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 3], ARGV[at + 4]
  local fate, keys = 'new', keys_of(topic)
  held[topic] = held[topic] or {}
  local value = held[topic][key]
  if value == nil then
    -- A value in an unknown format raises an error here, before anything is written.
    local stored = redis.call('HGET', keys.state, key)
    value = stored and parse(stored) or false
    held[topic][key] = value
  end
  if key ~= '' then
    local deletion = data == 'null'
    local same = suppress and ((value and value.data == data) or (not value and deletion))
    if same then
      fate = 'same'
      unchanged[#unchanged + 1] = number
      if value and not deletion and value.expiry ~= expiry then
        fate = 'renewed'
        value.expiry = expiry
      end
    else
      if not live[topic] then
        live[topic] = redis.call('HLEN', keys.state) - redis.call('ZCARD', keys.deletions)
          - redis.call('HEXISTS', keys.state, '')
      end
      local alive = value and value.data ~= 'null'
      if alive and deletion then
        live[topic] = live[topic] - 1
      elseif not alive and not deletion then
        live[topic] = live[topic] + 1
        if live[topic] > max_keys then
          return { 'full', number }
        end
      end
      held[topic][key] = { data = data, expiry = expiry }
    end
  end
  fates[#fates + 1] = fate
  number = number + 1
end

-- Then write the changes.
number = 0
for at = first, #ARGV, 5 do
  local topic, key, kind, expiry, data = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  number = number + 1
  local name, keys = ARGV[10 + topic], keys_of(topic)
  if fates[number] == 'new' then
    last = append(epoch, last, nonce, name, keys, key, kind, expiry, data)
  elseif fates[number] == 'renewed' then
    local value = parse(redis.call('HGET', keys.state, key))
    value.expiry = expiry
    redis.call('HSET', keys.state, key, compose(value))
    set_expiry(keys, key, expiry)
  end
end
redis.call('HSET', facts, 'last', text(last))

if fingerprint ~= '' then
  local answered = number .. ' ' .. #unchanged .. ' ' .. text(epoch) .. '-' .. text(last)
  redis.call('SET', answer, fingerprint .. ' ' .. answered, 'PX', kept_for)
end
return { 'ok', text(epoch), text(last), unchanged }

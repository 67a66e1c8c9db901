-- One wrk run against a GraphQL endpoint: every request with a fresh key, every answer looked at.
--
--   wrk … -c 64 -s load.lua URL -- scenario=mix window=6 connections=64 wallets=10000
--
-- `delay` stops sending when the window is over, so that everything in flight is answered before wrk ends: what was
-- posted equals what was counted. It returns 0 until then, which costs wrk one timer of its own and the server nothing.
-- In the scenario `hold` each connection places a hold, captures it when its id is there, and places the next.
-- A rate is what was answered within the window, over the window's length. The last line is `RESULT` and JSON.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } bench_timespec;
  int clock_gettime(int clock, bench_timespec *time);
]]
local CLOCK_MONOTONIC = 1
local NEVER_MILLISECONDS = 3600000
local time = ffi.new("bench_timespec")

local function now()
  ffi.C.clock_gettime(CLOCK_MONOTONIC, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) * 1e-9
end

local function posting(field, type)
  return 'mutation Posting($input: ' .. type .. 'Input!) { ' .. field .. '(input: $input) { __typename ... on ' .. type
    .. 'Payload { transaction { id balanceAfter } balance { amount } alreadyProcessed }'
    .. ' ... on Error { code message } } }'
end

-- A success names this type, and nothing else in an answer does.
local TYPENAME = {
  top_up = 'TopUpPayload"', spend = 'SpendPayload"', transfer = 'TransferPayload"', balance = '"Balance"',
  page = '"TransactionConnection"', place = 'PlaceHoldPayload"', capture = 'CaptureHoldPayload"',
}
-- What each is in the books.
local TRANSACTIONS = { top_up = 1, spend = 1, transfer = 2, place = 0, capture = 1 }
local DOCUMENT = {
  top_up = posting("topUp", "TopUp"),
  spend = posting("spend", "Spend"),
  transfer = posting("transfer", "Transfer"),
  place = 'mutation Place($input: PlaceHoldInput!) { placeHold(input: $input) { __typename ... on PlaceHoldPayload {'
    .. ' hold { id } balance { amount } alreadyProcessed } ... on Error { code message } } }',
  capture = posting("captureHold", "CaptureHold"),
  available = "query Balance($ownerId: String!) { balance(ownerId: $ownerId) { __typename amount available held } }",
  balance = "query Balance($ownerId: String!) { balance(ownerId: $ownerId) { __typename amount } }",
  page = "query Page($ownerId: String!, $after: String) { transactions(ownerId: $ownerId, first: 10, after: $after) {"
    .. " __typename nodes { id type direction amount balanceAfter executedAt } pageInfo { hasNextPage endCursor } } }",
}
local MIX = { "spend", "spend", "spend", "top_up", "balance" }

local options, head, window_end = {}, nil, nil

-- Globals, for `done` reads them from each thread.
sent, answered, in_window, postings, captured, failed, first_failure = 0, 0, 0, 0, 0, 0, ""
by_second = {}

local function seed()
  local file = assert(io.open("/dev/urandom", "rb"))
  local value = 0
  for _, byte in ipairs({ file:read(6):byte(1, 6) }) do value = value * 256 + byte end
  file:close()
  math.randomseed(value)
end

local function uuid4()
  local random = math.random
  return string.format("%08x-%04x-4%03x-%04x-%04x%08x", random(0, 0xffffffff), random(0, 0xffff), random(0, 0xfff),
    random(0x8000, 0xbfff), random(0, 0xffff), random(0, 0xffffffff))
end

-- With `credentials`, a file: one line for all requests, or the nth for the nth wallet.
local credentials, authorization = {}, ""

local function owner()
  if options.owner then return options.owner end
  local number = math.random(0, options.wallets - 1)
  if #credentials > 1 then authorization = credentials[number + 1] end
  return string.format("%s-%05d", options.prefix or "bench", number)
end

-- Holds that are placed and not captured: those from the first to the last.
local placed, first_placed, last_placed = {}, 1, 0

local function keep_placed(id)
  last_placed = last_placed + 1
  placed[last_placed] = id
end

local function take_placed()
  local id = placed[first_placed]
  placed[first_placed], first_placed = nil, first_placed + 1
  return id
end

local function kind_of_next()
  if options.scenario == "mix" then return MIX[math.random(5)] end
  if options.scenario == "hold" then return first_placed <= last_placed and "capture" or "place" end
  return options.scenario
end

local function variables(kind)
  if kind == "balance" or kind == "available" then return '{"ownerId":"' .. owner() .. '"}' end
  if kind == "page" then
    return '{"ownerId":"' .. owner() .. '"' .. (options.after and ',"after":"' .. options.after .. '"' or "") .. "}"
  end
  if kind == "capture" then
    return '{"input":{"holdId":"' .. take_placed() .. '","idempotencyKey":"' .. uuid4() .. '"}}'
  end
  local rest = '"amount":"1","idempotencyKey":"' .. uuid4() .. '"}}'
  if kind == "transfer" then
    local from, to = owner(), owner()
    while to == from do to = owner() end
    return '{"input":{"fromOwnerId":"' .. from .. '","toOwnerId":"' .. to .. '",' .. rest
  end
  return '{"input":{"ownerId":"' .. owner() .. '",' .. rest
end

local threads = {}
function setup(thread) table.insert(threads, thread) end

function init(arguments)
  for _, argument in ipairs(arguments) do
    local name, value = argument:match("^(%w+)=(.*)$")
    options[name] = value
  end
  window_seconds, connections = tonumber(options.window), tonumber(options.connections)
  head = "POST /graphql HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
    .. "\r\nContent-Type: application/json\r\n"
  if options.credentials then
    for line in io.lines(options.credentials) do
      table.insert(credentials, "Authorization: Bearer " .. line .. "\r\n")
    end
    authorization = credentials[1]
  end
  seed()
end

function delay()
  local moment = now()
  window_end = window_end or moment + window_seconds
  return moment < window_end and 0 or NEVER_MILLISECONDS
end

function request()
  sent = sent + 1
  local kind = kind_of_next()
  local body = '{"query":"' .. DOCUMENT[kind] .. '","variables":' .. variables(kind) .. "}"
  return head .. authorization .. "Content-Length: " .. #body .. "\r\n\r\n" .. body
end

local function succeeded(body)
  for kind, count in pairs(TRANSACTIONS) do
    if body:find(TYPENAME[kind], 1, true) then
      postings = postings + count
      if kind == "place" then keep_placed(body:match('"id":"([^"]+)"')) end
      return kind
    end
  end
  return body:find(TYPENAME.balance, 1, true) or body:find(TYPENAME.page, 1, true)
end

function response(status, _, body)
  answered = answered + 1
  local kind = status == 200 and succeeded(body)
  if kind then
    local left = window_end - now()
    if left >= 0 then
      in_window = in_window + 1
      if kind == "capture" then captured = captured + 1 end
      local second = math.min(math.floor(window_seconds - left), math.ceil(window_seconds) - 1) + 1
      by_second[second] = (by_second[second] or 0) + 1
    end
    return
  end
  failed = failed + 1
  if failed == 1 then first_failure = status .. " " .. body end
end

-- wrk adds samples that nobody measured to its latencies ("coordinated omission": for each of n µs, n >= 2e, further
-- ones of n - e, n - 2e, … down to e, where e is the mean time between a connection's requests). For x >= e the samples
-- above x are thus those measured between x and infinity, once for each e: what was measured above x is what wrk holds
-- between x and x + e.
local function measured_percentile(latency, share, expected)
  local function held_below(x)
    local low, high = 0, 100
    for _ = 1, 34 do
      local middle = (low + high) / 2
      if latency:percentile(middle) <= x then low = middle else high = middle end
    end
    return low / 100
  end
  local all = held_below(2 * expected)
  local low, high = latency.min, latency.max
  while high - low > math.max(1, low / 2000) do
    local x = math.floor((low + high) / 2)
    local below = x <= expected and held_below(x) / all or 1 - (held_below(x + expected) - held_below(x)) / all
    if below < share then low = x else high = x end
  end
  return high
end

function done(summary, latency, _)
  local total = { sent = 0, answered = 0, in_window = 0, postings = 0, captured = 0, failed = 0 }
  for _, thread in ipairs(threads) do
    for name, value in pairs(total) do total[name] = value + thread:get(name) end
  end
  -- wrk asks the first thread for one request that it only looks at, to see whether they are pipelined.
  total.unanswered = total.sent - 1 - total.answered
  local errors = summary.errors
  total.socket_errors = errors.connect + errors.read + errors.write + errors.timeout
  total.window_seconds = threads[1]:get("window_seconds")
  local expected = math.floor(
    summary.duration / math.max(1, math.floor(summary.requests / threads[1]:get("connections"))))
  for name, share in pairs({ p50 = 0.5, p95 = 0.95, p99 = 0.99 }) do
    total[name .. "_ms"] = measured_percentile(latency, share, expected) / 1000
  end
  total.max_ms = latency.max / 1000
  local fields = {}
  for name, value in pairs(total) do table.insert(fields, string.format('"%s":%.17g', name, value)) end
  local seconds = {}
  for second = 1, math.ceil(total.window_seconds) do
    seconds[second] = 0
    for _, thread in ipairs(threads) do
      seconds[second] = seconds[second] + (thread:get("by_second")[second] or 0)
    end
  end
  table.insert(fields, '"by_second":[' .. table.concat(seconds, ",") .. "]")
  for _, thread in ipairs(threads) do
    if thread:get("failed") > 0 then print("FAILURE " .. thread:get("first_failure")) break end
  end
  print("RESULT {" .. table.concat(fields, ",") .. "}")
end

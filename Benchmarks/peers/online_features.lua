-- POST /get-online-features for wrk: `wrk -s online_features.lua URL -- KEYS-FILE BATCH ENTITY VIEW FEATURE…`; prints a line of JSON.
local bodies = {}
local nextBody = 0

function init(arguments)
   local keys = {}
   for line in io.lines(arguments[1]) do keys[#keys + 1] = line end
   local features = {}
   for index = 5, #arguments do features[#features + 1] = '"' .. arguments[4] .. ":" .. arguments[index] .. '"' end
   math.randomseed(7)
   for number = 1, 2000 do
      local chosen = {}
      for index = 1, tonumber(arguments[2]) do chosen[index] = keys[math.random(#keys)] end
      bodies[number] = wrk.format(
         "POST", "/get-online-features", { ["Content-Type"] = "application/json" },
         '{"features":[' .. table.concat(features, ",") .. '],"entities":{"' .. arguments[3] .. '":[' .. table.concat(chosen, ",") .. ']}}')
   end
end

function request()
   nextBody = nextBody % #bodies + 1
   return bodies[nextBody]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "seconds": %.6f, "errors": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n', summary.requests, summary.duration / 1e6,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout, latency:percentile(50) / 1e3,
      latency:percentile(99) / 1e3))
end

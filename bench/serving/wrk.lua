-- wrk -s wrk.lua URL -- BODY-FILE "Name: value"...: POSTs the file, and prints one JSON object at the end.

function init(arguments)
   wrk.method = "POST"
   local file = assert(io.open(arguments[1], "rb"))
   wrk.body = file:read("*a")
   file:close()
   for at = 2, #arguments do
      local name, value = arguments[at]:match("^([^:]+): (.*)$")
      wrk.headers[name] = value
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "seconds": %.6f, "bytes": %d, "failures": %d, "p50_us": %d, "p99_us": %d}\n',
      summary.requests, summary.duration / 1e6, summary.bytes,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout,
      latency:percentile(50), latency:percentile(99)))
end

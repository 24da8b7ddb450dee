-- Conditions as of kstatus: Stalled and Reconciling are there only while they are True.
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "Waiting for the operator to see the spec" }
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready = conditions["Ready"] or { status = "Unknown", message = "Waiting for a status" }

local function health(code)
  return { status = code, message = ready.message }
end

-- A rejected revision, a pinned digest that does not match, a deadline: a person must act.
if conditions["Stalled"] ~= nil then
  return health("Degraded")
end

-- It goes on when a person says so, and not before.
local held = { Suspended = true, Paused = true, AwaitingPromotion = true }
if obj.spec.suspend or (ready.status == "Unknown" and held[ready.reason]) then
  return health("Suspended")
end

if conditions["Reconciling"] ~= nil or ready.status == "Unknown" then
  return health("Progressing")
end

-- The rollout of a retrained model leaves Ready as it is.
if ready.status == "True" then
  return health("Healthy")
end
return health("Degraded")

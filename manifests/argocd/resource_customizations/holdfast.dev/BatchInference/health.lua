-- One run: Succeeded says how it ends. Reconciling and Stalled, which kstatus reads, follow from it.
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "Waiting for the operator to see the spec" }
end

local succeeded = { status = "Unknown", message = "Waiting for a status" }
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Succeeded" then
    succeeded = condition
  end
end

local code = ({ ["True"] = "Healthy", ["False"] = "Degraded" })[succeeded.status]
if code == nil then
  code = obj.spec.suspend and "Suspended" or "Progressing"
end
return { status = code, message = succeeded.message }

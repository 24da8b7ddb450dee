-- Each action says one thing once. What a version of the operator does not know is not in its API, and is disabled here.
local status = obj.status or {}

local reasons = {}
for _, condition in ipairs(status.conditions or {}) do
  reasons[condition.type] = condition.reason
end

local rejected = false
for _, revision in ipairs(status.revisions or {}) do
  rejected = rejected or revision.verdict == "Rejected"
end

local suspended = obj.spec.suspend == true
local paused = reasons["Progressing"] == "Paused"
local rolling = status.rollout ~= nil and status.candidateRevision ~= nil and not suspended

return {
  ["pause"] = { ["disabled"] = not rolling or paused, ["iconClass"] = "fa fa-fw fa-pause-circle" },
  ["resume"] = { ["disabled"] = not paused and not suspended, ["iconClass"] = "fa fa-fw fa-play-circle" },
  ["promote"] = { ["disabled"] = not rolling, ["iconClass"] = "fa fa-fw fa-forward" },
  ["abort"] = { ["disabled"] = not rolling, ["iconClass"] = "fa fa-fw fa-times-circle" },
  ["retry"] = { ["disabled"] = not rejected or suspended, ["iconClass"] = "fa fa-fw fa-redo" },
  ["rollback"] = {
    ["disabled"] = status.previousRevision == nil or suspended,
    ["displayName"] = "Roll back",
    ["iconClass"] = "fa fa-fw fa-history",
  },
  ["refresh"] = {
    ["disabled"] = status.revisions == nil,
    ["displayName"] = "Refresh model",
    ["iconClass"] = "fa fa-fw fa-sync",
  },
  ["suspend"] = { ["disabled"] = obj.spec.suspend == nil or suspended, ["iconClass"] = "fa fa-fw fa-stop-circle" },
}

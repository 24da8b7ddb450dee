-- The one that was rejected last. Times in UTC sort as text.
local last
for _, revision in ipairs(obj.status.revisions) do
  if revision.verdict == "Rejected" and (last == nil or revision.verdictTime > last.verdictTime) then
    last = revision
  end
end

-- The resource version makes it another word than the last one, which has been acted on.
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["holdfast.dev/rollout"] = "retry " .. last.name .. "@" .. obj.metadata.resourceVersion
return obj

local reasons = {}
for _, condition in ipairs(obj.status.conditions) do
  reasons[condition.type] = condition.reason
end

if obj.spec.suspend then
  obj.spec.suspend = false
end
-- Paused by the annotation. Any other word in it has been acted on, and stays.
if reasons["Progressing"] == "Paused" then
  obj.metadata.annotations["holdfast.dev/rollout"] = nil
  -- An empty table would come back as a list.
  if next(obj.metadata.annotations) == nil then
    obj.metadata.annotations = nil
  end
end
return obj

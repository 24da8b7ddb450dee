-- The resource version makes it another word than the last one, which has been acted on.
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["holdfast.dev/rollout"] =
  "promote " .. obj.status.candidateRevision .. "@" .. obj.metadata.resourceVersion
return obj

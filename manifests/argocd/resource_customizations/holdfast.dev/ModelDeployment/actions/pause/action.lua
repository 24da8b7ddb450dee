-- Holds as long as the annotation is there.
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["holdfast.dev/rollout"] = "pause " .. obj.status.candidateRevision
return obj

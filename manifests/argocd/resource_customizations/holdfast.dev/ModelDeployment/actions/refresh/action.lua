-- Any text that was not there before.
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["holdfast.dev/refresh"] = obj.metadata.resourceVersion
return obj

local ended = false
for _, condition in ipairs((obj.status or {}).conditions or {}) do
  ended = ended or (condition.type == "Succeeded" and condition.status ~= "Unknown")
end

return {
  ["suspend"] = { ["disabled"] = obj.spec.suspend ~= false or ended, ["iconClass"] = "fa fa-fw fa-pause-circle" },
  ["resume"] = { ["disabled"] = obj.spec.suspend ~= true or ended, ["iconClass"] = "fa fa-fw fa-play-circle" },
}

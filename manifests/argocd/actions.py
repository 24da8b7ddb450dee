"""python manifests/argocd/actions.py --write | --check: the actions as argocd-cm has them.

Argo CD's sources have a file for each script; its ConfigMap has one value for each kind, and all scripts are in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

CUSTOMIZATIONS = Path(__file__).parent / "resource_customizations"
KINDS = ("ModelDeployment", "TrainingJob", "BatchInference")


class _Script(str):
    """A text that stays readable in YAML."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Script, lambda dumper, script: dumper.represent_scalar("tag:yaml.org,2002:str", script, style="|")
)


def rendered(kind: str) -> str:
    """Discovery, and every action."""
    folder = CUSTOMIZATIONS / "holdfast.dev" / kind / "actions"
    definitions = [
        {"name": path.parent.name, "action.lua": _Script(path.read_text(encoding="utf-8"))}
        for path in sorted(folder.glob("*/action.lua"))
    ]
    discovery = _Script((folder / "discovery.lua").read_text(encoding="utf-8"))
    return yaml.dump({"discovery.lua": discovery, "definitions": definitions}, Dumper=_Dumper, sort_keys=False)


def main() -> int:
    """Return the exit code."""
    made = {CUSTOMIZATIONS / "actions" / f"{kind}.yaml": rendered(kind) for kind in KINDS}
    if sys.argv[1:] == ["--write"]:
        for path, text in made.items():
            path.write_text(text, encoding="utf-8")
    elif sys.argv[1:] != ["--check"]:
        print(__doc__, file=sys.stderr)
        return 2
    elif any(path.read_text(encoding="utf-8") != text for path, text in made.items()):
        print("actions/ is not what the scripts say: python manifests/argocd/actions.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

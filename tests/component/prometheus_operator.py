"""The Prometheus operator's own CustomResourceDefinitions, from its module."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent / "prometheus-operator"
MODULE = "github.com/prometheus-operator/prometheus-operator"


def crd(plural: str) -> dict[str, Any]:
    """The definition of one of its kinds, as its version in go.mod ships it."""
    for command in (["go", "mod", "download", MODULE], ["go", "list", "-m", "-f", "{{.Dir}}", MODULE]):
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip()) / "example" / "prometheus-operator-crd"
    found: dict[str, Any] = yaml.safe_load((folder / f"monitoring.coreos.com_{plural}.yaml").read_text())
    return found

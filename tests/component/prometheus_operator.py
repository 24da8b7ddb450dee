"""The Prometheus operator's own CustomResourceDefinitions, from its module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from holdfast_devcluster.golang import go

HERE = Path(__file__).parent / "prometheus-operator"
MODULE = "github.com/prometheus-operator/prometheus-operator"


def crd(plural: str) -> dict[str, Any]:
    """The definition of one of its kinds, as its version in go.mod ships it."""
    go("mod", "download", MODULE, folder=HERE)
    folder = (
        Path(go("list", "-m", "-f", "{{.Dir}}", MODULE, folder=HERE).strip()) / "example" / "prometheus-operator-crd"
    )
    found: dict[str, Any] = yaml.safe_load((folder / f"monitoring.coreos.com_{plural}.yaml").read_text())
    return found

"""Counters of what was asked of pods; `kube.metrics` shows them."""

from __future__ import annotations

from prometheus_client import Counter

READS = Counter(
    "holdfast_router_reads",
    "Reads of pods' routers by what came: ok, no_answer, status, too_large, garbled, foreign.",
    ["outcome"],
    registry=None,
)
LEASES = Counter(
    "holdfast_router_lease_writes",
    "Leases written to pods' routers by what became of them: taken, refused, no_answer.",
    ["outcome"],
    registry=None,
)

"""Which samples of the model server say how many requests there were, and which of them were bad."""

from __future__ import annotations

REQUESTS = "holdfast_inference_requests_total"
DURATIONS = "holdfast_inference_duration_seconds_bucket"
BAD = ("failed", "late", "rejected", "timeout")
"""Outcomes that count against availability: what a server owes its clients."""
USERS = 'protocol!="router"'
"""A matcher: requests that have a client. What a router sends and gets no answer to, its own pod answers."""
UNCOUNTED = "abandoned"
"""Its client had gone before its turn: nobody's success and nobody's failure."""


def edge_texts(milliseconds: int) -> tuple[str, ...]:
    """How an edge of the histogram may be written: servers say `1`, newer versions of Prometheus keep it as `1.0`."""
    seconds = milliseconds / 1000
    return (f"{seconds:g}", str(seconds))

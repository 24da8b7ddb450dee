"""What our own server counts is exact, or the price of counting means nothing."""

from __future__ import annotations

import re
import urllib.request
from collections import defaultdict
from collections.abc import Sequence

from bench.serving.questions import WrongAnswerError


def check_counters(management_port: int, features: Sequence[str]) -> None:
    """Every answered request has been counted once in a bin of each feature, of the prediction and of the confidence.

    Each has one row. Raises WrongAnswerError.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{management_port}/metrics", timeout=10) as answer:
        counted = totals(answer.read().decode())
    expected = counted.pop("requests")
    wanted = {*features, "prediction", "confidence"}
    if counted.keys() != wanted or any(rows != expected for rows in counted.values()):
        raise WrongAnswerError(f"{expected:.0f} requests were answered, rows were counted: {dict(counted)}")


def totals(metrics: str) -> dict[str, float]:
    """Rows by feature (`prediction` and `confidence` beside them), and answered `requests`."""
    found: dict[str, float] = defaultdict(float)
    for line in metrics.splitlines():
        match = re.fullmatch(r"holdfast_(\w+)_total\{(.*)\} (\S+)", line)
        if match is None:
            continue
        name, labels, value = match[1], dict(re.findall(r'(\w+)="([^"]*)"', match[2])), float(match[3])
        if name == "inference_requests" and labels["outcome"] in ("ok", "late"):
            found["requests"] += value
        elif name.startswith("model_") and name.endswith("_bin"):
            found[labels.get("feature", name.removeprefix("model_").removesuffix("_bin"))] += value
    return found

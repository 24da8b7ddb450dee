"""Several processes as one pod: what each of them tells, put together.

What is counted is added. Of the rest, the first process tells what holds for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import Metric

_OLDEST = {"oldestSeconds", "oldestLocalSeconds", "last_inference"}
_COMMON = {
    "edges",
    "weight",
    "sequence",
    "secondsLeft",
    "startedSeconds",
    "batch_size",
    "goldenKept",
    "syntheticPerSecond",
}
_ADDED_GAUGES = ("_in_flight", "process_virtual_memory_bytes", "process_resident_memory_bytes", "process_open_fds")
_LEAST_GAUGES = ("process_start_time_seconds", "holdfast_tls_")  # the process that is worst off with its certificate


def added(documents: Sequence[Any], name: str = "") -> Any:
    """One JSON document of several of the same form; `name` is its own in the one that it is part of."""
    first = documents[0]
    documents = [document for document in documents if document is not None]
    if first is None or len(documents) == 1 or name in _COMMON:
        return first
    if name == "batch_stats":
        return _sizes(documents)
    if isinstance(first, dict):
        return {key: added([document[key] for document in documents], key) for key in first}
    if isinstance(first, list):
        return [added(items) for items in zip(*documents, strict=True)]
    if name in _OLDEST:
        return max(documents)
    if type(first) in (int, float):
        return sum(documents)
    return first


def _sizes(documents: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Batch sizes that there were in any of them."""
    found: dict[int, list[dict[str, Any]]] = {}
    for document in documents:
        for size in document:
            found.setdefault(size["batch_size"], []).append(size)
    return [added(found[size]) for size in sorted(found)]


class Families:
    """Metrics of all processes, for a prometheus_client registry."""

    def __init__(self, own: Sequence[Metric], others: Sequence[Any]) -> None:
        """`others`: as `link` writes them."""
        self._own = own
        self._others = others

    def collect(self) -> Iterator[Metric]:
        """One sample of each name and labels."""
        from prometheus_client import Metric

        if not self._others:
            yield from self._own
            return
        families = {family.name: family for family in self._own}
        values: dict[str, dict[_Key, float]] = {}
        for family in self._own:
            _add(values, family.name, family.type, [(s.name, s.labels, s.value) for s in family.samples])
        for other in self._others:
            for name, text, kind, samples in other:
                families.setdefault(name, Metric(name, text, kind))
                _add(values, name, kind, samples)
        for name, family in families.items():
            whole = Metric(name, family.documentation, family.type)
            for (sample, labels), value in values[name].items():
                whole.add_sample(sample, dict(labels), value)
            yield whole


_Key = tuple[str, tuple[tuple[str, str], ...]]


def _add(values: dict[str, dict[_Key, float]], family: str, kind: str, samples: Iterable[Any]) -> None:
    own = values.setdefault(family, {})
    for name, labels, value in samples:
        key = name, tuple(labels.items())
        if key not in own:
            own[key] = value
        elif kind in ("counter", "histogram") or name.endswith(_ADDED_GAUGES):
            own[key] += value
        elif name.startswith(_LEAST_GAUGES):
            own[key] = min(own[key], value)
        else:
            own[key] = max(own[key], value)

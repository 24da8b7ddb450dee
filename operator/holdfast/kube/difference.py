"""Where a live object is not what a manifest asks for.

Only what the manifest says is compared: defaults, and fields that others own, are no difference. That is also what
server-side apply can mend, so that a difference found here is gone after an apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ATOMIC = frozenset({"selector", "nodeSelector"})
"""Maps that have one owner: an entry more is a difference. One more in a Service's selector would stop its traffic."""
_IDENTITY = ("apiVersion", "kind", "metadata")
_MERGE_KEYS = ("uid", "mountPath", "name")
"""By which items of lists are told apart, the most telling first."""


def first_difference(desired: Mapping[str, Any], live: dict[str, Any]) -> str | None:
    """The path of the first field that differs, like `spec.template.spec.containers[server].image`; None if none does.

    desired: a manifest of dicts and lists. live: the same parts of the object. Values are not told: they may be
    nobody's business.
    """
    metadata = desired["metadata"]
    compared = {part: metadata[part] for part in ("labels", "annotations", "ownerReferences") if part in metadata}
    content = {name: value for name, value in desired.items() if name not in _IDENTITY}
    return _map({**content, "metadata": compared}, live, "")


def _any(desired: Any, live: Any, path: str) -> str | None:
    if not desired and live is None:
        return None  # the API server leaves out what is empty
    if isinstance(desired, dict):
        return _map(desired, live, path) if isinstance(live, dict) else path
    if isinstance(desired, list):
        return _list(desired, live, path) if isinstance(live, list) else path
    return None if desired == live and isinstance(desired, bool) == isinstance(live, bool) else path


def _map(desired: dict[str, Any], live: dict[str, Any], path: str) -> str | None:
    for name, value in desired.items():
        other = live.get(name)
        if value == other and name not in _ATOMIC:
            continue  # most often all is as it should be: found out by one comparison, and not by ours
        below = f"{path}.{name}" if path else name
        if name in _ATOMIC and isinstance(value, dict) and set(other or ()) - set(value):
            return below
        if found := _any(value, other, below):
            return found
    return None


def _list(desired: list[Any], live: list[Any], path: str) -> str | None:
    if key := _merge_key(desired):
        by_key = {item[key]: item for item in live if isinstance(item, dict) and key in item}
        pairs = [(item, by_key.get(item[key]), f"{path}[{item[key]}]") for item in desired]
    elif len(desired) != len(live):
        return path
    else:
        pairs = [(item, live[index], f"{path}[{index}]") for index, item in enumerate(desired)]
    for item, other, below in pairs:
        if other is None:
            return below
        if found := _any(item, other, below):
            return found
    return None


def _merge_key(items: list[Any]) -> str | None:
    if not items or not all(isinstance(item, dict) for item in items):
        return None
    return next((key for key in _MERGE_KEYS if len({item.get(key) for item in items} - {None}) == len(items)), None)

"""Reads what a pod's `GET /router` gave. Whoever serves a model may have any other document there."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, cast, get_args

from holdfast.plan.traffic import Arm, Comparison, Golden, LeaseState, Mode, Report

MAX_COUNT = 1 << 53
"""Counts beyond this are no counts of requests."""

MAX_SECONDS = 1e9

_MAX_ITEMS = 1024
"""Of a mapping or a list: outcomes, bins, edges."""

_NAME = re.compile(r"[\x21-\x7e]{1,300}")
_BIN = re.compile(r"[^\x00-\x1f\ud800-\udfff]{1,500}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Unusable(Exception):
    """A document that nothing can be concluded from. The text says why, without values."""

    def __init__(self, reason: Literal["garbled", "foreign"], message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read(text: bytes, model: str, revision: str) -> Report:
    """The report of a pod of this revision. Raises Unusable."""
    try:
        document = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        _garbled("it is not JSON")
    document = _object(document, "it")
    for name, ours in (("model", model), ("revision", revision)):
        if document.get(name) != ours:
            raise Unusable("foreign", f"it is about another {name}")
    arms = document.get("arms")
    found = _Arms(_object(arms, "arms")) if arms is not None else None
    lease, golden, signature = document.get("lease"), document.get("golden"), document.get("signature")
    peer = _object(document["peer"], "peer") if document.get("peer") is not None else {"oldestSeconds": 0}
    return Report(
        instance=_text(document, "instance", _NAME),
        revision=revision,
        ready=_switch(document, "ready"),
        signature=_text(document, "signature", _DIGEST) if signature is not None else None,
        takes_leases=_switch(document, "takesLeases"),
        sequence=_count(document, "sequence"),
        lease=_lease(_object(lease, "lease")) if lease is not None else None,
        target=found.target if found else None,
        steady_local=found.arm("steady", "local") if found else Arm(),
        steady_target=found.arm("steady", "target") if found else Arm(),
        warming_local=found.arm("warming", "local") if found else Arm(),
        warming_target=found.arm("warming", "target") if found else Arm(),
        comparison=found.comparison if found else Comparison(),
        golden=_golden(_object(golden, "golden")) if golden is not None else None,
        golden_kept=_count(document, "goldenKept"),
        synthetic=found.synthetic if found else 0,
        in_flight_local=_count(document, "inFlightLocal"),
        oldest_local_seconds=_number(document, "oldestLocalSeconds", MAX_SECONDS),
        oldest_target_seconds=_number(peer, "oldestSeconds", MAX_SECONDS),
        started_seconds=_number(document, "startedSeconds", MAX_SECONDS),
        edges=found.edges if found else (),
    )


class _Arms:
    """What was counted against one target."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.target = _text(document, "target", _NAME)
        edges = document.get("edges")
        if type(edges) is not list or not 0 < len(edges) <= _MAX_ITEMS:
            _garbled("edges must be a list")
        self.edges = tuple(_checked(edge, "an edge", MAX_SECONDS) for edge in edges)
        if any(one >= other for one, other in zip(self.edges, self.edges[1:], strict=False)):
            _garbled("edges must grow")
        compared = _object(document.get("comparison"), "comparison")
        self.comparison = Comparison(*_part(compared, "rows", "disagreeing"))
        self.synthetic = _count(document, "synthetic")

    def arm(self, phase: str, name: str) -> Arm:
        """One arm in one phase."""
        where = f"the {phase} arm {name}"
        document = _object(_object(self._document.get(phase), phase).get(name), where)
        outcomes = _counts(document.get("outcomes"), _NAME, f"outcomes of {where}")
        durations = _object(document.get("duration"), f"duration of {where}").get("counts")
        if type(durations) is not list or len(durations) != len(self.edges) + 1:
            _garbled(f"durations of {where} must be a list with one count more than there are edges")
        predictions = document.get("predictions")
        arm = Arm(
            drawn=_count(document, "drawn"),
            outcomes=outcomes,
            durations=tuple(_checked_count(count, f"a duration of {where}") for count in durations),
            predictions=_counts(predictions, _BIN, f"predictions of {where}") if predictions is not None else None,
        )
        if arm.ended > arm.drawn or sum(arm.durations) > arm.ended:
            _garbled(f"more requests of {where} have ended than were drawn")
        return arm


def _lease(document: Mapping[str, Any]) -> LeaseState:
    mode = document.get("mode")
    if mode not in get_args(Mode):
        _garbled("the lease is of an unknown mode")
    return LeaseState(
        sequence=_count(document, "sequence"),
        mode=cast(Mode, mode),
        target=_text(document, "target", _NAME),
        weight=_number(document, "weight", 1.0),
        seconds_left=_number(document, "secondsLeft", MAX_SECONDS),
    )


def _golden(document: Mapping[str, Any]) -> Golden:
    asked, answered, failed = (_count(document, name) for name in ("asked", "answered", "failed"))
    if answered + failed > asked:
        _garbled("more golden requests have ended than were asked")
    rows, disagreeing = _part(document, "rows", "disagreeing")
    return Golden(
        target=_text(document, "target", _NAME),
        asked=asked,
        answered=answered,
        failed=failed,
        disagreeing=disagreeing,
        rows=rows,
        done=_switch(document, "done"),
    )


def _part(document: Mapping[str, Any], whole: str, part: str) -> tuple[int, int]:
    """Two counts, of which the second is a part of the first."""
    found = _count(document, whole), _count(document, part)
    if found[1] > found[0]:
        _garbled(f"{part} is more than {whole}")
    return found


def _counts(value: Any, names: re.Pattern[str], what: str) -> dict[str, int]:
    document = _object(value, what)
    if len(document) > _MAX_ITEMS or not all(names.fullmatch(name) for name in document):
        _garbled(f"{what} must be counts by short names")
    return {name: _checked_count(count, what) for name, count in document.items()}


def _object(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        _garbled(f"{what} must be an object")
    return value


def _text(document: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = document.get(name)
    if type(value) is not str or not pattern.fullmatch(value):
        _garbled(f"{name} is not what it should be")
    return value


def _switch(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name)
    if type(value) is not bool:
        _garbled(f"{name} must be true or false")
    return value


def _count(document: Mapping[str, Any], name: str) -> int:
    return _checked_count(document.get(name), name)


def _checked_count(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        _garbled(f"{what} must be a count")
    return value


def _number(document: Mapping[str, Any], name: str, most: float) -> float:
    return _checked(document.get(name), name, most)


def _checked(value: Any, what: str, most: float) -> float:
    if type(value) not in (int, float) or not 0 <= value <= most or not math.isfinite(value):
        _garbled(f"{what} must be a number from 0 to {most:g}")
    return float(value)


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _garbled(message: str) -> NoReturn:
    raise Unusable("garbled", message)

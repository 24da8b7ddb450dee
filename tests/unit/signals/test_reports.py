"""A router's document is believed as far as it fits; any other is unusable, whatever is in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.plan.traffic import Arm, Comparison, Golden, LeaseState
from holdfast.signals.reports import Unusable, read


def arm(**changes: Any) -> dict[str, Any]:
    return {
        "drawn": 9,
        "outcomes": {"ok": 6, "client_error": 1, "timeout": 1},
        "duration": {"counts": [3, 2, 1], "sum": 0.5},
        "predictions": {"0": 4, "other": 2},
    } | changes


def document(**changes: Any) -> dict[str, Any]:
    """What a pod says in the middle of a canary."""
    pair = {"local": arm(), "target": arm(predictions=None)}
    return {
        "model": "wine",
        "revision": "r1",
        "instance": "wine-r1-x1-0123456789abcdef",
        "startedSeconds": 12.5,
        "ready": True,
        "signature": "ab" * 32,
        "inFlightLocal": 2,
        "oldestLocalSeconds": 0.25,
        "takesLeases": True,
        "sequence": 1795633433916,
        "leases": {"accepted": 3},
        "lease": {"sequence": 7, "mode": "share", "target": "r2", "weight": 0.1, "secondsLeft": 11.5},
        "golden": {
            "target": "r2",
            "asked": 5,
            "answered": 4,
            "failed": 1,
            "rows": 8,
            "disagreeing": 1,
            "done": True,
        },
        "goldenKept": 5,
        "arms": {
            "target": "r2",
            "edges": [0.1, 0.25],
            "steady": pair,
            "warming": pair,
            "comparison": {"rows": 10, "disagreeing": 3},
            "synthetic": 4,
        },
        "peer": {"oldestSeconds": 1.5},
        "a later member": {},
    } | changes


def said(found: Any) -> Any:
    return read(json.dumps(found).encode(), "wine", "r1")


def test_all_of_it_is_read() -> None:
    report = said(document())
    assert (report.instance, report.revision, report.ready) == ("wine-r1-x1-0123456789abcdef", "r1", True)
    assert (report.signature, report.takes_leases, report.sequence) == ("ab" * 32, True, 1795633433916)
    assert report.lease == LeaseState(7, "share", "r2", 0.1, 11.5)
    local = Arm(9, {"ok": 6, "client_error": 1, "timeout": 1}, (3, 2, 1), {"0": 4, "other": 2})
    assert report.steady_local == report.warming_local == local
    assert report.steady_target.predictions is None
    assert (report.target, report.edges, report.comparison) == ("r2", (0.1, 0.25), Comparison(10, 3))
    assert report.golden == Golden("r2", 5, 4, 1, 1, 8, True)
    assert (report.golden_kept, report.synthetic) == (5, 4)
    assert (report.in_flight_local, report.oldest_local_seconds, report.oldest_target_seconds) == (2, 0.25, 1.5)
    assert report.started_seconds == 12.5


def test_a_pod_without_a_lease_says_little() -> None:
    report = said(document(arms=None, peer=None, lease=None, golden=None, signature=None))
    assert (report.target, report.lease, report.golden, report.signature) == (None, None, None, None)
    assert report.steady_local == report.warming_target == Arm()
    assert (report.edges, report.oldest_target_seconds, report.synthetic) == ((), 0, 0)


def at(*path: str, **members: Any) -> Callable[[dict[str, Any]], None]:
    """Sets members somewhere inside a document."""

    def change(found: dict[str, Any]) -> None:
        for name in path:
            found = found[name]
        found.update(members)

    return change


NUMBERS: list[Any] = [-1, 1 << 54, 10**400, float("nan"), float("inf"), float("-inf"), 1e308, True, "1", None, [], {}]
LOCAL = ("arms", "steady", "local")
WRONG: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"a count of {number!r:.9}": at(*LOCAL, drawn=number) for number in NUMBERS},
    **{f"half a count of {number!r:.9}": at(*LOCAL, outcomes={"ok": number}) for number in [*NUMBERS, 0.5]},
    **{f"durations of {number!r:.9}": at(*LOCAL, duration={"counts": [number, 0, 0]}) for number in NUMBERS},
    **{f"an age of {number!r:.9}": at(oldestLocalSeconds=number) for number in NUMBERS},
    **{f"an age of {number!r:.9} there": at("peer", oldestSeconds=number) for number in NUMBERS},
    **{f"rows of {number!r:.9}": at("golden", rows=number) for number in NUMBERS},
    **{f"a weight of {number!r:.9}": at("lease", weight=number) for number in [*NUMBERS, 1.5]},
    "more ended than drawn": at(*LOCAL, drawn=7),
    "more timed than ended": at(*LOCAL, duration={"counts": [9, 9, 9]}),
    "an edge too few": at("arms", edges=[0.1]),
    "no edges": at("arms", edges=[]),
    "edges that go back": at("arms", edges=[0.25, 0.1]),
    "edges without end": at("arms", edges=[0.1, float("inf")]),
    "a thousand outcomes": at(*LOCAL, outcomes={f"x{n}": 0 for n in range(2000)}),
    "an outcome with a line": at(*LOCAL, outcomes={"a\nb": 0}),
    "a bin of half a character": at(*LOCAL, predictions={"\ud800": 0}),
    "a long bin": at(*LOCAL, predictions={"x" * 600: 0}),
    "no arm": at("arms", "steady", local=None),
    "no phase": at("arms", warming=[]),
    "arms of nonsense": at(arms=[1]),
    "a mode that nobody knows": at("lease", mode="mirror"),
    "a mode of nonsense": at("lease", mode=["share"]),
    "more disagreeing than compared": at("arms", comparison={"rows": 1, "disagreeing": 2}),
    "more golden ended than asked": at("golden", asked=4),
    "a golden target of nonsense": at("golden", target=1),
    "done, perhaps": at("golden", done="true"),
    "an instance with a line": at(instance="a\r\nb"),
    "an instance without end": at(instance="a" * 400),
    "no instance": at(instance=None),
    "a signature of another kind": at(signature="md5"),
    "ready, perhaps": at(ready=1),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_as_it_should_be_is_unusable(name: str) -> None:
    found = json.loads(json.dumps(document()))
    said(found)
    WRONG[name](found)
    with pytest.raises(Unusable) as problem:
        said(found)
    assert problem.value.reason == "garbled"


@pytest.mark.parametrize("name", ["instance", "ready", "takesLeases", "sequence", "goldenKept", "startedSeconds"])
def test_what_is_missing_is_not_made_up(name: str) -> None:
    found = document()
    del found[name]
    with pytest.raises(Unusable, match=name):
        said(found)


@pytest.mark.parametrize("changes", [{"model": "beer"}, {"revision": "r2"}, {"model": None}, {"revision": ["r1"]}])
def test_what_is_about_something_else_is_foreign(changes: dict[str, Any]) -> None:
    with pytest.raises(Unusable) as problem:
        said(document(**changes))
    assert problem.value.reason == "foreign"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 9000, b"NaN"]
)
def test_what_is_no_json_object_is_garbled(text: bytes) -> None:
    with pytest.raises(Unusable) as problem:
        read(text, "wine", "r1")
    assert problem.value.reason == "garbled"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_whatever_a_member_is_the_document_is_read_or_unusable(data: st.DataObject) -> None:
    found = json.loads(json.dumps(document()))
    place = found
    while True:
        name = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[name], dict) or not place[name] or data.draw(st.booleans()):
            break
        place = place[name]
    place[name] = data.draw(_JSON)
    with suppress(Unusable):
        report = said(found)
        assert 0 <= report.steady_local.failed <= report.steady_local.ended <= report.steady_local.drawn

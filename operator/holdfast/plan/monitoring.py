"""The conditions DataStable and PerformanceStable, and the parts of status beside them.

Nothing is guessed: what is not known is said to be unknown, and why, and that is no reason for anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from holdfast.api.modeldeployment import Action
from holdfast.plan import conditions, decisions, drift
from holdfast.plan.conditions import Condition
from holdfast.plan.decisions import Decision
from holdfast.plan.drift import DriftWish, Findings, NoSignal, Wish
from holdfast.plan.observed import Observed
from holdfast.plan.view import View
from holdfast.stats.drift import CONFIRMED, ENOUGH_REFERENCE, ENOUGH_ROWS, WINDOWS, Finding
from holdfast.stats.performance import ENOUGH_LABELS, Accuracy, Quality

DATA_STABLE = "DataStable"
PERFORMANCE_STABLE = "PerformanceStable"
MOST_FEATURES = 8
_LONGEST_NAME = 128
"""Of a feature, that a status can show."""
PERSISTS = timedelta(days=1)
"""A retrained model that drifts sooner after its promotion was trained on what is not representative."""
DRIFTING = frozenset({"FeatureDrift", "PredictionDrift", "DriftPersistent"})
_NOT_ASKED = ("MetricsUnavailable", "Prometheus has not been asked yet")


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to be said. None: it is not asked for.

    Attributes:
        data: DataStable.
        performance: PerformanceStable.
        drift: `status.drift`.
        measured: `status.performance`.
        evidence: numbers behind a condition that is False, by its type.
        broken: what is broken about the newest rows, of which nothing should be learned then; empty when nothing is.
    """

    data: Condition | None
    performance: Condition | None
    drift: dict[str, Any] | None
    measured: dict[str, Any] | None
    evidence: Mapping[str, str]
    broken: str = ""

    @property
    def conditions(self) -> Iterable[Condition]:
        return tuple(each for each in (self.data, self.performance) if each)


def judged(observed: Observed) -> Judged | None:
    """What the last windows say of the stable revision; None without `spec.monitoring`."""
    wanted = drift.wish(observed.spec)
    return _judged(View(observed), wanted) if wanted else None


def notices(view: View, said: Judged | None) -> Iterable[Decision]:
    """Of what has just been found out."""
    for condition in said.conditions if said else ():
        before = conditions.find(view.status, condition.type)
        if condition.status == "False" and (before is None or before["reason"] != condition.reason):
            yield decisions.decision(
                view,
                Action.NOTIFIED,
                condition.reason,
                condition.message,
                source=view.stable.name if view.stable else "",
                evidence=said.evidence.get(condition.type, "") if said else "",
            )


def _judged(view: View, wanted: Wish) -> Judged:
    nothing = _unknown(view)
    if not isinstance(nothing, Findings):
        reason, message = nothing
        return Judged(
            data=_before(view, DATA_STABLE, reason, message) if wanted.drift else None,
            performance=_before(view, PERFORMANCE_STABLE, reason, message) if wanted.max_drop is not None else None,
            drift=view.status.get("drift") if wanted.drift else None,
            measured=view.status.get("performance") if wanted.max_drop is not None else None,
            evidence={},
        )
    found = nothing
    evidence: dict[str, str] = {}
    data = _data(view, wanted.drift, found, evidence) if wanted.drift else None
    performance = _performance(view, wanted.max_drop, found, evidence) if wanted.max_drop is not None else None
    return Judged(
        data,
        performance,
        _drift_status(found) if data and found.reference_rows else None,
        _performance_status(found) if performance and found.metric else None,
        evidence,
        broken=_broken(found.broken),
    )


def _unknown(view: View) -> Findings | tuple[str, str]:
    """(reason, message) where nothing is known of the stable revision."""
    answer, stable = view.observed.monitoring, view.stable if view.has_served else None
    if isinstance(answer, NoSignal):
        return answer.reason, answer.message
    if stable is None:
        return "InsufficientData", "no revision serves yet"
    if answer is None:
        return _NOT_ASKED
    if answer.revision != stable.name:
        return "Settling", f"{stable.name} has taken over; its rows are not known yet"
    return answer


def _before(view: View, type_: str, reason: str, message: str) -> Condition:
    """Before anybody has been asked, the last word stands."""
    before = conditions.find(view.status, type_)
    if before and (reason, message) == _NOT_ASKED:
        return Condition(type_, before["status"], before["reason"], before["message"])
    return Condition(type_, "Unknown", reason, message)


# --- Data -----------------------------------------------------------------------------------------------------------


def _data(view: View, wanted: DriftWish, found: Findings, evidence: dict[str, str]) -> Condition:
    def said(status: conditions.Status, reason: str, message: str) -> Condition:
        return Condition(DATA_STABLE, status, reason, message)

    every = _every(found)
    if not every:
        return said("Unknown", "NoProfile", _no_profile(found))
    where = f"{found.rows:,.0f} rows in {_span(found.window_seconds)}"
    if faults := {name: each.newest.fault for name, each in found.features.items() if each.newest.fault}:
        evidence[DATA_STABLE] = _broken(faults)
        counted = f"{len(faults)} of {len(found.features)} features"
        return said("False", "UpstreamFault", f"{_broken(faults)} ({where}); {counted}")
    if found.reference_rows < ENOUGH_REFERENCE:
        message = f"the profile is of {found.reference_rows:,.0f} held-out rows, of {ENOUGH_REFERENCE:,} it would tell"
        return said("Unknown", "InsufficientReference", message)
    if waiting := _settling(view, found):
        return said("Unknown", "Settling", waiting)
    before: Mapping[str, Any] = conditions.find(view.status, DATA_STABLE) or {}
    drifted = before.get("reason") in DRIFTING
    features = [(name, each) for name, each in found.features.items() if each.drifts(drifted=drifted)]
    outputs = [(name, each) for name, each in _outputs(found) if each.drifts(drifted=drifted)]
    if features or outputs:
        words = _words(features or outputs, drifted)
        evidence[DATA_STABLE] = _evidence(features or outputs, found)
        counted = f"; {len(features)} of {len(found.features)} features" if features else ""
        persistent = _persistent(view, found, before)
        reason = "DriftPersistent" if persistent else "FeatureDrift" if features else "PredictionDrift"
        return said("False", reason, f"{words} ({where}){counted}{persistent}")
    newest = max((each.newest for each in every), key=lambda shift: shift.enough)
    if not newest.enough:
        return said("Unknown", "InsufficientData", _too_few(found, every))
    unknown = f"; not in the profile: {', '.join(found.unknown[:8])}" if found.unknown else ""
    series = f"{len(found.features)} features" + (" and what is predicted" if _outputs(found) else "")
    return said("True", "NoDrift", f"{series} are as the held-out rows{unknown}")


def _broken(faults: Mapping[str, str]) -> str:
    return ", ".join(f"{name} has {_FAULT[fault]}" for name, fault in sorted(faults.items())[:3])


_FAULT = {"missing": "lost values", "other": "values never seen in training"}


def _every(found: Findings) -> list[Finding]:
    return [*found.features.values(), *(each for _, each in _outputs(found))]


def _outputs(found: Findings) -> list[tuple[str, Finding]]:
    both = (("prediction", found.prediction), ("confidence", found.confidence))
    return [(name, finding) for name, finding in both if finding]


def _no_profile(found: Findings) -> str:
    if found.unknown:
        return f"the profile has none of the features {', '.join(found.unknown[:8])}"
    if found.profile == "unusable":
        return "nothing of the bundle's profile.json fits the model: its pods' log says why"
    return "the model has no profile.json to compare rows with: serve a bundle that a TrainingJob has made"


def _settling(view: View, found: Findings) -> str:
    """Why nothing is said yet of a revision that has just taken over; empty when it has settled."""
    stable, since = view.stable, view.since_promotion
    took_over = stable is not None and bool(stable.standing.replaced)
    if not took_over or since is None or since >= timedelta(seconds=found.window_seconds):
        return ""
    return f"it took over {_span(int(since.total_seconds()))} ago: wait for {_span(found.window_seconds)} of its rows"


def _persistent(view: View, found: Findings, before: Mapping[str, Any]) -> str:
    """Why retraining would not help; empty when it may. It goes on to be so while it drifts."""
    stable, since = view.stable, view.since_promotion
    if stable is None or since is None or stable.model.source != "Retraining":
        return ""
    persists = max(PERSISTS, timedelta(seconds=found.window_seconds * (WINDOWS + 1)))
    same = before.get("reason") == "DriftPersistent" and view.status.get("stableRevision") == stable.name
    if not same and since >= persists:
        return ""
    return f"; {stable.name} was trained just before, on what is not like it: retraining again would not help"


def _words(drifting: list[tuple[str, Finding]], drifted: bool) -> str:
    name, worst = max(drifting, key=lambda pair: _excess(pair[1]))
    shift = max(worst.shifts[:WINDOWS], key=lambda shift: shift.psi / shift.limit if shift.enough else 0.0)
    beyond = worst.beyond(drifted=drifted)
    return f"{name} PSI {shift.psi:.3f} over {shift.limit:.3f}, {beyond} of {WINDOWS} windows"


def _evidence(drifting: list[tuple[str, Finding]], found: Findings) -> str:
    worst = sorted(drifting, key=lambda pair: _excess(pair[1]), reverse=True)[:3]
    listed = ", ".join(f"{name} {each.newest.psi:.3f} >= {each.newest.limit:.3f}" for name, each in worst)
    return f"PSI {listed}, n={found.rows:.0f}, {CONFIRMED} of {WINDOWS} windows of {_span(found.window_seconds)}"


def _too_few(found: Findings, every: list[Finding]) -> str:
    if not found.watched:
        return _unwatched(found)
    if found.rows < ENOUGH_ROWS:
        return f"{found.rows:,.0f} rows in {_span(found.window_seconds)}; {ENOUGH_ROWS} would tell"
    least = min(every, key=lambda each: each.newest.rows / each.effect)
    alike = least.newest.rows / least.effect
    return (
        f"the {found.rows:,.0f} rows in {_span(found.window_seconds)} come together: they tell as much as {alike:.0f}"
    )


def _unwatched(found: Findings) -> str:
    return f"Prometheus could not see the pods for more than a tenth of the last {_span(found.window_seconds)}"


def _excess(finding: Finding) -> float:
    """The newest window's PSI as a multiple of its limit."""
    newest = finding.newest
    return newest.psi / newest.limit if newest.enough else 0.0


def _drift_status(found: Findings) -> dict[str, Any]:
    shown = [pair for pair in found.features.items() if len(pair[0]) <= _LONGEST_NAME]
    worst = sorted(shown, key=lambda pair: (_excess(pair[1]), pair[1].newest.psi), reverse=True)
    said: dict[str, Any] = {
        "rows": int(found.rows),
        "windowSeconds": found.window_seconds,
        "features": [{"name": name, **_index(each)} for name, each in worst[:MOST_FEATURES]],
    }
    return said | {name: _index(each) for name, each in _outputs(found)}


def _index(finding: Finding) -> dict[str, int]:
    newest = finding.newest
    said = {"psiPerMille": round(1000 * newest.psi)}
    return said | ({"limitPerMille": round(1000 * newest.limit)} if math.isfinite(newest.limit) else {})


# --- Quality --------------------------------------------------------------------------------------------------------


def _performance(view: View, max_drop: float, found: Findings, evidence: dict[str, str]) -> Condition:
    def said(status: conditions.Status, reason: str, message: str) -> Condition:
        return Condition(PERFORMANCE_STABLE, status, reason, message)

    if not found.reference_rows:
        return said("Unknown", "NoProfile", _no_profile(found))
    if not found.metric:
        message = (
            "the profile says neither how often the model is right by its confidence, nor how large its errors are: "
            "there is nothing to compare with"
        )
        return said("Unknown", "NotCalibrated", message)
    if found.reference_rows < ENOUGH_REFERENCE:
        message = f"the profile is of {found.reference_rows:,.0f} held-out rows, of {ENOUGH_REFERENCE:,} it would tell"
        return said("Unknown", "InsufficientReference", message)
    if waiting := _settling(view, found):
        return said("Unknown", "Settling", waiting)
    measured, known = found.measured, [each for each in found.estimated if each]
    before: Mapping[str, Any] = conditions.find(view.status, PERFORMANCE_STABLE) or {}
    if measured and _fell(measured, max_drop, before.get("reason") == "MeasuredDrop"):
        evidence[PERFORMANCE_STABLE] = _certainty(measured, "labels")
        return said("False", "MeasuredDrop", _comparison("measured", measured, max_drop, "labels"))
    if found.metric == "MAE":
        if measured is None:
            return said("Unknown", "InsufficientData", _too_few_labels(found))
        return said("True", "WithinTolerance", f"MAE, measured, has not grown by more than {max_drop:.1%}")
    fell = [each for each in known if _fell(each, max_drop, before.get("reason") == "EstimatedDrop")]
    contradicted = isinstance(measured, Accuracy) and bool(fell) and measured.contradicts(fell[0])
    if len(fell) >= CONFIRMED and not contradicted:
        evidence[PERFORMANCE_STABLE] = _certainty(fell[0], "rows")
        return said("False", "EstimatedDrop", _comparison("estimated", fell[0], max_drop, "rows"))
    if found.broken and measured is None:
        words = f"{_broken(found.broken)}: rows of a broken producer tell nothing about the model"
        return said("Unknown", "UpstreamFault", words)
    if measured is None and (not found.estimated or found.estimated[0] is None):
        few = f"{found.rows:,.0f} rows in {_span(found.window_seconds)}; {ENOUGH_ROWS} would tell"
        return said("Unknown", "InsufficientData", few if found.watched else _unwatched(found))
    how = "measured" if measured else "estimated"
    return said("True", "WithinTolerance", f"accuracy, {how}, is within {max_drop:.3f} of the held-out rows")


def _fell(quality: Quality, max_drop: float, said_before: bool) -> bool:
    """What was said stays until the drop is clearly tolerated."""
    return quality.fell(max_drop) or (said_before and quality.drop > max_drop)


def _too_few_labels(found: Findings) -> str:
    return (
        f"{found.labels:,.0f} labels in {_span(WINDOWS * found.window_seconds)}, and {ENOUGH_LABELS} of rows that do "
        "not come together would tell: how large errors are is known from feedback alone"
    )


def _comparison(how: str, quality: Quality, max_drop: float, what: str) -> str:
    numbers = (
        f"Accuracy {quality.value:.3f} {how}, {quality.baseline:.3f} held-out, tolerated {max_drop:.3f}"
        if isinstance(quality, Accuracy)
        else f"MAE {quality.value:.4g} {how}, {quality.baseline:.4g} held-out, tolerated {max_drop:.1%} more"
    )
    return f"{numbers} ({quality.rows:,.0f} {what})"


def _certainty(quality: Quality, what: str) -> str:
    drop = "drop" if isinstance(quality, Accuracy) else "growth"
    return f"{drop} {quality.drop:.3f}, standard error {quality.error:.4f}, n={quality.rows:.0f} {what}"


def _performance_status(found: Findings) -> dict[str, Any]:
    estimated, measured = next(iter(found.estimated), None), found.measured
    known = measured or estimated
    said: dict[str, Any] = {"metric": found.metric, "rows": int(found.rows)}
    if found.metric == "MAE":
        numbers = {"baseline": f"{measured.baseline:.4g}", "measured": f"{measured.value:.4g}"} if measured else {}
        return said | numbers | {"labels": int(found.labels if measured is None else measured.rows)}
    if known:
        said["baselinePerMille"] = round(1000 * known.baseline)
    if estimated:
        said["estimatedPerMille"] = round(1000 * estimated.value)
    if measured:
        said |= {"measuredPerMille": round(1000 * measured.value), "labels": int(measured.rows)}
    return said


def _span(seconds: int) -> str:
    """In words: `6 h`."""
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit or seconds == unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds} s"

"""What is known of the data and of the quality of a model in use: what a spec asks for, and what Prometheus says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from holdfast.stats import drift, performance
from holdfast.stats.drift import Counts, Finding, Series
from holdfast.stats.performance import Accuracy

DAY = 86_400
LOOKS = 4
"""So many times in a window it is looked at,"""
LEAST_STEP = 60
"""but not more often than this, in seconds."""
WATCHED = 0.9
"""A window that Prometheus has seen less of tells nothing: half a day is no picture of one with a cycle."""


@dataclass(frozen=True, slots=True)
class DriftWish:
    """`spec.monitoring.drift`."""

    features: frozenset[str] | None
    """None: all."""
    tolerated: float
    """PSI."""


@dataclass(frozen=True, slots=True)
class Wish:
    """`spec.monitoring`."""

    drift: DriftWish | None
    max_drop: float | None
    """Of accuracy, that is tolerated; None: nobody asks for performance."""


def wish(spec: Mapping[str, Any]) -> Wish | None:
    """Of a ModelDeployment's spec as the API server keeps it; None without any."""
    monitoring = spec.get("monitoring") or {}
    data, quality = monitoring.get("drift"), monitoring.get("performance")
    if data is None and quality is None:
        return None
    return Wish(
        drift=DriftWish(
            frozenset(data["features"]) if "features" in data else None,
            data.get("toleratedPSIPerMille", 100) / 1000,
        )
        if data is not None
        else None,
        max_drop=quality.get("maxDropPerMille", 10) / 1000 if quality is not None else None,
    )


def step(window_seconds: int) -> int:
    """Seconds between two looks."""
    return max(LEAST_STEP, window_seconds // LOOKS)


def seasons(window_seconds: int) -> tuple[int, ...]:
    """Seconds of the cycles that a window may be a part of."""
    return tuple(cycle for cycle in (DAY, 7 * DAY) if cycle > window_seconds)


@dataclass(frozen=True, slots=True)
class Labels:
    """Predictions of one window whose truth is known by now."""

    right: float
    wrong: float


@dataclass(frozen=True, slots=True)
class Signal:
    """What Prometheus says of one revision.

    Attributes:
        revision: that these rows were answered by.
        window_seconds: of each window.
        profile: `complete`, `partial`, `unusable` or `none`.
        features, prediction, confidence: counts; what the profile does not have is missing.
        accuracy: of held-out rows, by bin of confidence.
        labels: by window, the newest first.
        watched: shares of the windows in which Prometheus could see the pods.
    """

    revision: str
    window_seconds: int
    profile: str
    features: Mapping[str, Series]
    prediction: Series | None
    confidence: Series | None
    accuracy: Counts
    labels: tuple[Labels, ...]
    watched: tuple[float, ...] = (1.0,) * drift.WINDOWS


@dataclass(frozen=True, slots=True)
class NoSignal:
    """Why Prometheus says nothing of a ModelDeployment."""

    reason: Literal["PrometheusNotConfigured", "MetricsUnavailable", "InsufficientData"]
    message: str


NOT_CONFIGURED = NoSignal("PrometheusNotConfigured", "the operator's setting HOLDFAST_PROMETHEUS_URL is empty")
SCALED_TO_ZERO = NoSignal("InsufficientData", "serving.replicas is 0, as asked: there are no rows")


@dataclass(frozen=True, slots=True)
class Findings:
    """What the windows of a revision say, before anybody asks what was said before.

    Attributes:
        profile: as in Signal.
        rows: of the newest window.
        watched: whether Prometheus has seen enough of it.
        reference_rows: held-out rows; 0 without a profile.
        unknown: features that a spec names and the profile does not have.
        broken: features of which a producer has broken in the newest window, and the bin that says so; all that are
            counted, whether or not their drift is asked for.
        estimated: accuracy by window, the newest first; None where there is none, or a producer had broken.
        measured: accuracy by labels; None where there are too few.
        calibrated: whether it is known how often the model is right by its confidence.
    """

    revision: str
    window_seconds: int
    profile: str
    rows: float
    watched: bool
    reference_rows: float
    features: Mapping[str, Finding]
    unknown: tuple[str, ...]
    prediction: Finding | None
    confidence: Finding | None
    calibrated: bool
    broken: Mapping[str, str]
    estimated: tuple[Accuracy | None, ...]
    measured: Accuracy | None


Answer = Findings | NoSignal | None
"""None: nobody has been asked yet."""


def found(wanted: Wish, signal: Signal) -> Findings:
    """What a signal says. It takes some milliseconds for each feature."""
    rows = max((sum(each.windows[0].values()) for each in _every(signal)), default=0.0)
    signal = _as_watched(signal)
    chosen = wanted.drift.features if wanted.drift else frozenset[str]()
    features = {name: each for name, each in signal.features.items() if chosen is None or name in chosen}
    tolerated = wanted.drift.tolerated if wanted.drift else math.inf
    alpha = drift.alpha(signal.window_seconds, len(_every(signal)))

    def judged(series: Series | None) -> Finding | None:
        return drift.found(series, tolerated, alpha) if series and wanted.drift else None

    faults = {name: drift.faults(each, alpha) for name, each in signal.features.items()}
    sound = [not any(windows) for windows in zip(*faults.values(), strict=True)]
    estimated, measured, calibrated = _performance(wanted, signal, sound)
    return Findings(
        revision=signal.revision,
        window_seconds=signal.window_seconds,
        profile=signal.profile,
        rows=rows,
        watched=signal.watched[0] >= WATCHED,
        reference_rows=max((each.reference.rows for each in _every(signal)), default=0.0),
        features={name: drift.found(each, tolerated, alpha) for name, each in features.items()},
        unknown=tuple(sorted((chosen or frozenset()) - signal.features.keys())),
        prediction=judged(signal.prediction),
        confidence=judged(signal.confidence),
        calibrated=calibrated,
        broken={name: windows[0] for name, windows in faults.items() if windows[0]},
        estimated=estimated,
        measured=measured,
    )


def _every(signal: Signal) -> list[Series]:
    return [*signal.features.values(), *(each for each in (signal.prediction, signal.confidence) if each)]


def _as_watched(signal: Signal) -> Signal:
    """Without the rows of windows that Prometheus has seen too little of."""

    def known(series: Series) -> Series:
        windows = zip(series.windows, signal.watched, strict=True)
        return replace(series, windows=tuple(counts if watched >= WATCHED else {} for counts, watched in windows))

    return replace(
        signal,
        features={name: known(each) for name, each in signal.features.items()},
        prediction=known(signal.prediction) if signal.prediction else None,
        confidence=known(signal.confidence) if signal.confidence else None,
    )


def _performance(
    wanted: Wish, signal: Signal, sound: Sequence[bool]
) -> tuple[tuple[Accuracy | None, ...], Accuracy | None, bool]:
    """(estimated, measured, calibrated). `sound`: by window, whether its rows tell of the model; empty: all do."""
    confidence = signal.confidence
    calibration = performance.calibrated(confidence.reference, signal.accuracy) if confidence else None
    if wanted.max_drop is None or calibration is None or confidence is None:
        return (), None, False
    estimated = tuple(
        performance.estimated(calibration, counts, confidence.effect)
        if is_sound and sum(counts.values()) >= drift.ENOUGH_ROWS
        else None
        for counts, is_sound in zip(confidence.windows, sound or [True] * len(confidence.windows), strict=True)
    )
    newest, together = (_measured(calibration, labels, confidence) for labels in (signal.labels[:1], signal.labels))
    # Of a small loss only the labels of all windows are certain.
    loss = together and together.fell(wanted.max_drop) and not (newest and newest.fell(wanted.max_drop))
    return estimated, together if loss or newest is None else newest, True


def _measured(calibration: performance.Calibration, labels: Sequence[Labels], confidence: Series) -> Accuracy | None:
    right, wrong = sum(each.right for each in labels), sum(each.wrong for each in labels)
    return performance.measured(calibration, right, wrong, confidence.effect)

"""What is known of the data and of the quality of a model in use: what a spec asks for, and what Prometheus says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from holdfast.stats import drift, performance, regression
from holdfast.stats.drift import WINDOWS, Counts, Finding, Series
from holdfast.stats.performance import Accuracy, Quality

Metric = Literal["Accuracy", "MAE", ""]

DAY = 86_400
LOOKS = 4
"""So many times in a window it is looked at,"""
LEAST_STEP = 60
"""but not more often than this, in seconds."""
MOVED = 0.1
"""A feature that has moved by a smaller true PSI says nothing about accuracy that is worth its noise."""
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
    """Of accuracy, or as a share of the mean error, that is tolerated; None: nobody asks for performance."""


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
        errors: of predicted numbers whose true ones have come back, by bin; None where the profile has none.
        mean_errors: of held-out rows, by bin of these.
    """

    revision: str
    window_seconds: int
    profile: str
    features: Mapping[str, Series]
    prediction: Series | None
    confidence: Series | None
    accuracy: Counts
    labels: tuple[Labels, ...]
    watched: tuple[float, ...] = (1.0,) * WINDOWS
    errors: Series | None = None
    mean_errors: Counts = field(default_factory=dict)


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
        metric: by which performance is judged; empty where the profile has nothing to compare with: neither how often
            the model is right by its confidence, nor how large its errors are.
        measured: by labels; None where there are too few.
        labels: of all windows.
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
    broken: Mapping[str, str]
    metric: Metric
    estimated: tuple[Accuracy | None, ...]
    measured: Quality | None
    labels: float


Answer = Findings | NoSignal | None
"""None: nobody has been asked yet."""


def found(wanted: Wish, signal: Signal) -> Findings:
    """What a signal says. It takes some milliseconds for each feature."""
    rows = max((sum(each.windows[0].values()) for each in _every(signal)), default=0.0)
    errors = [signal.errors] if signal.errors else []
    signal = _as_watched(signal)
    chosen = wanted.drift.features if wanted.drift else frozenset[str]()
    features = {name: each for name, each in signal.features.items() if chosen is None or name in chosen}
    tolerated = wanted.drift.tolerated if wanted.drift else math.inf
    alpha = drift.alpha(signal.window_seconds, len(_every(signal)))

    def judged(series: Series | None) -> Finding | None:
        return drift.found(series, tolerated, alpha) if series and wanted.drift else None

    faults = {name: drift.faults(each, alpha) for name, each in signal.features.items()}
    sound = [not any(windows) for windows in zip(*faults.values(), strict=True)]
    quality = _performance(wanted, signal, sound, alpha)
    return Findings(
        revision=signal.revision,
        window_seconds=signal.window_seconds,
        profile=signal.profile,
        rows=rows,
        watched=signal.watched[0] >= WATCHED,
        reference_rows=max((each.reference.rows for each in (*_every(signal), *errors)), default=0.0),
        features={name: drift.found(each, tolerated, alpha) for name, each in features.items()},
        unknown=tuple(sorted((chosen or frozenset()) - signal.features.keys())),
        prediction=judged(signal.prediction),
        confidence=judged(signal.confidence),
        broken={name: windows[0] for name, windows in faults.items() if windows[0]},
        metric=quality.metric,
        estimated=quality.estimated,
        measured=quality.measured,
        labels=quality.labels,
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


@dataclass(frozen=True, slots=True)
class _Quality:
    """The part of Findings that is about performance."""

    metric: Metric = ""
    estimated: tuple[Accuracy | None, ...] = ()
    measured: Quality | None = None
    labels: float = 0.0


def _performance(wanted: Wish, signal: Signal, sound: Sequence[bool], alpha: float) -> _Quality:
    """`sound`: by window, whether its rows tell of the model; empty: all do."""
    if wanted.max_drop is None:
        return _Quality()
    if signal.confidence and (calibration := performance.calibrated(signal.confidence.reference, signal.accuracy)):
        moved = _moved(signal, alpha)
        return _accuracy(wanted.max_drop, signal, signal.confidence, calibration, sound, moved)
    if signal.errors and (known := regression.held_out(signal.errors.reference, signal.mean_errors)):
        return _mean_error(wanted.max_drop, signal, signal.errors, known)
    return _Quality()


_Moved = tuple[Series, Counts] | None
"""A feature, and rows by its bins."""


def _moved(signal: Signal, alpha: float) -> tuple[_Moved, ...]:
    """By window, the feature that has moved most, whatever explains it; None where none has, beyond chance."""
    known = [replace(each, seasons=()) for each in signal.features.values() if each.excess]
    shifts = [drift.found(each, MOVED, alpha).shifts for each in known]

    def most(index: int) -> _Moved:
        beyond = [(by[index].psi, place) for place, by in enumerate(shifts) if by[index].beyond()]
        if not beyond:
            return None
        series = known[max(beyond)[1]]
        return series, series.windows[index]

    return tuple(most(index) for index in range(WINDOWS))


def _accuracy(
    max_drop: float,
    signal: Signal,
    confidence: Series,
    calibration: performance.Calibration,
    sound: Sequence[bool],
    moved: Sequence[_Moved],
) -> _Quality:
    windows = zip(confidence.windows, sound or [True] * len(confidence.windows), moved, strict=True)
    estimated = tuple(
        performance.estimated(calibration, counts, confidence.effect, most)
        if is_sound and sum(counts.values()) >= drift.ENOUGH_ROWS
        else None
        for counts, is_sound, most in windows
    )

    def measured(windows: int) -> Quality | None:
        labels = signal.labels[:windows]
        right, wrong = sum(each.right for each in labels), sum(each.wrong for each in labels)
        return performance.measured(calibration, right, wrong, confidence.effect)

    labels = sum(each.right + each.wrong for each in signal.labels)
    return _Quality("Accuracy", estimated, _measured(measured, max_drop), labels)


def _mean_error(max_drop: float, signal: Signal, errors: Series, known: regression.HeldOut) -> _Quality:
    # Where labels come all at once, only what was predicted tells how rows come together.
    effect = max(errors.effect, signal.prediction.effect if signal.prediction else 1.0)

    def measured(windows: int) -> Quality | None:
        together = {name: sum(each.get(name, 0.0) for each in errors.windows[:windows]) for name in known.means}
        return regression.measured(known, together, effect)

    labels = sum(sum(each.values()) for each in errors.windows)
    return _Quality("MAE", (), _measured(measured, max_drop), labels)


def _measured(measured: Callable[[int], Quality | None], max_drop: float) -> Quality | None:
    """By the labels of the newest window, or of all: where these are too few, or only all are certain of a loss."""
    newest, together = measured(1), measured(WINDOWS)
    loss = together and together.fell(max_drop) and not (newest and newest.fell(max_drop))
    return together if loss or newest is None else newest

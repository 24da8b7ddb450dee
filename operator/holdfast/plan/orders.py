"""What a person says by annotation: `VERB REVISION`, acted on once (but for `pause`, which holds while it is there)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from holdfast.build import labels
from holdfast.plan.observed import Json

Verb = Literal["pause", "promote", "abort", "retry", "rollback"]
_ORDER = re.compile("(pause|promote|abort|retry|rollback) +([0-9a-f]{10})(?:@.*)?")
MAX_ROLLOUT, MAX_REFRESH = 128, 63
FORM = 'give "VERB REVISION" with one of pause, promote, abort, retry, rollback and the 10 digits of a revision'


@dataclass(frozen=True, slots=True)
class Order:
    """One that was understood."""

    verb: Verb
    revision: str


@dataclass(frozen=True, slots=True)
class Orders:
    """What stands on a ModelDeployment, and what of it was acted on before."""

    rollout: str | None
    """As it was written; None when it was acted on, or is not there."""
    refresh: str | None
    retrain: str | None
    """Whether or not it was acted on: a run of that name tells."""
    order: Order | None
    """None too where `rollout` was not understood."""
    handled_rollout: str
    handled_refresh: str

    @property
    def noted(self) -> dict[str, str]:
        """Annotations of Service X: what was acted on."""
        said = {labels.HANDLED_ROLLOUT: self.handled_rollout, labels.HANDLED_REFRESH: self.handled_refresh}
        return {name: text for name, text in said.items() if text}


def read(annotations: Json, handled: Json) -> Orders:
    """`annotations` of the ModelDeployment, `handled` those of Service X and, where there is none, from status."""
    rollout = annotations.get(labels.ROLLOUT, "").strip()[:MAX_ROLLOUT]
    refresh = annotations.get(labels.REFRESH, "").strip()[:MAX_REFRESH]
    handled_rollout, handled_refresh = handled.get(labels.HANDLED_ROLLOUT, ""), handled.get(labels.HANDLED_REFRESH, "")
    match = _ORDER.fullmatch(rollout)
    order = Order(cast(Verb, match[1]), match[2]) if match else None
    return Orders(
        rollout=rollout if rollout and rollout != handled_rollout else None,
        refresh=refresh if refresh and refresh != handled_refresh else None,
        retrain=annotations.get(labels.RETRAIN, "").strip()[:MAX_REFRESH] or None,
        order=order if order and (order.verb == "pause" or rollout != handled_rollout) else None,
        handled_rollout=handled_rollout,
        handled_refresh=handled_refresh,
    )

"""An operator that is killed between any two writes, or leases, of a workflow: it ends as if it had not been.

A sample of the moments; `make campaign` goes through all.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.plan import worlds
from tests.unit.plan.crashes import Chapter, Life, survived
from tests.unit.plan.routers import Cluster
from tests.unit.plan.test_guard import SLO
from tests.unit.plan.test_rollout import NEXT, THIRD, say

STEPS = [{"weightPercent": 20, "minSeconds": 10}, {"weightPercent": 50, "minSeconds": 10}]
SHADOW = {"percent": 50, "minSeconds": 10}
CANARY: dict[str, Any] = {"strategy": "Canary", "shadow": SHADOW, "steps": STEPS, "tolerancePerMille": 50}
IMMEDIATE: dict[str, Any] = {"strategy": "Immediate"}
FIRST = {"uri": worlds.URI, "digest": worlds.PINNED}


# --- Chapters -------------------------------------------------------------------------------------------------------


def ready_is(life: Life, reason: str) -> bool:
    """Whether Ready has that reason, said of the spec as it is."""
    world = life.cluster.world
    says = world.says("Ready")
    return world.status.get("observedGeneration") == world.generation and says is not None and says[1] == reason


def serving(life: Life) -> bool:
    return ready_is(life, "Serving")


def sharing(life: Life) -> bool:
    """The candidate is asked by users."""
    if ready_is(life, "CanaryStep"):
        life.names["new"] = life.cluster.world.status["candidateRevision"]
        return True
    return False


def rejected(life: Life) -> bool:
    return ready_is(life, "RevisionRejected")


def watched(life: Life) -> bool:
    """The new revision has served, with the old one warm, for long enough to be compared."""
    world = life.cluster.world
    life.names["new"] = str(world.selected)
    compared = [r.counts["target"][0] for r in life.cluster.routers.values() if r.revision == world.selected]
    return serving(life) and sum(compared) > 20


def changes(life: Life) -> None:
    life.names["old"] = str(life.cluster.world.selected)
    life.cluster.world.change(model=NEXT)


def changes_again(life: Life) -> None:
    life.cluster.world.change(model=THIRD)


def reverts(life: Life) -> None:
    life.cluster.world.change(model=FIRST)


def scales(life: Life) -> None:
    life.cluster.world.scale(3)


def fails(life: Life) -> None:
    life.cluster.bad[life.names["new"]] = 1.0


def retries(life: Life) -> None:
    life.cluster.bad.clear()
    say(life.cluster, f"retry {life.names['new']}")


def promotes(life: Life) -> None:
    say(life.cluster, f"promote {life.names['new']}")


def aborts(life: Life) -> None:
    say(life.cluster, f"abort {life.names['new']}")


def rolls_back(life: Life) -> None:
    say(life.cluster, f"rollback {life.names['old']}")


def is_seen(life: Life) -> None:
    """That it was so is all."""


CHANGED: Chapter = (serving, changes)
WORKFLOWS: dict[str, tuple[dict[str, Any], tuple[Chapter, ...]]] = {
    "a canary": (CANARY, (CHANGED, (serving, is_seen))),
    "a change at once": (IMMEDIATE, (CHANGED, (serving, is_seen))),
    "an abort": (CANARY, (CHANGED, (sharing, fails), (rejected, is_seen))),
    "an abort by a person": (CANARY, (CHANGED, (sharing, aborts), (rejected, is_seen))),
    "a promotion by a person": (CANARY, (CHANGED, (sharing, promotes), (serving, is_seen))),
    "another change": (CANARY, (CHANGED, (sharing, changes_again), (serving, is_seen))),
    "a change of mind": (CANARY, (CHANGED, (sharing, reverts), (serving, is_seen))),
    "a retry": (CANARY, (CHANGED, (sharing, fails), (rejected, retries), (serving, is_seen))),
    "a rollback": (IMMEDIATE, (CHANGED, (watched, fails), (rejected, is_seen))),
    "a rollback by a person": (IMMEDIATE, (CHANGED, (watched, rolls_back), (rejected, is_seen))),
    "a change after a rollback": (
        IMMEDIATE, (CHANGED, (watched, fails), (rejected, changes_again), (serving, is_seen)),
    ),
    "more pods meanwhile": (CANARY, (CHANGED, (sharing, scales), (serving, is_seen))),
}  # fmt: skip


def life_of(rollout: dict[str, Any], chapters: tuple[Chapter, ...], **told: Any) -> Life:
    world = worlds.model_deployment(replicas=2)
    world.spec.update({"rollout": rollout, "slo": SLO, "guard": {"controlPercent": 10}})
    return Life(Cluster(world), chapters, **told)


def killed_at_each_moment(workflow: str) -> Life:
    return life_of(*WORKFLOWS[workflow], pauses=(0, 20), renewals=8)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_killed_operator_ends_where_it_would_have_ended(workflow: str) -> None:
    moments = survived(killed_at_each_moment(workflow), most=12)
    assert moments > 20
    print(f"{workflow}: killed at {moments} moments")

"""Challengers: models that were trained again. One that passed its gate becomes the wanted model, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from holdfast.api.modeldeployment import Rejection
from holdfast.api.trainingjob import RunSpec
from holdfast.build import labels, names
from holdfast.build.job import gate_job
from holdfast.plan import jobs, revisions, trainings, trouble
from holdfast.plan.conditions import rfc3339
from holdfast.plan.observed import Apply, Child, Create, Delete, Write
from holdfast.plan.revisions import Model, Revision
from holdfast.plan.standing import UNPROVEN
from holdfast.plan.trainings import Run
from holdfast.plan.view import View, newest_first

ROWS = 16
"""Of a gate's table."""


def preferred(view: View, asked: Model) -> Model:
    """The model to serve while the spec asks for `asked`: another word than stable was made under always wins."""
    stable = view.stable
    if stable is None or stable.model.wish != asked.wish:
        return asked
    newer = waiting(view, stable)
    return newer.model if newer else stable.model


def waiting(view: View, stable: Revision) -> Revision | None:
    """The newest challenger of stable that passed its gate and was not found wanting since."""
    dropped = {r.model.digest for r in view.revisions if r.standing.verdict == "Rejected"}
    for revision in view.revisions:
        if (
            revision.record
            and revision.ordinal > stable.ordinal
            and revision.model.source == "Retraining"
            and revision.model.wish == stable.model.wish
            and revision.model.digest not in dropped | {stable.model.digest}
            and revision.standing.verdict == "Unproven"
            and revision.standing.gate.get("rollout") is not False
        ):
            return revision
    return None


# --- The gate -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """How the comparison of a run's model with stable stands."""

    message: str
    writes: tuple[Write, ...] = ()
    problem: str = ""
    """A reason, when the helper cannot do its work."""


def gate_helper(view: View, run: Run) -> str:
    """The name of the helper Job that compares."""
    assert view.stable
    assert run.model
    key = f"{view.stable.model.digest}\0{run.model.digest}"
    return names.helper_job(view.metadata.name, view.metadata.uid, "gate", key)


def evaluate(view: View, run: Run, env: Mapping[str, str]) -> Evaluation:
    """Have it compared, or put on record how it compared. A model that could not be compared has not passed."""
    assert view.stable
    name = gate_helper(view, run)
    create = _question(view, run, name)
    helper = view.job(name)
    against = f"{run.name} against {view.stable.name}"
    if helper is None:
        if refused := view.observed.create_errors.get(("Job", name)):
            return Evaluation(f"{against}: {refused}", (create,), "QuotaExceeded")
        return Evaluation(f"comparing {against} (Job {name})", (create,))
    pods = newest_first(pod for pod in view.observed.pods if pod.owner_uid == helper.uid)
    said = next((told for told in map(trouble.report, pods) if told.get("result") == "Completed"), None)
    if said is not None:
        table = _table(said)
        passed = said.get("passed") is True
        words = str(said.get("message") or ("it passed" if passed else "it did not say that it passed"))
        return Evaluation(words, (_record(view, run, env, passed, words, table),))
    if jobs.succeeded(helper):  # its pod, and what it said, are gone: ask again
        return Evaluation(f"comparing {against} again", (Delete("Job", name, helper.uid),))
    if jobs.failed(helper):
        told = next((report for report in map(trouble.report, pods) if "reason" in report), None)
        why = f"{told['reason']}: {told.get('message', '')}" if told else "its Job failed"
        words = f"{against} could not be compared: {why}"
        return Evaluation(words, (_record(view, run, env, False, words, ()),))
    stale = create.manifest["metadata"]["annotations"][labels.DESIRED_HASH]
    if helper.annotations.get(labels.DESIRED_HASH) != stale:
        return Evaluation(f"comparing {against} again", (Delete("Job", name, helper.uid),))
    return Evaluation(f"comparing {against} (Job {name}){trouble.doing(pods)}")


def _record(
    view: View, run: Run, env: Mapping[str, str], passed: bool, words: str, table: tuple[Mapping[str, Any], ...]
) -> Apply:
    """A revision that may be rolled out; or one that never will be, for everybody to see."""
    assert run.model
    serving = view.spec.serving
    intent = revisions.intent(run.model, serving, env)
    made = revisions.new(view.metadata, view.observed.settings, run.model, serving, env, intent)
    pinned = view.spec.model is not None and view.spec.model.digest is not None
    rolls_out = run.training.labels.get(labels.ACTION) == "TrainAndRollout" and not pinned
    gate = {"time": rfc3339(view.now), "passed": passed, "message": words, "rows": list(table), "rollout": rolls_out}
    standing = replace(UNPROVEN, gate=gate)
    if not passed:
        standing = standing.rejected(Rejection.GATE_FAILED, words, summary(table), view.now)
    return Apply(revisions.record_of(view.metadata, replace(made, standing=standing), view.next_ordinal, view.now))


def _question(view: View, run: Run, name: str) -> Create:
    stable, metadata, settings = view.stable, view.metadata, view.observed.settings
    assert stable
    assert run.model
    assert view.spec.retraining
    return Create(
        gate_job(
            name,
            metadata.name,
            metadata.namespace,
            metadata.uid,
            revisions.source(stable.model.uri, view.spec.serving, stable.model.secret),
            stable.model.digest,
            (run.model.uri, run.model.digest),
            view.spec.retraining.gate,
            RunSpec.parse(trainings.template(view)),
            str((run.training.status.get("tracking") or {}).get("modelVersion") or ""),
            settings.training_image,
            settings.image_pull_policy,
        )
    )


def _table(said: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """What the status can hold of what the helper said."""
    kept: list[Mapping[str, Any]] = []
    for row in said.get("gate") or ():
        if isinstance(row, dict) and isinstance(row.get("name"), str) and row.get("result") in _RESULTS:
            values = {
                key: str(row[key])[:32] for key in ("champion", "challenger", "limit") if row.get(key) is not None
            }
            kept.append({"name": row["name"][:64], **values, "result": row["result"]})
    return tuple(kept[:ROWS])


_RESULTS = ("Passed", "Failed", "Skipped")


def summary(table: tuple[Mapping[str, Any], ...]) -> str:
    """The table in a line: what failed first."""
    order = sorted(table, key=lambda row: row["result"] != "Failed")
    return "; ".join(
        f"{row['name']} {row.get('challenger', '?')} against {row.get('champion', '?')}"
        f" (limit {row.get('limit', 'none')}): {row['result']}"
        for row in order
    )


def unneeded_helpers(view: View, run: Run | None) -> list[Child]:
    """Comparisons that nobody waits for any more."""
    needed = gate_helper(view, run) if run else None
    return [job for job in view.helpers("gate") if job.name != needed and not jobs.finished(job)]

"""What to do for a BatchInference: one Job, created once with one model; what its pods say becomes the status for good.

No pod knows before its end whether it is the last one: the one that finds all shards there sums up, and says so in its
report and beside the answers. So a report that is lost is got again by another Job, which scores nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from holdfast.api.batchinference import SHARDS_PER_POD, BatchInferenceSpec, BatchInferenceStatus
from holdfast.api.batchinference import BatchInferenceReason as Reason
from holdfast.build import labels, names
from holdfast.build.batch import batch_job, claims_of
from holdfast.plan import conditions, jobs, progress, runs, trouble
from holdfast.plan.conditions import RECONCILING
from holdfast.plan.observed import Child, Create, Delete, Needs, Observed, Plan, Pod, Write
from holdfast.plan.runs import Verdict
from holdfast.plan.trouble import Trouble
from holdfast.stats import divergence

REASONS = frozenset(Reason)
WAITING = frozenset(
    {
        Reason.MODEL_NOT_READY,
        Reason.IMAGE_PULL_FAILED,
        Reason.UNSCHEDULABLE,
        Reason.QUOTA_EXCEEDED,
        Reason.CLAIM_NOT_FOUND,
        Reason.SECRET_NOT_FOUND,
        Reason.SECRET_INVALID,
        Reason.SERVICE_ACCOUNT_NOT_FOUND,
    }
)
"""Why a run does not begin. They pass once the cause is mended, and end the run at its deadline."""
ROWS = ("rowsRead", "rowsWritten", "rowsBad")
"""Parts of the report that go into the status as they are."""
WORST = 8
"""Features in the status."""
MOST_PER_MILLE = 1_000_000

Model = Mapping[str, str]
"""As in `status.model`."""


def needs(observed: Observed) -> Needs:
    """Pods are read at the end, and when they take long to come up."""
    job = _job(observed)
    if runs.is_final(observed) or job is None:
        return Needs()
    waited = runs.waited(observed) and not job.status.get("ready")
    model = _remembered(observed)
    claims = claims_of(BatchInferenceSpec.parse(observed.spec), model) if waited and model else ()
    refusals = frozenset({job.uid} if waited and jobs.has_no_pods(job) else ())
    pods, due = waited or jobs.finished(job), progress.is_due(observed, job)
    return Needs(pods=pods, claims=frozenset(claims), refusals=refusals, progress=due)


def plan(observed: Observed) -> Plan:
    """All that is to be done now. Of a run that has ended, nothing is said again but which spec was seen."""
    job = _job(observed)
    if runs.is_final(observed):
        return Plan(runs.seen(observed), runs.expiry(observed, job))
    verdict = judge(observed)
    status = render_status(observed, verdict)
    events = runs.events(observed, verdict.status, verdict.reason, verdict.message)
    requeue = runs.requeue(observed, job, verdict.reason, final=verdict.final)
    return Plan(status, verdict.writes, events, requeue, progress.memory(observed))


def judge(observed: Observed) -> Verdict:
    """How the run stands."""
    return runs.judge(
        observed,
        _job(observed),
        not_created=_not_created,
        under_way=_under_way,
        succeeded=_succeeded,
        failed=_failed,
    )


# --- Before ---------------------------------------------------------------------------------------------------------


def _not_created(observed: Observed) -> Verdict:
    metadata, settings = observed.metadata, observed.settings
    name = names.batch_job(metadata.name, metadata.uid)
    for foreign in observed.foreign:
        if (foreign.kind, foreign.name) == ("Job", name):
            message = f"Job {name} exists and belongs to {foreign.owner}; remove it and give the run a new name"
            return Verdict("False", Reason.NAME_CONFLICT, message)
    spec = BatchInferenceSpec.parse(observed.spec)
    model = _remembered(observed) or _found(observed, spec)
    if isinstance(model, str):
        return _waits(observed, spec, Reason.MODEL_NOT_READY, model)
    create = Create(
        batch_job(
            metadata.name,
            metadata.namespace,
            metadata.uid,
            spec,
            model,
            _secret(observed, spec),
            settings.training_image,
            settings.image_pull_policy,
        )
    )
    if refused := observed.create_errors.get(("Job", name)):
        return _waits(observed, spec, Reason.QUOTA_EXCEEDED, f"{refused}; it is tried again", create)
    return Verdict("Unknown", Reason.PENDING, f"Job {name} is about to start", {"model": dict(model)}, (create,))


def _waits(observed: Observed, spec: BatchInferenceSpec, reason: Reason, message: str, *writes: Write) -> Verdict:
    deadline = timedelta(seconds=spec.active_deadline_seconds)
    if conditions.lasts(observed.status, RECONCILING, "True", observed.now, deadline):
        return Verdict("False", reason, f"{message}; given up: {runs.TOO_LONG}")
    return Verdict("Unknown", reason, message, writes=writes)


def _remembered(observed: Observed) -> Model | None:
    """The model that the run was begun with."""
    job = _job(observed)
    noted = job.annotations.get(labels.MODEL) if job else None
    try:
        found = json.loads(noted or "null") or observed.status.get("model")
        BatchInferenceStatus.parse({"model": found})
    except ValueError:
        return None
    return found or None


def _found(observed: Observed, spec: BatchInferenceSpec) -> Model | str:
    """The model that the spec asks for now; a text says why there is none."""
    asked = spec.model
    if asked.uri:
        return {"uri": asked.uri} | ({"digest": asked.digest} if asked.digest else {})
    if asked.model_deployment_ref:
        name, served = asked.model_deployment_ref.name, observed.served
        if served is None:
            return f"ModelDeployment {name} does not exist in this namespace; apply it"
        if not (served.uri and served.digest and served.revision):
            return f"ModelDeployment {name} has no stable revision yet: {served.message}"
        return {"uri": served.uri, "digest": served.digest, "revision": served.revision}
    output = observed.training_output
    if output is None or output.state == "Missing":
        return f"TrainingJob {output.name if output else ''} does not exist in this namespace; apply it"
    if not (output.uri and output.digest):
        return f"TrainingJob {output.name} has no output: {output.message}"
    return {"uri": output.uri, "digest": output.digest}


def _secret(observed: Observed, spec: BatchInferenceSpec) -> str:
    """The name of the Secret with the keys to the model: that of whoever made or serves it; empty for none."""
    if spec.model.secret_ref:
        return spec.model.secret_ref.name
    if spec.model.model_deployment_ref:
        return observed.served.secret if observed.served else ""
    return observed.training_output.secret if observed.training_output else ""


# --- Under way ------------------------------------------------------------------------------------------------------


def _under_way(observed: Observed, job: Child, pods: list[Pod]) -> Verdict:
    if ready := job.status.get("ready"):
        done = f"{_shards_done(observed, job)} of {_shards(observed)} shards are done"
        return Verdict("Unknown", Reason.RUNNING, f"Job {job.name}: {ready} of {_pods(job)} pods run, {done}")
    present = [pod for pod in pods if pod.phase == "Pending"]
    wrong = (
        trouble.of_claims(observed.claims)
        or trouble.of_refusal(observed.refusals.get(job.uid))
        or trouble.of_pods(present, observed.claims, REASONS)
    )
    if wrong:
        return Verdict("Unknown", wrong.reason if wrong.reason in WAITING else Reason.PENDING, wrong.message)
    last = _trouble([pod for pod in pods if pod.phase == "Failed"])
    if last and last.reason in WAITING:
        return Verdict("Unknown", last.reason, f"{last.message}; it is tried again")
    if failures := int(job.status.get("failed") or 0):
        said = f": {last.message}" if last else ""
        return Verdict("Unknown", Reason.RETRYING, f"{failures} {'try' if failures == 1 else 'tries'} failed{said}")
    return Verdict("Unknown", Reason.PENDING, f"Job {job.name} waits for its pods")


def _pods(job: Child) -> int:
    return int(job.spec.get("completions") or 1)


def _shards(observed: Observed) -> int:
    return SHARDS_PER_POD * int(observed.spec.get("parallelism", 1))


def _shards_done(observed: Observed, job: Child) -> int:
    """By the pods that have ended, and by the one that was asked last: it sees what all have done."""
    told = (observed.progress or {}).get("shardsSucceeded")
    asked = told if type(told) is int and 0 <= told <= _shards(observed) else 0
    ended = SHARDS_PER_POD * int(job.status.get("succeeded") or 0)
    return max(asked, ended, int(observed.status.get("shardsSucceeded") or 0))


# --- The end --------------------------------------------------------------------------------------------------------


def _succeeded(observed: Observed, job: Child, pods: list[Pod]) -> Verdict:
    reports = [trouble.report(pod) for pod in pods if pod.phase == "Succeeded"]
    said = next((report for report in reports if report.get("result") == "Completed"), None)
    if said is None and all(report.get("result") == "Partial" for report in reports):
        # Its pod is gone, or each of the last ones looked before the others' files could be seen. The Job may go only
        # once the status has the model, too.
        writes = (_delete(job),) if observed.status.get("model") else ()
        return Verdict("Unknown", Reason.RETRYING, "the report of the run is lost", writes=writes)
    results = _results(observed, job, said or {})
    if said is None or results is None:
        message = "the pods ended well, but what they reported cannot be read: is their image the operator's own?"
        return Verdict("False", Reason.INTERNAL_ERROR, message)
    model = results["model"]
    by = " ".join(filter(None, (model.get("revision"), f"({model['digest'][:15]}…)")))
    bad = f"{results['rowsBad']:,} bad" + (f" ({said['message']})" if results["rowsBad"] else "")
    words = f"{results['rowsWritten']:,} rows by {by}, {bad}{runs.duration(job)}; {results['outputURI']}"
    return Verdict("True", Reason.COMPLETED, f"{words}{_too_few(said.get('drift'))}", results)


def _results(observed: Observed, job: Child, said: Mapping[str, Any]) -> dict[str, Any] | None:
    """What of the report goes into the status; None when it cannot be read."""
    try:
        results = {part: said[part] for part in ROWS} | {"outputURI": said["outputURI"]}
        results["model"] = {**(_remembered(observed) or {}), **said["model"]}
        results |= {"shards": said["shards"], "shardsSucceeded": said["shards"]}
        if drift := _drift(said.get("drift")):
            results["drift"] = drift
        BatchInferenceStatus.parse(results)
        return results if results["model"]["digest"] else None
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None


def _drift(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The worst features with their limits; None where there are too few rows to say anything."""
    if not said or min(said["rows"], said["referenceRows"]) < divergence.ENOUGH:
        return None
    features = [feature for feature in said["features"] if feature["bins"] > 1]
    alpha = divergence.ALPHA / max(len(features), 1)
    limits = {
        bins: divergence.critical(said["rows"], said["referenceRows"], bins, divergence.TOLERATED, alpha)
        for bins in {feature["bins"] for feature in features}
    }
    found = [
        {
            "name": feature["name"],
            "psiPerMille": min(feature["psiPerMille"], MOST_PER_MILLE),
            "limitPerMille": min(round(1000 * limits[feature["bins"]]), MOST_PER_MILLE),
        }
        for feature in features
    ]
    found.sort(key=lambda feature: -feature["psiPerMille"] / feature["limitPerMille"])
    return {"rows": said["rows"], "features": found[:WORST]}


def _too_few(said: Mapping[str, Any] | None) -> str:
    """Why nothing is said of drift, where the bundle has a reference; else empty."""
    if not said or min(said["rows"], said["referenceRows"]) >= divergence.ENOUGH:
        return ""
    least = f"less than {divergence.ENOUGH}"
    return f"; drift is not judged: {least} rows here or in the bundle's reference ({said['referenceRows']:,})"


def _failed(observed: Observed, condition: Mapping[str, Any], pods: list[Pod]) -> Verdict:
    if condition.get("reason") == "DeadlineExceeded":
        before = conditions.find(observed.status, "Succeeded")
        if before and before["reason"] in WAITING:  # its pod, which would still say so, is deleted at the deadline
            return Verdict("False", before["reason"], f"{before['message']}; given up: {runs.TOO_LONG}")
        wrong = _trouble(pods)
        words = f"{runs.TOO_LONG}: {wrong.message}" if wrong else runs.TOO_LONG
        return Verdict("False", Reason.DEADLINE_EXCEEDED, words)
    wrong = _trouble(pods) or Trouble("", condition.get("message", ""))
    reason = wrong.reason if wrong.reason in REASONS else Reason.BACKOFF_LIMIT_EXCEEDED
    return Verdict("False", reason, wrong.message)


def _trouble(pods: list[Pod]) -> Trouble | None:
    """Of a pod that says what is wrong, sooner than of those that were stopped because of it."""
    telling = [
        pod for pod in pods if pod.termination_reason == "OOMKilled" or trouble.report(pod).get("reason") in REASONS
    ]
    return trouble.of_pods(telling or pods, (), REASONS)


# --------------------------------------------------------------------------------------------------------------------


def render_status(observed: Observed, verdict: Verdict) -> dict[str, Any]:
    """The whole status."""
    metadata, job = observed.metadata, _job(observed)
    status = runs.status(observed, verdict, names.batch_job(metadata.name, metadata.uid))
    status["shards"] = _shards(observed)
    if model := _remembered(observed):
        status["model"] = dict(model)
    if job:
        status["shardsSucceeded"] = _shards_done(observed, job)
    return status | dict(verdict.results) | runs.times(observed, job, final=verdict.final)


def _job(observed: Observed) -> Child | None:
    return runs.job_of(observed, names.batch_job(observed.metadata.name, observed.metadata.uid))


def _delete(job: Child) -> Delete:
    return Delete("Job", job.name, job.uid)

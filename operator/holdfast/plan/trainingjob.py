"""What to do for a TrainingJob: one Job, created once; what its pod says at the end becomes the status, for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from holdfast.api.trainingjob import TrainingJobReason as Reason
from holdfast.api.trainingjob import TrainingJobSpec, TrainingJobStatus
from holdfast.build import names, owntrainer
from holdfast.build.job import training_job
from holdfast.build.pod import ANOTHER_POD_FAILED, claim_of
from holdfast.build.rendezvous import headless_service
from holdfast.plan import conditions, jobs, progress, runs, trouble
from holdfast.plan.conditions import RECONCILING
from holdfast.plan.observed import Apply, Child, Create, Delete, Needs, Observed, Plan, Pod, Settings, Write
from holdfast.plan.runs import Verdict
from holdfast.plan.trouble import Trouble

INDEX = "batch.kubernetes.io/job-completion-index"
REASONS = frozenset(Reason)
RESULTS = ("model", "metrics", "data", "findings", "packages", "tracking")
"""Parts of the trainer's report that go into the status as they are."""
WAITING = frozenset(
    {
        Reason.IMAGE_PULL_FAILED,
        Reason.UNSCHEDULABLE,
        Reason.QUOTA_EXCEEDED,
        Reason.CLAIM_NOT_FOUND,
        Reason.SECRET_NOT_FOUND,
        Reason.SECRET_INVALID,
    }
)
"""Why a pod does not start, or ends at once. They pass once the cause is mended, and end the run at its deadline."""


def needs(observed: Observed) -> Needs:
    """Pods are read at the end and when they take long to come up, and asked now and then how far they are."""
    job = _job(observed)
    if runs.is_final(observed) or job is None:
        return Needs()
    waited = runs.waited(observed) and _ready(job) < _meeting(observed)
    claims = frozenset(c for c in map(claim_of, (observed.spec["data"]["uri"], observed.spec["output"]["uri"])) if c)
    pods, due = waited or jobs.finished(job), progress.is_due(observed, job)
    return Needs(pods=pods, claims=claims if waited else frozenset(), progress=due)


def plan(observed: Observed) -> Plan:
    """All that is to be done now. Of a run that has ended, nothing is said again but which spec was seen."""
    job = _job(observed)
    if runs.is_final(observed):
        return Plan(runs.seen(observed), runs.expiry(observed, job))
    verdict = judge(observed)
    status = render_status(observed, verdict)
    events = runs.events(observed, verdict.status, verdict.reason, verdict.message)
    requeue = runs.requeue(observed, job, verdict.reason, final=verdict.final)
    writes = (*_meeting_place(observed, verdict), *verdict.writes)
    return Plan(status, writes, events, requeue, progress.memory(observed))


def _meeting_place(observed: Observed, verdict: Verdict) -> tuple[Write, ...]:
    """The Service of a distributed training, before there are pods that look for each other."""
    if verdict.final or verdict.reason == Reason.SUSPENDED or "distributed" not in observed.spec:
        return ()
    metadata = observed.metadata
    job_name = names.training_job(metadata.name, metadata.uid)
    return (Apply(headless_service(metadata.name, metadata.namespace, metadata.uid, job_name)),)


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


def _not_created(observed: Observed) -> Verdict:
    metadata, settings = observed.metadata, observed.settings
    name = names.training_job(metadata.name, metadata.uid)
    for foreign in observed.foreign:
        if foreign.name == name:
            message = (
                f"{foreign.kind} {name} exists and belongs to {foreign.owner}; remove it and give the run a new name"
            )
            return Verdict("False", Reason.NAME_CONFLICT, message)
    spec = TrainingJobSpec.parse(observed.spec)
    if spec.container and not owntrainer.is_allowed(spec.container.image, settings.own_images):
        return Verdict("False", Reason.IMAGE_NOT_ALLOWED, _not_allowed(spec.container.image, settings.own_images))
    image, missing = _trainer(spec, settings)
    if missing:
        return Verdict("False", Reason.TRAINER_NOT_INSTALLED, missing)
    manifest = training_job(metadata.name, metadata.namespace, metadata.uid, spec, image, settings.image_pull_policy)
    create = (Create(manifest),)
    if refused := observed.create_errors.get(("Job", name)):
        deadline = timedelta(seconds=spec.active_deadline_seconds)
        if conditions.lasts(observed.status, RECONCILING, "True", observed.now, deadline):
            return Verdict("False", Reason.QUOTA_EXCEEDED, f"{refused}; given up: {runs.TOO_LONG}")
        return Verdict("Unknown", Reason.QUOTA_EXCEEDED, f"{refused}; it is tried again", writes=create)
    return Verdict("Unknown", Reason.PENDING, f"Job {name} is about to start", writes=create)


def _not_allowed(image: str, prefixes: Sequence[str]) -> str:
    what = f"only those that begin with {', '.join(prefixes)}" if prefixes else "none"
    return f"image {image} is not allowed: this operator's administrator lets trainers of your own be {what}"


def _trainer(spec: TrainingJobSpec, settings: Settings) -> tuple[str, str]:
    """The image that the estimators need, and if there is none, that in words."""
    optional = (
        ("Torch", "PyTorch", settings.torch_image, "HOLDFAST_TRAINING_TORCH_IMAGE"),
        ("Keras", "TensorFlow", settings.tensorflow_image, "HOLDFAST_TRAINING_TENSORFLOW_IMAGE"),
    )
    for prefix, library, image, setting in optional:
        for estimator in spec.estimators or ():
            if estimator.name.startswith(prefix):
                ask = f"ask the operator's administrator to set {setting}, and create the run again"
                return image, "" if image else f"{estimator.name} needs {library}: {ask}"
    return settings.training_image, ""


def _under_way(observed: Observed, job: Child, pods: list[Pod]) -> Verdict:
    attempts, limit = int(job.status.get("failed") or 0), observed.spec.get("backoffLimit", 0)
    step = next((pod.step for pod in pods if pod.step), "")
    if _ready(job) >= _meeting(observed) or step:
        which = f", attempt {attempts + 1} of {limit + 1}" if attempts else ""
        said = (progress.told(observed) or {}).get("message")
        doing = f": {step} {said or ''}".rstrip() if step else f": {said}" if said else ""
        return Verdict("Unknown", Reason.RUNNING, f"Job {job.name} runs{which}{doing}")
    present = [pod for pod in pods if pod.phase == "Pending"]
    wrong = trouble.of_claims(observed.claims) or trouble.of_pods(present, observed.claims, REASONS)
    if wrong:
        return Verdict("Unknown", wrong.reason if wrong.reason in WAITING else Reason.PENDING, wrong.message)
    last = trouble.of_pods(_causes_first(pod for pod in pods if pod.phase == "Failed"), (), REASONS)
    if last and last.reason in WAITING:
        return Verdict("Unknown", last.reason, f"{last.message}; it is tried again")
    if attempts:
        said = f": {last.message}" if last else ""
        return Verdict("Unknown", Reason.RETRYING, f"attempt {attempts} of {limit + 1} failed{said}")
    if last:
        return Verdict("Unknown", Reason.RETRYING, f"{last.message}; it is tried again and uses up no attempt")
    if _ready(job):
        message = f"Job {job.name} runs: {_ready(job)} of {_meeting(observed)} workers are there"
        return Verdict("Unknown", Reason.RUNNING, message)
    return Verdict("Unknown", Reason.PENDING, f"Job {job.name} waits for its pod")


def _succeeded(observed: Observed, job: Child, pods: list[Pod]) -> Verdict:
    # A step of somebody's own may say what it likes; and of pods that work together the first says what came of it.
    ended = [pod for pod in pods if pod.phase == "Succeeded" and pod.labels.get(INDEX, "0") == "0"]
    said = next((r for r in map(trouble.report, ended) if r.get("result") == "Completed"), None)
    if not ended:
        # Its pod, and what it said, are gone. The next one finds the bundle by the run's uid and reports it again.
        return Verdict("Unknown", Reason.RETRYING, "the report of the run is lost", writes=(_delete(job),))
    results = {part: said[part] for part in RESULTS if part in said} if said else {}
    image = next((pod.image_id for pod in pods if pod.image_id), None)
    results |= {"image": image} if image else {}
    if not _readable(results) or not all(results.get(part) for part in ("model", "metrics", "data")):
        message = "the trainer ended well, but what it reported cannot be read: is its image the operator's own?"
        return Verdict("False", Reason.INTERNAL_ERROR, message)
    model, metric, data = results["model"], results["metrics"][0], results["data"]
    fitted = f"{estimator}, " if (estimator := model.get("estimator")) else ""
    held_out = f" on {rows} held-out rows" if (rows := data.get("testRows")) else ""
    message = f"{fitted}{metric['name']} {metric['value']}{held_out}{runs.duration(job)}; {model['uri']}"
    return Verdict("True", Reason.COMPLETED, message, results)


def _failed(observed: Observed, condition: Mapping[str, Any], pods: list[Pod]) -> Verdict:
    if condition.get("reason") == "DeadlineExceeded":
        before = conditions.find(observed.status, "Succeeded")
        if before and before["reason"] in WAITING:  # its pod, which would still say so, is deleted at the deadline
            return Verdict("False", before["reason"], f"{before['message']}; given up: {runs.TOO_LONG}")
        wrong = trouble.of_pods(pods, (), REASONS)
        return Verdict(
            "False", Reason.DEADLINE_EXCEEDED, f"{runs.TOO_LONG}: {wrong.message}" if wrong else runs.TOO_LONG
        )
    wrong = trouble.of_pods(_causes_first(pods), (), REASONS) or Trouble("", condition.get("message", ""))
    given_up = condition.get("reason") == "PodFailurePolicy" and observed.spec.get("container")
    otherwise = Reason.CONTRACT_VIOLATED if given_up else Reason.BACKOFF_LIMIT_EXCEEDED
    reason = wrong.reason if wrong.reason in REASONS else otherwise
    found = ({"findings": said["findings"]} for said in map(trouble.report, pods) if said.get("findings"))
    return Verdict("False", reason, wrong.message, next(filter(_readable, found), {}))


def _ready(job: Child) -> int:
    return int(job.status.get("ready") or 0)


def _meeting(observed: Observed) -> int:
    """How many pods have to be there before anything is done. Those that share trials need not wait for each other."""
    return int(observed.spec.get("distributed", {}).get("workers", 1))


def _causes_first(pods: Iterable[Pod]) -> list[Pod]:
    """Pods that ended only because another did come last."""
    return sorted(pods, key=lambda pod: pod.exit_code == ANOTHER_POD_FAILED)


def _readable(results: Mapping[str, Any]) -> bool:
    """Whether the status may hold them. One that it may not would be refused for ever."""
    try:
        TrainingJobStatus.parse(results)
    except ValueError:
        return False
    return True


def render_status(observed: Observed, verdict: Verdict) -> dict[str, Any]:
    """The whole status."""
    metadata, job = observed.metadata, _job(observed)
    status = runs.status(observed, verdict, names.training_job(metadata.name, metadata.uid))
    status |= verdict.results
    if not verdict.final and (said := progress.told(observed)):
        status["progress"] = said
    return status | runs.times(observed, job, final=verdict.final)


def _job(observed: Observed) -> Child | None:
    return runs.job_of(observed, names.training_job(observed.metadata.name, observed.metadata.uid))


def _delete(job: Child) -> Delete:
    return Delete("Job", job.name, job.uid)

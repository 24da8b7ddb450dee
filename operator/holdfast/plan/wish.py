"""The revision that a ModelDeployment's spec asks for, or what stands in its way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.build import labels, names
from holdfast.build.job import resolve_job
from holdfast.build.pod import literal
from holdfast.plan import challenger, conditions, first, jobs, revisions, trouble
from holdfast.plan.conditions import STALLED
from holdfast.plan.observed import Child, Create, Delete, Write
from holdfast.plan.obstacle import Obstacle
from holdfast.plan.revisions import Model, Revision
from holdfast.plan.view import REASONS, View, newest_first

REGISTERED = "models:/"
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_PLACE = re.compile(r"(pvc|s3|gs|az|oci)://\S{1,1024}")
"""Of a registered model."""


def wanted_revision(view: View) -> Revision | Obstacle:
    """The revision that the spec asks for. One that exists for the same intent is it, with the image that it has.

    The newest that is not rejected; a rejected one where all are. After `refresh` it is the one that would be made now.
    """
    model = wanted_model(view)
    if isinstance(model, Obstacle):
        return model
    env = environment(view)
    if isinstance(env, Obstacle):
        return env
    intent = revisions.intent(model, view.spec.serving, env)
    same = [revision for revision in view.revisions if is_for(view, revision, intent)]
    if view.orders.refresh or not same:
        made = revisions.new(view.metadata, view.observed.settings, model, view.spec.serving, env, intent)
        return view.revision(made.name) or made
    usable = [revision for revision in same if revision.standing.verdict != "Rejected"]
    recorded = [revision for revision in usable if revision.record]
    serving = [revision for revision in usable if revision is view.stable]  # where nothing tells which is the newest
    return (recorded or serving or usable or same)[0]


def is_for(view: View, revision: Revision, intent: str) -> bool:
    """Whether the revision was made for this intent: it says so, or its name does when the annotation is gone."""
    return intent == revision.intent or revision.name == revisions.name_of(view.metadata, intent, revision.image)


# --- The model ------------------------------------------------------------------------------------------------------


def wanted_model(view: View) -> Model | Obstacle:
    """The model that is to serve: what the spec asks for, until one that was trained under that word is better."""
    asked = asked_model(view)
    return asked if isinstance(asked, Obstacle) else challenger.preferred(view, asked)


def asked_model(view: View) -> Model | Obstacle:
    """The model that the spec asks for, pinned to a digest."""
    asked = view.spec.model
    if asked is None:
        return first.model(view)
    if asked.training_job_ref:
        return _trained_model(view, asked.training_job_ref.name)
    if asked.uri and asked.digest:
        return Model(asked.uri, asked.digest)
    return _known_model(view) or _resolved_model(view, asked.uri or "")


def resolving_job(view: View) -> str | None:
    """The name of the helper Job that has to find out what the model is, if one has to."""
    asked = view.spec.model
    if asked is None or asked.uri is None or asked.digest or _known_model(view):
        return None
    return _resolve_name(view, asked.uri)


def _trained_model(view: View, name: str) -> Model | Obstacle:
    output = view.observed.training_output
    if output and output.state == "Succeeded" and output.uri and output.digest:
        return Model(output.uri, output.digest, "TrainingJob", name, secret=output.secret)
    # Once known, the TrainingJob is needed no more. A candidate has the newer output.
    for revision in (view.revision(view.status.get("candidateRevision")), view.stable):
        known = revision and (revision.model.asked or revision.model)
        if known and (known.source, known.training_job_name) == ("TrainingJob", name):
            return known
    if output is None or output.state == "Missing":
        message = f"TrainingJob {name} does not exist in this namespace; apply it"
        return Obstacle("False", Reason.TRAINING_JOB_NOT_FOUND, message)
    if output.state == "Failed":
        message = f"TrainingJob {name} failed: {output.message}. Give a new run a new name and refer to that"
        return Obstacle("False", Reason.TRAINING_JOB_FAILED, message)
    return Obstacle(
        "Unknown", Reason.WAITING_FOR_TRAINING_JOB, f"TrainingJob {name} has no output yet: {output.message}"
    )


def _known_model(view: View) -> Model | None:
    """What the URI was found to be: resolved once per wish, what lies behind it by now is another matter.

    A revision that never served and was pinned by its user says nothing about what is there.
    """
    if view.orders.refresh:
        return None
    for revision in view.revisions:
        model = revision.model.asked or revision.model
        served = revision is view.stable and view.has_served
        if view.spec.model and _is_named(model, view.spec.model.uri) and (model.resolved or served):
            return model
    return None


def _resolved_model(view: View, uri: str) -> Model | Obstacle:
    observed = view.observed
    name = _resolve_name(view, uri)
    helper, create = view.job(name), _question(view, uri, name)
    if helper is None:
        return _ask(view, uri, name, create)
    pods = newest_first(pod for pod in observed.pods if pod.owner_uid == helper.uid)
    if jobs.succeeded(helper):
        answers = [said for said in map(trouble.report, pods) if "digest" in said]
        if answers and (model := _answer(uri, answers[0])):
            return model
        if any(pod.phase == "Succeeded" for pod in pods):
            message = f"{uri}: Job {name} ended well without saying what it is: is its image the operator's own?"
            return Obstacle("False", Reason.CRASH_LOOP, message)
        # Its pod, and what it said, are gone: ask again.
        return _still_asking(view, uri, name, Delete("Job", name, helper.uid))
    if helper.annotations.get(labels.DESIRED_HASH) != create.manifest["metadata"]["annotations"][labels.DESIRED_HASH]:
        # A Job cannot change: one that waits for a node that nobody asks for any more would wait for ever.
        return _still_asking(view, uri, name, Delete("Job", name, helper.uid))
    claims = view.claims_of(helper)
    refusal = observed.refusals.get(helper.uid)
    wrong = trouble.of_claims(claims) or trouble.of_pods(pods, claims, REASONS) or trouble.of_refusal(refusal)
    if wrong is None:
        return _still_asking(view, uri, name, doing=trouble.doing(pods))
    return Obstacle("False", wrong.reason, f"{uri}: {wrong.message}; it is tried again", hopeless=jobs.failed(helper))


def _is_named(model: Model, uri: str | None) -> bool:
    return (model.source, model.named or model.uri) == ("URI", uri)


def _answer(uri: str, said: Mapping[str, Any]) -> Model | None:
    """What a helper found out; None for what cannot be used."""
    digest, where = str(said["digest"]), str(said.get("uri", uri))
    if not _DIGEST.fullmatch(digest):
        return None
    if where == uri:
        return None if uri.startswith(REGISTERED) else Model(uri, digest, resolved=True)
    return Model(where, digest, resolved=True, named=uri) if _PLACE.fullmatch(where) else None


def _resolve_name(view: View, uri: str) -> str:
    """Of the Job; asked for again by a person, it is another one."""
    key = uri if view.orders.refresh is None else f"{uri}\0{view.orders.refresh}"
    return names.helper_job(view.metadata.name, view.metadata.uid, "resolve", key)


def _question(view: View, uri: str, name: str) -> Create:
    metadata, settings, serving = view.metadata, view.observed.settings, view.spec.serving
    return Create(
        resolve_job(
            name,
            metadata.name,
            metadata.namespace,
            metadata.uid,
            revisions.source(uri, serving),
            settings.serving_image,
            settings.image_pull_policy,
            serving.resources.to_json() if serving.resources else None,
            serving.node_selector,
            [toleration.to_json() for toleration in serving.tolerations or ()],
        )
    )


def _ask(view: View, uri: str, name: str, create: Create) -> Obstacle:
    if conflict := name_conflict(view, "Job", name):
        return conflict
    if refused := view.observed.create_errors.get(("Job", name)):
        return Obstacle("False", Reason.QUOTA_EXCEEDED, refused, (create,))
    return _still_asking(view, uri, name, create)


def _still_asking(view: View, uri: str, name: str, *writes: Write, doing: str = "") -> Obstacle:
    """No answer yet. Where there was one about this URI, and it was bad, it stands until there is another."""
    before = conditions.find(view.status, "Ready")
    if before and before["status"] == "False" and before["message"].startswith(f"{uri}: "):
        stalled = conditions.find(view.status, STALLED) is not None
        return Obstacle("False", before["reason"], before["message"], writes, hopeless=stalled)
    return Obstacle("Unknown", Reason.RESOLVING, f"finding out what {uri} is (Job {name}){doing}", writes)


def unneeded_helpers(view: View) -> list[Child]:
    """Helper Jobs that were asked about another URI and have not come to an end. Finished ones go by themselves."""
    needed = resolving_job(view)
    return [child for child in view.helpers("resolve") if child.name != needed and not jobs.finished(child)]


# --- The environment ------------------------------------------------------------------------------------------------


def environment(view: View) -> dict[str, str] | Obstacle:
    """The server's variables, with ConfigMap keys read."""
    values: dict[str, str] = {}
    keys = config_map_keys(view)
    for variable in view.spec.serving.env or ():
        if variable.name not in keys:
            values[variable.name] = variable.value or ""
            continue
        config_map, key = keys[variable.name]
        value = view.observed.config_maps.get((config_map, key))
        if value is None:
            what = f"ConfigMap {config_map} with key {key}, for the variable {variable.name},"
            return Obstacle("False", Reason.CONFIG_MAP_NOT_FOUND, f"{what} is not there; create it")
        values[variable.name] = literal(value)  # as in a Pod, where only values in the spec may refer to others
    return values


def config_map_keys(view: View) -> dict[str, tuple[str, str]]:
    """Variable → (ConfigMap, key)."""
    return {
        variable.name: (variable.value_from.config_map_key_ref.name, variable.value_from.config_map_key_ref.key)
        for variable in view.spec.serving.env or ()
        if variable.value_from
    }


# --- Names ----------------------------------------------------------------------------------------------------------


def name_conflict(view: View, kind: str, name: str) -> Obstacle | None:
    """Somebody else's object where one of ours belongs."""
    foreign = view.foreign(kind, name)
    if foreign is None:
        return None
    message = f"{kind} {name} exists and belongs to {foreign.owner}; rename this ModelDeployment or remove it"
    return Obstacle("False", Reason.NAME_CONFLICT, message)


def any_conflict(view: View, wanted: Revision) -> Obstacle | None:
    """The first name that the wanted revision needs and cannot have."""
    name = view.metadata.name
    return (
        name_conflict(view, "Service", name)
        or name_conflict(view, "Deployment", names.revision_deployment(name, wanted.name))
        or name_conflict(view, "ControllerRevision", names.revision_deployment(name, wanted.name))
        or name_conflict(view, "Service", names.candidate_service(name))
        or (name_conflict(view, "PodDisruptionBudget", name) if view.replicas >= 2 else None)
    )

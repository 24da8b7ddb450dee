"""Tell an MLflow server of a run that has published its model: what it was made of, where it lies, what it reached.

The model is published first and is not lost when the server is away: the run then ends well, with a finding that says
so. All steps can be done again, so an attempt that was cut short is gone on with: a run and a model's version are
looked for before they are made.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast_bundle.errors import BundleError
from holdfast_bundle.manifest import Manifest, serialize
from holdfast_bundle.mlflow import MlflowError, Server, server_at
from holdfast_bundle.uris import parse
from holdfast_bundle.web import Web
from holdfast_training.access import Access
from holdfast_training.errors import MAX_FINDINGS, Finding
from holdfast_training.output import Output
from holdfast_training.spec import Tracking

_SECONDS = 120
_PAUSES_SECONDS = (1.0, 3.0, 10.0)
_NO_PARAMETERS = frozenset({"dataDigest", "rows", "testRows", "columns", "findings", "packages", "image"})
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_. /-]")
_MAX_PARAMETERS, _MAX_NAME, _MAX_VALUE, _MAX_TAG = 100, 250, 6000, 5000
_ARTIFACTS = "mlflow-artifacts:/"
_NOT_TRACKED = "NotTracked"
CARD = "card.md"

Log = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Told:
    """What is told.

    Attributes:
        output: where the bundle lies.
        data_uri: that it learned from.
        report: as it goes into the termination message.
        started: of this attempt, in seconds since 1970.
    """

    output: Output
    data_uri: str
    report: Mapping[str, Any]
    bundle: Manifest
    started: float

    @property
    def uri(self) -> str:
        return str(self.report["model"]["uri"])

    @property
    def digest(self) -> str:
        return str(self.report["model"]["digest"])

    @property
    def card(self) -> bytes:
        """The bundle's model card; empty where it has none."""
        return self.output.small(CARD) if CARD in self.bundle.files else b""

    @property
    def mark(self) -> str:
        """By which the run is found again."""
        return hashlib.sha256(self.uri.encode()).hexdigest()


def tracked(
    tracking: Tracking | None,
    told: Told,
    *,
    access: Access,
    web: Web,
    log: Log = lambda event, **facts: None,
    seconds: float = _SECONDS,
) -> dict[str, Any]:
    """The run's report, with what the server made of it, or a finding that it could not be told. Raises nothing."""
    report = dict(told.report)
    if tracking is None:
        return report
    try:
        server = server_at(tracking.uri, web=web, credentials=access.to("tracking", tracking.secret), seconds=seconds)
        report["tracking"] = _again(lambda: _tell(server, tracking, told))
        log("tracked", **report["tracking"])
    except BundleError as error:
        words = f"the model is published, but the tracking server was not told: {error.message}"
        finding = Finding(_NOT_TRACKED, words)
        log("finding", **finding.to_json())
        report["findings"] = [finding.to_json(), *report["findings"]][:MAX_FINDINGS]
    return report


def named(
    tracking: Tracking | None,
    report: Mapping[str, Any],
    *,
    access: Access,
    web: Web,
    log: Log = lambda event, **facts: None,
    seconds: float = _SECONDS,
) -> dict[str, Any]:
    """A gate's report, once the alias points to the version of a challenger that passed. Raises nothing.

    A server that is away or refuses takes nothing from the model: the report's message says so then.
    """
    if tracking is None or not report["passed"]:
        return dict(report)
    try:
        server = server_at(tracking.uri, web=web, credentials=access.to("tracking", tracking.secret), seconds=seconds)
        _again(lambda: _point(server, tracking, tracking.model_version))
        log("named", alias=tracking.alias, version=tracking.model_version)
    except BundleError as error:
        words = f"the tracking server could not be told that alias {tracking.alias} is this one: {error.message}"
        return {**report, "message": f"{report['message']}; {words}"}
    return dict(report)


def _again(tell: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    for pause in _PAUSES_SECONDS:
        try:
            return tell()
        except BundleError as error:
            if error.reason != "Unreachable":
                raise
        time.sleep(pause)
    return tell()


def _tell(server: Server, tracking: Tracking, told: Told) -> dict[str, Any]:
    card = told.card
    words = card.decode(errors="replace")[:_MAX_TAG]
    run = _run(server, _experiment(server, tracking.experiment or told.bundle.name), told)
    run_id = str(run["run_id"])
    server.tell(
        "runs/log-batch",
        run_id=run_id,
        params=[{"key": name, "value": value} for name, value in _parameters(told.bundle.lineage)],
        metrics=[
            {"key": _name(name), "value": float(value), "timestamp": int(run["start_time"]), "step": 0}
            for name, value in told.bundle.metrics.items()
        ],
        tags=_tags(_facts(told) | {"mlflow.note.content": words}),
    )
    _tell_data(server, run_id, told)
    if str(run.get("artifact_uri", "")).startswith(_ARTIFACTS):  # elsewhere, the server does not take them
        folder = str(run["artifact_uri"]).removeprefix(_ARTIFACTS).strip("/")
        server.keep(f"{folder}/manifest.json", serialize(told.bundle))
        if card:
            server.keep(f"{folder}/{CARD}", card)
    server.tell("runs/update", run_id=run_id, status="FINISHED", end_time=_milliseconds(time.time()))
    known = {"runId": run_id}
    if tracking.registered_model:
        known["modelVersion"] = _register(server, tracking, told, run_id, words)
    return known


def _experiment(server: Server, name: str) -> str:
    """The id of the experiment of that name, made if there is none."""
    try:
        return str(server.ask("experiments/get-by-name", experiment_name=name)["experiment"]["experiment_id"])
    except MlflowError as error:
        if error.code != "RESOURCE_DOES_NOT_EXIST":
            raise
    try:
        return str(server.tell("experiments/create", name=name)["experiment_id"])
    except MlflowError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(server.ask("experiments/get-by-name", experiment_name=name)["experiment"]["experiment_id"])


def _run(server: Server, experiment: str, told: Told) -> dict[str, Any]:
    """The `info` of our run: one that an earlier attempt began, or a new one."""
    begun = server.tell(
        "runs/search", experiment_ids=[experiment], filter=f"tags.`holdfast.run` = '{told.mark}'", max_results=1
    )
    if runs := begun.get("runs"):
        return dict(runs[0]["info"])
    tags = {"holdfast.run": told.mark, "mlflow.source.type": "JOB", "mlflow.source.name": "holdfast"}
    made = server.tell(
        "runs/create",
        experiment_id=experiment,
        run_name=told.output.uri.name,
        start_time=_milliseconds(told.started),
        tags=_tags(tags),
    )
    return dict(made["run"]["info"])


def _tell_data(server: Server, run_id: str, told: Told) -> None:
    """What it learned from, as an input of the run: MLflow shows that as its lineage."""
    where, digest = parse(told.data_uri), str(told.report["data"]["digest"])
    data = {
        "name": where.name or where.host,
        "digest": digest.removeprefix("sha256:")[:36],  # more than that is refused; the tag has all of it
        "source_type": where.scheme,
        "source": json.dumps({"uri": str(where)}),
    }
    tags = [{"key": "mlflow.data.context", "value": "training"}]
    server.tell("runs/log-inputs", run_id=run_id, datasets=[{"dataset": data, "tags": tags}])


def _register(server: Server, tracking: Tracking, told: Told, run_id: str, words: str) -> str:
    """The version of the registered model that is this bundle; the alias, if any, points to it then."""
    name = tracking.registered_model
    try:
        server.tell("registered-models/create", name=name)
    except MlflowError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = server.ask("model-versions/search", filter=f"run_id = '{run_id}'", max_results="100")
    versions = [known["version"] for known in made.get("model_versions", ()) if known.get("name") == name]
    if versions:
        version = str(versions[0])
    else:
        created = server.tell(
            "model-versions/create",
            name=name,
            source=told.uri,
            run_id=run_id,
            description=words,
            tags=_tags(_facts(told)),
        )
        version = str(created["model_version"]["version"])
    if tracking.alias:
        _point(server, tracking, version)
    return version


def _point(server: Server, tracking: Tracking, version: str) -> dict[str, Any]:
    return server.tell("registered-models/alias", name=tracking.registered_model, alias=tracking.alias, version=version)


def _facts(told: Told) -> dict[str, str]:
    """What pins the model and what it comes from, by names of tags."""
    lineage, data = told.bundle.lineage, told.report["data"]
    facts = {
        "holdfast.bundle.uri": told.uri,
        "holdfast.bundle.digest": told.digest,
        "holdfast.data.uri": str(parse(told.data_uri)),
        "holdfast.data.digest": data["digest"],
        "holdfast.data.version": data.get("version"),
        "holdfast.seed": lineage.get("seed"),
        "holdfast.image": lineage.get("image"),
        "holdfast.packages": json.dumps(lineage["packages"], sort_keys=True) if lineage.get("packages") else None,
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _tags(facts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value[:_MAX_TAG]} for name, value in facts.items()]


def _parameters(lineage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The recipe in the lineage, flat."""
    recipe = {name: value for name, value in lineage.items() if name not in _NO_PARAMETERS}
    return [(_name(name), value[:_MAX_VALUE]) for name, value in _flat(recipe)][:_MAX_PARAMETERS]


def _flat(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _name(name: str) -> str:
    """As MLflow takes it."""
    return _NOT_A_NAME.sub("_", name)[:_MAX_NAME]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)

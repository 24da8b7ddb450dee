"""The road from a table to a published bundle, one step after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_bundle import manifest
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.web import Web
from holdfast_training import (
    calibration,
    card,
    checkpoint,
    checks,
    conversion,
    data,
    directions,
    estimators,
    evaluation,
    explanation,
    fitting,
    provenance,
    reference,
    slices,
    tracking,
)
from holdfast_training.access import Access
from holdfast_training.columns import Columns, Examples, Frame
from holdfast_training.errors import MAX_FINDINGS
from holdfast_training.listing import PRODUCTION
from holdfast_training.model import Model
from holdfast_training.output import Output
from holdfast_training.progress import Progress
from holdfast_training.spec import Candidate, Method, Run, Tuning
from holdfast_training.table import examples_of
from holdfast_training.workers import Team

MAX_METRICS = 32

Log = Callable[..., None]


def train(
    run: Run,
    output: Output,
    *,
    scratch: Path,
    threads: int = 1,
    log: Log = lambda event, **facts: None,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
    progress: Progress | None = None,
    access: Access | None = None,
    worker: int = 0,
    leader: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Carry out the run and return what goes into the termination message.

    Args:
        worker: which of the processes this is that share the trials of a search, or train one network together; 0
            leads, and does all the rest alone.
        leader: host and port where those meet that train together.

    Raises:
        TrainingError: with any of its reasons; then nothing was published.
    """
    began, access = time.time(), access or Access()
    folder = output.checkpoint

    def ended(digest: str, bundle: manifest.Manifest) -> dict[str, Any]:
        checkpoint.discard(folder)
        told = tracking.Told(output, run.data_uri, _report(output, digest, bundle), bundle, began)
        return tracking.tracked(None if worker else run.tracking, told, access=access, web=web, log=log)

    if finished := output.finished():
        log("found", message="the bundle of this run is already there", uri=str(output.uri))
        return ended(*finished)
    progress = progress or Progress()
    for candidate in run.estimators:  # what is wrong with them need not wait for the data
        estimators.build(candidate.name, candidate.parameters, seed=run.seed, threads=threads)
    team = Team(run.workers, worker, leader, is_over=lambda: output.finished() is not None, progress=progress)
    with nullcontext() if worker else output.staging(), checkpoint.kept(folder), team:
        progress.say("reading the data")
        source = data.locate(
            run.data_uri,
            run.data_digest,
            run.data_format,
            scratch=scratch,
            claims=claims,
            web=web,
            credentials=access.to("data", run.data_secret),
        )
        log("located", uri=str(source.uri), digest=source.digest, files=len(source.files))
        examples = examples_of(source, run)
        slices.check(run.slices, examples.columns)
        training, held_out = evaluation.split(examples, run)
        log(
            "read",
            rows=len(examples.target),
            testRows=len(held_out),
            features=len(examples.columns.names),
            missing=checks.missing(examples),
        )
        for finding in examples.findings:
            log("finding", **finding.to_json())

        train_features = examples.features.take(training)
        chosen, tuned = run.estimators[0], dict[str, Any]()
        if run.tuning is not None:
            name = source.digest.removeprefix("sha256:")[:16]
            meeting = checkpoint.Meeting(folder, name, worker, lambda: output.finished() is not None)
            found = _search(run, run.tuning, examples, training, threads, log, progress, meeting)
            if found is None:
                return {"result": "TookPart"}
            chosen, tuned = found
        if not team.meet(source.digest):
            return {"result": "TookPart"}
        progress.say(f"fitting {chosen.name}")
        started = time.monotonic()
        target = examples.target[training]
        course = fitting.Course(folder, lambda words: progress.say(f"fitting {chosen.name}: {words}"))
        model, notes = fitting.fit(run, chosen, examples.columns, train_features, target, threads, course)
        if run.calibration is not None:
            model = replace(
                model,
                calibration=_calibration(
                    run, run.calibration, chosen, model, train_features, target, threads, _order(examples, training)
                ),
            )
        vectors = examples.columns.vectors.values()
        model = replace(model, directions=tuple(directions.fit(train_features.numeric[:, place]) for place in vectors))
        log("fitted", estimator=chosen.name, seconds=round(time.monotonic() - started, 2))
        if worker:
            team.await_dismissal()
            return {"result": "TookPart"}

        progress.say("measuring")
        test_features, truth = examples.features.take(held_out), examples.target[held_out]
        answers = model.answer(test_features)
        measured = evaluation.measure(model, answers, truth)
        metrics = {name: evaluation.formatted(measured[name]) for name in evaluation.ORDER if name in measured}
        log("measured", **metrics)
        evaluation.check(run.requirements, measured, chosen.name, len(held_out))
        parts = slices.measure(run.slices, model, train_features, test_features, answers, truth)
        unjudged = slices.hold(run.slice_requirements, run.slices, parts)

        progress.say("converting to ONNX")
        converted = conversion.convert(model)
        worst = conversion.check_parity(model, converted, test_features, answers, threads)
        log("converted", sizeBytes=len(converted.onnx), largestDifference=worst)

        progress.say("explaining")
        by = evaluation.chosen_by(run, measured)
        explained = explanation.explain(model, by, test_features, truth, run.seed)

        progress.say("publishing")
        library = estimators.library(chosen.name)
        lineage = {
            **_recipe(run, chosen, examples.columns),
            **tuned,
            "dataDigest": source.digest,
            "rows": len(examples.target),
            "testRows": len(held_out),
            "columns": len(source.columns),
            "findings": [finding.to_json() for finding in (*examples.findings, *notes)][:MAX_FINDINGS],
            "packages": provenance.packages(optional=library.packages if library else ()),
            "code": provenance.code(run.image),
        }
        if parts:
            lineage["slices"] = slices.headlines(parts, by)
        labels = tuple(map(str, model.classes.tolist()))
        files = {
            manifest.MODEL: converted.onnx,
            "golden.json": manifest.canonical_json(
                reference.golden(model, converted.inputs, converted.outputs, test_features, truth)
            ),
            "profile.json": manifest.canonical_json(reference.profile(model, test_features, truth, answers)),
            "explanation.json": manifest.canonical_json(explained),
            "card.md": card.write(output.model_name, lineage, metrics, parts, explained, labels).encode(),
        }
        if parts:
            files["slices.json"] = manifest.canonical_json([part.to_json() for part in parts])
        digest, bundle = output.publish(
            files,
            notes={
                "dataUri": run.data_uri,
                **({"dataVersion": source.version} if source.version else {}),
                # What is required did not make the model, so it is not sealed.
                **({"findings": [finding.to_json() for finding in unjudged]} if unjudged else {}),
            },
            framework=estimators.framework(chosen.name),
            opset=conversion.OPSET,
            inputs=converted.inputs,
            outputs=converted.outputs,
            metrics=metrics,
            lineage=lineage,
        )
        team.dismiss()
    log("published", uri=str(output.uri), digest=digest)
    return ended(digest, bundle)


def _search(
    run: Run,
    tuning: Tuning,
    examples: Examples,
    training: evaluation.Rows,
    threads: int,
    log: Log,
    progress: Progress,
    meeting: checkpoint.Meeting,
) -> tuple[Candidate, dict[str, Any]] | None:
    """The best candidate, and what is to be said of the search in the lineage; None: another process says that."""
    from holdfast_training.search import Search  # loads Optuna

    storage = meeting.storage()
    if meeting.worker and not meeting.is_invited():
        return None
    search = Search(
        run,
        tuning,
        examples.columns,
        examples.features.take(training),
        examples.target[training],
        threads=threads,
        log=log,
        progress=progress,
        order=_order(examples, training),
        storage=storage,
        worker=meeting.worker,
    )
    if meeting.worker:
        try:
            search.take_part()
        except Exception:
            if not meeting.is_over():  # or what it shared with the leader is gone, as it should be
                raise
        return None
    meeting.invite()
    outcome = search.outcome()
    return outcome.candidate, {
        "tuning": {
            "metric": tuning.metric,
            "value": evaluation.formatted(outcome.value),
            "folds": tuning.folds,
            "sampler": tuning.sampler,
            "pruner": tuning.pruner,
            "trials": search.total,
            **({"parallelism": tuning.parallelism} if tuning.parallelism > 1 else {}),
            "pruned": outcome.pruned,
            "failed": outcome.failed,
            "estimators": [asdict(candidate) for candidate in run.estimators],
        }
    }


def _calibration(
    run: Run,
    method: Method,
    chosen: Candidate,
    model: Model,
    features: Frame,
    target: npt.NDArray[Any],
    threads: int,
    order: npt.NDArray[np.int64] | None,
) -> calibration.Calibration:
    """From models of the same making, each asked about a fold and fitted on the others, or on those before it."""
    folds = evaluation.folds(target, run.task, calibration.FOLDS, run.seed, order)
    folded = (
        (fitting.fit(run, chosen, model.columns, features.take(learned), target[learned], threads)[0], judged)
        for learned, judged in folds
    )
    return calibration.fit(method, folded, features, target)


def _order(examples: Examples, rows: evaluation.Rows) -> npt.NDArray[np.int64] | None:
    return None if examples.order is None else examples.order[rows]


def _recipe(run: Run, chosen: Candidate, columns: Columns) -> dict[str, Any]:
    """What of the spec made the model; the requirements did not."""
    return {
        "target": run.target,
        "task": run.task,
        **({"features": features} if (features := run.features.to_json()) else {}),
        **({"dataFormat": run.data_format} if run.data_format else {}),
        **({"sliceColumns": list(run.slices)} if run.slices else {}),
        "splitMethod": run.split_method,
        "testPercent": run.test_percent,
        **({"orderColumn": run.order_column} if run.order_column else {}),
        "estimator": chosen.name,
        "parameters": dict(chosen.parameters),
        "calibration": run.calibration or "None",
        "seed": run.seed,
        **({"workers": run.workers} if run.workers > 1 else {}),
        "preprocessing": {}
        if columns.images
        else {
            "imputeNumeric": run.preprocessing.impute_numeric,
            "scaleNumeric": run.preprocessing.scale_numeric,
            "encodeCategorical": run.preprocessing.encode_categorical,
        },
    }


def _report(output: Output, digest: str, bundle: manifest.Manifest) -> dict[str, Any]:
    """The same words for a bundle just made and for one that was found."""
    lineage, notes = bundle.lineage, output.notes()
    version = notes.get("dataVersion")
    return {
        "result": "Completed",
        "model": {
            "uri": str(output.uri),
            "digest": digest,
            "estimator": lineage["estimator"],
            "sizeBytes": sum(file.size for file in bundle.files.values()),
        },
        "metrics": _metrics(bundle),
        "data": {
            "digest": lineage["dataDigest"],
            **({"version": version} if version else {}),
            "rows": lineage["rows"],
            "testRows": lineage["testRows"],
            "columns": lineage["columns"],
        },
        "findings": [*lineage["findings"], *notes.get("findings", ())][:MAX_FINDINGS],
        "packages": [{"name": name, "version": version} for name, version in lineage["packages"].items()],
    }


def _metrics(bundle: manifest.Manifest) -> list[dict[str, str]]:
    """The one that the model was chosen by, then as always, then those of slices: what is cut is cut at the end."""
    first = bundle.lineage.get("tuning", {}).get("metric")
    names = sorted(bundle.metrics, key=lambda name: (name != first, evaluation.ORDER.index(name)))
    whole = [{"name": name, "value": bundle.metrics[name]} for name in names]
    return [*whole, *bundle.lineage.get("slices", ())][:MAX_METRICS]

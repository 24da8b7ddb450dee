"""The road from a table to a published bundle, one step after the other."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from holdfast_bundle import manifest
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.web import Web
from holdfast_training import columns, conversion, data, estimators, evaluation, preprocessing, reference
from holdfast_training.access import Access
from holdfast_training.errors import MAX_FINDINGS
from holdfast_training.listing import PRODUCTION
from holdfast_training.model import Model
from holdfast_training.output import Output
from holdfast_training.progress import Progress
from holdfast_training.spec import Run

PACKAGES = (
    *("lightgbm", "numpy", "onnx", "onnxmltools", "onnxruntime", "pyarrow", "scikit-learn", "scipy", "skl2onnx"),
    "xgboost-cpu",
)
"""Versions that shape the model."""

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
) -> dict[str, Any]:
    """Carry out the run and return what goes into the termination message.

    Raises:
        TrainingError: with any of its reasons; then nothing was published.
    """
    if finished := output.finished():
        log("found", message="the bundle of this run is already there", uri=str(output.uri))
        return _report(output, *finished)
    progress = progress or Progress()
    estimator = estimators.build(run.estimator, run.parameters, seed=run.seed, threads=threads)
    with output.staging():
        progress.say("reading the data")
        source = data.locate(
            run.data_uri,
            run.data_digest,
            run.data_format,
            scratch=scratch,
            claims=claims,
            web=web,
            credentials=(access or Access()).to("data", run.data_secret),
        )
        log("located", uri=str(source.uri), digest=source.digest, files=len(source.files))
        examples = columns.examine(
            source.read(columns.wanted(source.columns, run.target, run.features)), run.target, run.task, run.features
        )
        training, held_out = evaluation.split(examples, run)
        log("read", rows=len(examples.target), testRows=len(held_out), features=len(examples.columns.names))

        progress.say(f"fitting {run.estimator}")
        started = time.monotonic()
        np.random.seed(run.seed)  # for estimators that draw without a random_state of their own
        train_features = examples.features.take(training)
        preprocessor = preprocessing.fit(train_features, run.preprocessing)
        notes = estimators.fit(estimator, preprocessor.transform(train_features), examples.target[training])
        model = Model(run.task, examples.columns, preprocessor, estimator)
        log("fitted", estimator=run.estimator, seconds=round(time.monotonic() - started, 2))

        progress.say("measuring")
        test_features, truth = examples.features.take(held_out), examples.target[held_out]
        answers = model.answer(test_features)
        if run.task == "Regression":
            measured = evaluation.measure_numbers(truth, answers.values)
        else:
            measured = evaluation.measure_classes(truth, answers.values, answers.probabilities, model.classes)
        metrics = {name: evaluation.formatted(measured[name]) for name in evaluation.ORDER if name in measured}
        log("measured", **metrics)
        evaluation.check(run.requirements, measured, run.estimator, len(held_out))

        progress.say("converting to ONNX")
        converted = conversion.convert(model)
        worst = conversion.check_parity(model, converted, test_features, answers, threads)
        log("converted", sizeBytes=len(converted.onnx), largestDifference=worst)

        progress.say("publishing")
        digest, bundle = output.publish(
            {
                manifest.MODEL: converted.onnx,
                "golden.json": manifest.canonical_json(
                    reference.golden(model, converted.inputs, converted.outputs, test_features, truth)
                ),
                "profile.json": manifest.canonical_json(reference.profile(model, test_features, truth, answers)),
            },
            notes={"dataVersion": source.version} if source.version else None,
            framework="scikit-learn",
            opset=conversion.OPSET,
            inputs=converted.inputs,
            outputs=converted.outputs,
            metrics=metrics,
            lineage={
                **_recipe(run),
                "dataDigest": source.digest,
                "rows": len(examples.target),
                "testRows": len(held_out),
                "columns": len(source.columns),
                "findings": [finding.to_json() for finding in (*examples.findings, *notes)][:MAX_FINDINGS],
                "packages": _packages(),
            },
        )
    log("published", uri=str(output.uri), digest=digest)
    return _report(output, digest, bundle)


def _recipe(run: Run) -> dict[str, Any]:
    """What of the spec made the model; the requirements did not."""
    return {
        "target": run.target,
        "task": run.task,
        "splitMethod": run.split_method,
        "testPercent": run.test_percent,
        "estimator": run.estimator,
        "parameters": dict(run.parameters),
        "seed": run.seed,
        "preprocessing": {
            "imputeNumeric": run.preprocessing.impute_numeric,
            "scaleNumeric": run.preprocessing.scale_numeric,
            "encodeCategorical": run.preprocessing.encode_categorical,
        },
    }


def _packages() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def _report(output: Output, digest: str, bundle: manifest.Manifest) -> dict[str, Any]:
    """The same words for a bundle just made and for one that was found."""
    lineage, version = bundle.lineage, output.notes().get("dataVersion")
    return {
        "result": "Completed",
        "model": {
            "uri": str(output.uri),
            "digest": digest,
            "estimator": lineage["estimator"],
            "sizeBytes": sum(file.size for file in bundle.files.values()),
        },
        "metrics": [
            {"name": name, "value": bundle.metrics[name]} for name in evaluation.ORDER if name in bundle.metrics
        ],
        "data": {
            "digest": lineage["dataDigest"],
            **({"version": version} if version else {}),
            "rows": lineage["rows"],
            "testRows": lineage["testRows"],
            "columns": lineage["columns"],
        },
        "findings": lineage["findings"],
        "packages": [{"name": name, "version": version} for name, version in lineage["packages"].items()],
    }

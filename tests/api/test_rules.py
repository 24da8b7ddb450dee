"""Every CEL rule refuses what it should, in its own words alone, and lets the rest pass."""

from typing import Any, get_args

import pytest
from tests.api.server import Json, Server, batch_inference, model_deployment, says_only, training_job

from holdfast.api.crd import KINDS, custom_resource_definition
from holdfast.api.trainingjob import Classifier

DIGEST = "sha256:" + "9d" * 32
NO_URI = (
    "not a URI that can be used here; give one of pvc://CLAIM/PATH, http(s)://HOST/PATH, s3://BUCKET/PATH, "
    "gs://BUCKET/PATH, az://CONTAINER/PATH, oci://HOST/REPOSITORY:TAG, models:/NAME@ALIAS"
)
NO_PLACE = NO_URI.partition(", models:/")[0]
STORES = "s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH"
NO_DATA = f"not a URI that can be used here; give one of pvc://CLAIM/PATH, http(s)://HOST/PATH, {STORES}"
NO_OUTPUT = f"not a URI that can be used here; give one of pvc://CLAIM/PATH, {STORES}"
KEYLESS = "secretRef has the keys to a store or a web server; a claim needs none"
PASSWORD = "a URI must not carry a user name or password: whoever may read this object would read them"
SIGNED = "a signed URL is a password that expires: name the object without the signature"
CLIMBS = "a URI must not contain '..'"
TOO_LONG = "metadata.name must have at most 52 characters: names of child objects are built from it"
BAD_NAME = "metadata.name must begin with a letter and hold only a-z, 0-9 and '-'"
WRONG_ESTIMATOR = (
    "an estimator does not fit the task: classifiers need task Classification, regressors need task Regression"
)
WRONG_METRIC = (
    "a required metric does not fit the task: R2, MAE, RMSE and MAPE are for Regression, the others for Classification"
)


NO_EDGE = (
    "thresholdMilliseconds must be an edge of the histogram, one of 1 2 3 5 7 10 15 20 25 30 40 50 75 100 150 200 250"
    " 300 400 500 750 1000 1500 2000 3000 5000 7500 10000 15000 30000 60000"
)
NO_PERCENTAGE = 'give a percentage from 50 to 99.999 in quotes, like "99.9"'
NEVER_FIRES = "is too low for this window: its fast burn alert could never fire; raise it or shorten windowDays"


def serving(**fields: Any) -> Json:
    return model_deployment(serving=fields)


def model(**fields: Any) -> Json:
    return model_deployment(model=fields)


def rollout(strategy: str | None = "Canary", **fields: Any) -> Json:
    return model_deployment(rollout={"strategy": strategy, **fields} if strategy else fields)


def steps(*percents: int) -> Json:
    return rollout(steps=[{"weightPercent": percent, "minSeconds": 60} for percent in percents])


def guard(**fields: Any) -> Json:
    return model_deployment(guard=fields)


def slo(**fields: Any) -> Json:
    return model_deployment(slo=fields)


def latency(objective: str = "99", threshold: int = 50, **fields: Any) -> Json:
    return slo(latency={"thresholdMilliseconds": threshold, "objective": objective}, **fields)


def monitoring(**fields: Any) -> Json:
    return model_deployment(monitoring=fields)


def retraining(model: Json | None = None, **fields: Any) -> Json:
    template = {"spec": training_job()["spec"]}
    retraining = {"template": template, **fields}
    return model_deployment(
        model=model or {"uri": "pvc://models/wine"}, monitoring={"drift": {}, "performance": {}}, retraining=retraining
    )


def unwatched(trigger: str, **monitoring: Any) -> Json:
    body = retraining(triggers={trigger: {}})
    body["spec"]["monitoring"] = monitoring
    return body


PINNED_DATA = {"spec": training_job(data={"uri": "pvc://lake/wine.csv", "digest": DIGEST})["spec"]}
PINNED_MODEL = {"uri": "pvc://models/wine", "digest": DIGEST}


def data(uri: str) -> Json:
    return training_job(data={"uri": uri})


def output(uri: str) -> Json:
    return training_job(output={"uri": uri})


CLASSIFIERS = get_args(Classifier)
C_VALUES = {"parameter": "C", "values": ["0.1", "1", "10"]}


def tuned(estimators: list[dict[str, Any]], **tuning: Any) -> Json:
    return training_job(estimators=estimators, tuning=tuning)


def requirement(**fields: Any) -> Json:
    return training_job(evaluation={"requirements": [fields]})


OWN = {"image": "registry.example.com/team/trainer:1"}
ONE_TRAINER = "give exactly one of estimators (built-in trainers) and container (your own)"
NOT_OF_ONES_OWN = (
    "data.checks, features, preprocessing, split, tuning and calibration belong to estimators;"
    " your own container does these itself"
)
REFUSED: list[tuple[Json, str, str]] = [
    # Names
    (model_deployment("a" * 53), "<nil>", TOO_LONG),
    (training_job("a" * 53), "<nil>", TOO_LONG),
    (model_deployment("3wine"), "<nil>", BAD_NAME),
    (training_job("3wine"), "<nil>", BAD_NAME),
    (model_deployment("wine.red"), "<nil>", BAD_NAME),
    (
        model_deployment("wine-candidate"),
        "<nil>",
        "metadata.name must not end in -candidate: that name is kept for the Service of a new revision",
    ),
    # URIs
    *((model(uri=uri), "spec.model.uri", NO_URI) for uri in ("", "wine.onnx", "/models/wine", "ftp://h/wine")),
    (model(uri="file://models/wine"), "spec.model.uri", NO_URI),
    (model(uri="s3://Models/wine"), "spec.model.uri", NO_URI),
    (model(uri="gs:///wine"), "spec.model.uri", NO_URI),
    (model(uri="az://models/wine?version=1"), "spec.model.uri", NO_URI),
    (model(uri="s3://models/wi ne"), "spec.model.uri", NO_URI),
    (model(uri="oci://registry"), "spec.model.uri", NO_URI),
    (model(uri="oci://registry/Wine"), "spec.model.uri", NO_URI),
    (model(uri="oci://registry/wine@sha256:12"), "spec.model.uri", NO_URI),
    (model(uri="oci://user@registry/wine"), "spec.model.uri", PASSWORD),
    (model(uri="s3://models/../wine"), "spec.model.uri", CLIMBS),
    (data("oci://models/wine"), "spec.data.uri", NO_DATA),
    *(
        (model(uri=f"models:/{rest}"), "spec.model.uri", NO_URI)
        for rest in ("wine", "wine@", "wine/champion", "/wine/3", "wine%2f@champion", "a/b/3")
    ),
    (batch_inference(model={"uri": "models:/wine@champion"}), "spec.model.uri", NO_PLACE),
    (
        model(uri="models:/wine@champion", digest=DIGEST),
        "spec.model",
        "model.digest does not go with models:/, whose registry tells it: remove it, or name the bundle's URI",
    ),
    (model(uri="HTTPS://h/wine"), "spec.model.uri", NO_URI),
    (model(uri="https://"), "spec.model.uri", NO_URI),
    (model(uri="https://h/wine 2"), "spec.model.uri", NO_URI),
    (model(uri="https://h/wine#part"), "spec.model.uri", NO_URI),
    (model(uri="https://h\\wine"), "spec.model.uri", NO_URI),
    (model(uri="https://h/wine\nhttps://i"), "spec.model.uri", NO_URI),
    (model(uri="https://h/wine\x07"), "spec.model.uri", NO_URI),
    (model(uri="pvc://models/wine\x0b"), "spec.model.uri", NO_URI),
    (model(uri="pvc://Models/wine"), "spec.model.uri", NO_URI),
    (model(uri="pvc:///wine"), "spec.model.uri", NO_URI),
    (model(uri="pvc://models/wine?version=1"), "spec.model.uri", NO_URI),
    (data("s3://Lake/wine"), "spec.data.uri", NO_DATA),
    (output("oci://lake/wine"), "spec.output.uri", NO_OUTPUT),
    *(
        (
            training_job(data={"uri": "pvc://lake/wine", "checks": {"columns": [{"name": "ash", **check}]}}),
            "spec.data.checks.columns[0]",
            message,
        )
        for check, message in (
            ({}, "say what the column must be: maxMissingPerMille, minimum, maximum or allowed"),
            ({"allowed": ["a"], "minimum": "1"}, "give either allowed, or minimum and maximum"),
            ({"minimum": "1.5", "maximum": "-2"}, "minimum must not be greater than maximum"),
        )
    ),
    (
        training_job(split={"method": "RowDigest", "orderColumn": "day"}),
        "spec.split",
        "give either method or orderColumn",
    ),
    (training_job(split={"orderColumn": "quality"}), "spec", "split.orderColumn must not be the target"),
    *(
        (
            training_job(tracking={"uri": uri}),
            "spec.tracking.uri",
            "a tracking server is named http(s)://HOST[:PORT][/PATH], without user name, password or query",
        )
        for uri in ("mlflow:5000", "sqlite:///mlflow.db", "http://me:word@mlflow:5000", "https://mlflow/?token=x")
    ),
    (
        training_job(tracking={"uri": "http://mlflow.tools:5000", "alias": "champion"}),
        "spec.tracking",
        "alias needs registeredModel",
    ),
    (training_job(data={"uri": "pvc://lake/wine", "secretRef": {"name": "lake"}}), "spec.data", KEYLESS),
    (training_job(output={"uri": "pvc://lake/wine", "secretRef": {"name": "lake"}}), "spec.output", KEYLESS),
    (output("https://h/wine"), "spec.output.uri", NO_OUTPUT),
    (model(uri="https://user:word@h/wine"), "spec.model.uri", PASSWORD),
    (data("http://user@h/wine"), "spec.data.uri", PASSWORD),
    (model(uri="https://h/wine?X-Amz-Signature=abc"), "spec.model.uri", SIGNED),
    (model(uri="https://h/wine?a=b&sig=abc"), "spec.model.uri", SIGNED),
    (data("https://h/wine?token=abc"), "spec.data.uri", SIGNED),
    (model(uri="pvc://models/../etc"), "spec.model.uri", CLIMBS),
    (model(uri="pvc://models/wine/.."), "spec.model.uri", CLIMBS),
    (model(uri="https://h/%2e%2E/wine"), "spec.model.uri", CLIMBS),
    (model(uri="https://h/a/..?x"), "spec.model.uri", CLIMBS),
    (output("pvc://models/wine/../../other"), "spec.output.uri", CLIMBS),
    # ModelDeployment
    (model(), "spec.model", "give exactly one of model.uri and model.trainingJobRef"),
    (
        model(uri="pvc://models/wine", trainingJobRef={"name": "wine"}),
        "spec.model",
        "give exactly one of model.uri and model.trainingJobRef",
    ),
    (
        model(digest=DIGEST, trainingJobRef={"name": "wine"}),
        "spec.model",
        "model.digest belongs to model.uri; a TrainingJob's digest is already known",
    ),
    *(
        (
            serving(env=[{"name": name, "value": "x"}]),
            "spec.serving.env",
            "names that begin with HOLDFAST_, LD_ or PYTHON, and PATH, are set by the operator",
        )
        for name in ("HOLDFAST_MODEL_URI", "LD_PRELOAD", "PYTHONPATH", "PATH")
    ),
    *(
        (serving(env=[{"name": "A", **rest}]), "spec.serving.env[0]", "give exactly one of value and valueFrom")
        for rest in ({}, {"value": "x", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}})
    ),
    # What pods need
    *(
        (
            serving(resources={"requests": {"memory": request}, "limits": {"memory": limit}}),
            "spec.serving.resources",
            "a resource's request must not be greater than its limit",
        )
        for request, limit in (("2Gi", "1Gi"), ("1Gi", "1G"), (2000, "1k"), (2, 1))
    ),
    (
        training_job(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1999m"}}),
        "spec.resources",
        "a resource's request must not be greater than its limit",
    ),
    *(
        (
            serving(resources={"limits": {name: 1}}),
            "spec.serving.resources.limits",
            "a resource is cpu, memory, ephemeral-storage, hugepages-SIZE or DOMAIN/NAME",
        )
        for name in ("gpu", "CPU", "nvidia.com/gpu/0")
    ),
    *(
        (
            serving(resources={"limits": {"memory": quantity}, "requests": {"memory": "1Mi"}}),
            "spec.serving.resources.limits",
            "a quantity is a number with or without a suffix, like 2, 500m or 1Gi",
        )
        for quantity in ("", "1GiB", "much", "1 Gi", "1e99999999")
    ),
    *(
        (
            serving(resources={"requests": {"cpu": quantity}}),
            "spec.serving.resources.requests",
            "a quantity must not be negative",
        )
        for quantity in (-1, "-500m")
    ),
    *(
        (
            serving(nodeSelector=labels),
            "spec.serving.nodeSelector",
            "nodeSelector holds labels of nodes, like disktype: ssd or topology.kubernetes.io/zone: z1",
        )
        for labels in ({"disk type": "ssd"}, {"a/b/c": "x"}, {"": "x"}, {"disktype": "s s d"}, {"disktype": "ssd-"})
    ),
    *(
        (serving(tolerations=[fields]), "spec.serving.tolerations[0]", message)
        for fields, message in (
            ({}, "a toleration without key needs operator Exists"),
            ({"operator": "Equal", "key": ""}, "a toleration without key needs operator Exists"),
            ({"operator": "Exists", "key": "gpu", "value": "x"}, "a toleration with operator Exists has no value"),
            ({"key": "gpu", "tolerationSeconds": 3}, "tolerationSeconds needs effect NoExecute"),
            (
                {"key": "gpu", "tolerationSeconds": 3, "effect": "NoSchedule"},
                "tolerationSeconds needs effect NoExecute",
            ),
        )
    ),
    (
        serving(feedback={"secretRef": {"name": "a"}, "clientAuth": "Required"}),
        "spec.serving",
        "feedback.clientAuth Required needs tls, with ca.crt in its Secret",
    ),
    # Rollout, guard and objectives
    *(
        (
            rollout(strategy, steps=[{"weightPercent": 10, "minSeconds": 60}]),
            "spec.rollout",
            "steps belong to strategy Canary",
        )
        for strategy in (None, "Immediate", "Manual")
    ),
    *(
        (rollout(strategy, shadow={}), "spec.rollout", "shadow needs strategy Canary or Manual")
        for strategy in (None, "Immediate")
    ),
    *(
        (steps(*percents), "spec.rollout.steps", "steps must rise in weightPercent")
        for percents in ((50, 10), (1, 50, 49, 99))
    ),
    *(
        (
            guard(warmSeconds=warm, rollbackWindowSeconds=window),
            "spec.guard",
            "warmSeconds must not be longer than rollbackWindowSeconds",
        )
        for warm, window in ((601, 600), (1, 0))
    ),
    (guard(rollbackWindowSeconds=599), "spec.guard", "warmSeconds must not be longer than rollbackWindowSeconds"),
    (
        model_deployment(model=None),
        "spec",
        "give model (uri or trainingJobRef) to serve one, or retraining.template to train the first one",
    ),
    *(
        (
            retraining(PINNED_MODEL, triggers=triggers),
            "spec",
            "model.digest pins the model, so a retrained one could never take its place: remove digest, or use action"
            " Train or Notify",
        )
        for triggers in (
            {"newData": {}},
            {"performance": {"action": "TrainAndRollout"}},
            {"drift": {"action": "TrainAndRollout"}},
            {"newData": {"action": "Notify"}, "schedule": {"cron": "0 3 * * 0"}},
        )
    ),
    *(
        (unwatched(trigger, **{other: {}}), "spec", f"triggers.{trigger} needs monitoring.{trigger}")
        for trigger, other in (("drift", "performance"), ("performance", "drift"))
    ),
    (
        retraining(template=PINNED_DATA, triggers={"newData": {}}),
        "spec.retraining",
        "data pinned by digest never changes, so triggers would train the same model again: remove"
        " template.spec.data.digest or triggers",
    ),
    *(
        (
            retraining(triggers={"schedule": {"cron": cron}}),
            "spec.retraining.triggers.schedule.cron",
            "cron needs five fields: minute hour day month weekday; the time zone goes to timeZone",
        )
        for cron in ("", "@daily", "0 3 * *", "0 3 * * 0 2026", "CRON_TZ=Europe/Berlin 0 3 * * 0")
    ),
    (slo(), "spec.slo", "give availability, latency or both"),
    (slo(windowDays=7), "spec.slo", "give availability, latency or both"),
    *(
        (slo(availability=text), "spec.slo.availability", f"availability: {NO_PERCENTAGE}")
        for text in ("", "49.9", "100", "99.", "99,9", "99.9%", "-99", "+99", " 99", "1e2")
    ),
    *(
        (latency(text), "spec.slo.latency.objective", f"objective: {NO_PERCENTAGE}")
        for text in ("", "49", "100", "0.99", "99%")
    ),
    *(
        (latency(threshold=milliseconds), "spec.slo.latency.thresholdMilliseconds", NO_EDGE)
        for milliseconds in (4, 60, 59999)
    ),
    *(
        (slo(availability=text, **days), "spec.slo", f"availability {NEVER_FIRES}")
        for text, days in (("93", {}), ("50", {"windowDays": 7}), ("97.685", {"windowDays": 90}))
    ),
    *(
        (latency(text, **days), "spec.slo", f"latency.objective {NEVER_FIRES}")
        for text, days in (("93", {}), ("70.2", {"windowDays": 7}), ("97.685", {"windowDays": 90}))
    ),
    # TrainingJob
    (training_job(estimators=None), "spec", ONE_TRAINER),
    (training_job(container=OWN), "spec", ONE_TRAINER),
    *((training_job(**{field: None}), "spec", "estimators need target and task") for field in ("target", "task")),
    *(
        (training_job(estimators=None, container=OWN, **{field: {}}), "spec", NOT_OF_ONES_OWN)
        for field in ("preprocessing", "split", "tuning")
    ),
    (training_job(estimators=None, container=OWN, calibration="Sigmoid"), "spec", NOT_OF_ONES_OWN),
    (training_job(estimators=None, container=OWN, features={"numeric": ["ash"]}), "spec", NOT_OF_ONES_OWN),
    (
        training_job(estimators=None, container=OWN, data={"uri": "pvc://lake/wine", "checks": {"minRows": 9}}),
        "spec",
        NOT_OF_ONES_OWN,
    ),
    (
        training_job(estimators=[{"name": f"{kind}MLPClassifier"} for kind in ("Torch", "Keras")], tuning={}),
        "spec",
        "no image has both PyTorch and TensorFlow: choose among estimators of one of them",
    ),
    (
        training_job(distributed={"workers": 2}),
        "spec",
        "distributed training needs a Torch estimator or your own container",
    ),
    (
        training_job(estimators=[{"name": "TorchMLPClassifier"}], tuning={}, distributed={"workers": 2}),
        "spec",
        "distributed and tuning exclude each other: tune in single pods, and train what was found in several",
    ),
    *(
        (
            training_job(**{"estimators": [{"name": "TorchImageClassifier"}], **more}),
            "spec",
            "TorchImageClassifier learns from images, not from columns: it goes with no other estimator, no"
            " preprocessing and no evaluation.slices",
        )
        for more in (
            {"estimators": [{"name": f"Torch{kind}Classifier"} for kind in ("MLP", "Image")], "tuning": {}},
            {"preprocessing": {"scaleNumeric": "None"}},
            {"evaluation": {"slices": ["ash"]}},
        )
    ),
    (
        training_job(tuning={"parallelism": 2}, output={"uri": "s3://models/wine"}),
        "spec",
        "parallel trials meet on the claim of the output: write to pvc://",
    ),
    (
        training_job(estimators=None, container={"image": "a b"}),
        "spec.container.image",
        "an image is named without blanks, like registry.example.com/team/trainer:1",
    ),
    (
        training_job(estimators=None, container={**OWN, "env": [{"name": "LD_PRELOAD", "value": "x"}]}),
        "spec.container.env",
        "names that begin with HOLDFAST_, LD_ or PYTHON, and PATH, are set by the operator",
    ),
    (training_job(task="Regression"), "spec", WRONG_ESTIMATOR),
    (training_job(estimators=[{"name": "Ridge"}]), "spec", WRONG_ESTIMATOR),
    (requirement(metric="RMSE", maximum="1"), "spec", WRONG_METRIC),
    (
        training_job(
            task="Regression",
            estimators=[{"name": "Ridge"}],
            evaluation={"requirements": [{"metric": "R2", "minimum": "0.5"}, {"metric": "F1", "minimum": "0.5"}]},
        ),
        "spec",
        WRONG_METRIC,
    ),
    *(
        (
            requirement(metric="F1", **bounds),
            "spec.evaluation.requirements[0]",
            "give exactly one of minimum and maximum",
        )
        for bounds in ({}, {"minimum": "0.1", "maximum": "0.9"})
    ),
    (
        training_job(evaluation={"sliceRequirements": [{"metric": "F1", "minimum": "0.5"}]}),
        "spec.evaluation",
        "sliceRequirements need slices, the columns to slice by",
    ),
    (
        training_job(evaluation={"slices": ["colour"], "sliceRequirements": [{"metric": "R2", "minimum": "0.5"}]}),
        "spec",
        "a metric in sliceRequirements does not fit the task: R2, MAE, RMSE and MAPE are for Regression,"
        " the others for Classification",
    ),
    (
        training_job(evaluation={"slices": ["colour"], "sliceRequirements": [{"metric": "F1", "minRows": 50}]}),
        "spec.evaluation.sliceRequirements[0]",
        "give exactly one of minimum and maximum",
    ),
    *(
        (training_job(features={kind: ["ash", "quality"]}), "spec", "the target must not be among the features")
        for kind in ("numeric", "categorical")
    ),
    *(
        (
            training_job(features={"embeddings": ["text"], kind: ["text"]}),
            "spec.features",
            "an embedding cannot be numeric, categorical or excluded, too",
        )
        for kind in ("numeric", "categorical", "excluded")
    ),
    (training_job(features={"embeddings": ["quality"]}), "spec", "the target must not be among the features"),
    *(
        (training_job(features=features), "spec.features", "give either excluded, or numeric and categorical")
        for features in ({}, {"excluded": ["id"], "numeric": ["ash"]}, {"excluded": ["id"], "categorical": ["ash"]})
    ),
    *(
        (training_job(estimators=estimators), "spec", "several estimators, or a search, need tuning")
        for estimators in ([{"name": "SVC"}, {"name": "GaussianNB"}], [{"name": "SVC", "search": [C_VALUES]}])
    ),
    (
        training_job(task="Regression", estimators=[{"name": "Ridge"}], calibration="Sigmoid"),
        "spec",
        "calibration is for task Classification",
    ),
    (
        tuned([{"name": "SVC"}], metric="RMSE"),
        "spec",
        "tuning.metric does not fit the task: R2, MAE, RMSE and MAPE are for Regression, the others for Classification",
    ),
    (
        tuned([{"name": "SVC"}, {"name": "GaussianNB"}], trials=1),
        "spec",
        "tuning.trials must not be smaller than the number of estimators: each is tried at least once",
    ),
    (
        tuned([{"name": "SVC", "search": [{"parameter": "C", "low": "1", "high": "2"}]}], sampler="Grid"),
        "spec",
        "sampler Grid needs values in every search, not low and high",
    ),
    *(
        (
            tuned(estimators, sampler="CMAES"),
            "spec",
            "sampler CMAES needs one estimator with at least two parameters that are searched from low to high",
        )
        for estimators in (
            [{"name": "SVC"}],
            [{"name": "SVC", "search": [C_VALUES, {"parameter": "tol", "low": "1", "high": "2"}]}],
            [{"name": "SVC", "search": [C_VALUES]}, {"name": "GaussianNB"}],
        )
    ),
    (
        tuned([{"name": "SVC", "parameters": {"C": "1"}, "search": [C_VALUES]}]),
        "spec.estimators[0]",
        "a parameter is either set in parameters or looked for in search",
    ),
    *(
        (tuned([{"name": "SVC", "search": [{"parameter": "C", **bounds}]}]), "spec.estimators[0].search[0]", message)
        for bounds, message in (
            ({}, "give either values, or low and high"),
            ({"low": "1"}, "give either values, or low and high"),
            ({"low": "1", "high": "2", "values": ["1"]}, "give either values, or low and high"),
            ({"scale": "Log", "values": ["1"]}, "give either values, or low and high"),
            ({"low": "2", "high": "2"}, "low must be smaller than high"),
            ({"low": "10", "high": "9"}, "low must be smaller than high"),
            ({"low": "0", "high": "9", "scale": "Log"}, "scale Log needs a low above 0"),
        )
    ),
    (
        training_job(features={"numeric": ["ash", "hue"], "categorical": ["hue"]}),
        "spec.features",
        "a column cannot be both numeric and categorical",
    ),
    # Batches
    *(
        (
            batch_inference(model=model),
            "spec.model",
            "give exactly one of modelDeploymentRef, trainingJobRef and uri",
        )
        for model in (
            {},
            {"uri": "pvc://models/wine", "trainingJobRef": {"name": "wine"}},
            {"modelDeploymentRef": {"name": "wine"}, "trainingJobRef": {"name": "wine"}},
        )
    ),
    (
        batch_inference(input={"uri": "oci://lake/wine"}),
        "spec.input.uri",
        NO_DATA,
    ),
    (
        batch_inference(output={"uri": "https://lake/wine"}),
        "spec.output.uri",
        NO_OUTPUT,
    ),
    (
        batch_inference(model={"trainingJobRef": {"name": "wine"}, "digest": DIGEST}),
        "spec.model",
        "model.digest belongs to model.uri",
    ),
    (
        batch_inference(model={"trainingJobRef": {"name": "wine"}, "secretRef": {"name": "models-read"}}),
        "spec.model",
        "model.secretRef belongs to model.uri; a reference brings its own",
    ),
    *(
        (
            batch_inference(**{place: {"uri": "pvc://lake/x", "secretRef": {"name": "lake"}}}),
            f"spec.{place}",
            "secretRef has the keys to a store or a web server; a claim needs none",
        )
        for place in ("model", "input", "output")
    ),
    *(
        (
            batch_inference(input={"uri": source}, output={"uri": place}),
            "spec",
            "output.uri must not be input.uri or lie in it: what is written would be read",
        )
        for source, place in (
            ("pvc://lake/wine", "pvc://lake/wine"),
            ("pvc://lake/wine/", "pvc://lake/wine"),
            ("s3://lake/wine", "s3://lake/wine/scored"),
            ("pvc://lake", "pvc://lake/scored/"),
        )
    ),
]

WITHOUT_ONE: list[dict[str, Any]] = [{field: None} for field in ("data", "output")]
IMMUTABLE = (
    "a TrainingJob is one run and cannot change (suspend and ttlSecondsAfterFinished may): give the new run a new name"
)


@pytest.mark.parametrize(("body", "field", "message"), REFUSED)
def test_a_broken_rule_is_the_only_complaint(server: Server, body: Json, field: str, message: str) -> None:
    text = server.refusal(body)
    assert says_only(text, field, message), text


def test_every_rule_of_every_kind_is_among_those_tested() -> None:
    def messages(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return {found for each in schema for found in messages(each)}
        if not isinstance(schema, dict):
            return set()
        own = {rule["message"] for rule in schema.get("x-kubernetes-validations", [])}
        return own.union(*(messages(each) for key, each in schema.items() if key != "x-kubernetes-validations"))

    rendered = messages([custom_resource_definition(kind) for kind in KINDS])
    assert rendered == {message for _, _, message in REFUSED} | {
        IMMUTABLE,
        IMMUTABLE.replace("TrainingJob", "BatchInference"),
    }


@pytest.mark.parametrize(
    "body",
    [
        model(uri="models:/wine@champion"),
        model(uri="models:/wine-of.mine/3"),
        model(uri="pvc://models"),
        model(uri="pvc://models/"),
        model(uri="pvc://my.models-2/a b/wine.onnx".replace(" ", "_")),
        model(uri="pvc://models/wine..2/...x"),
        model(uri="http://h"),
        model(uri="s3://models"),
        model(uri="s3://my.models/wine/50%_of+it"),
        model(uri="gs://models_of_mine/wine.onnx"),
        model(uri="az://models/wine/"),
        model(uri="oci://registry.example.com:5000/team/wine"),
        model(uri="oci://registry/wine:v3"),
        model(uri=f"oci://registry/wine@{DIGEST}"),
        model(uri="https://models.example.com:8443/wine/3?version=1&user=me@example.com"),
        model(uri="https://[2001:db8::1]:80/wine.onnx"),
        model(uri="https://h/signature=1/token=2"),
        model(uri="https://h/" + "x" * 1014, digest=DIGEST),
        model(trainingJobRef={"name": "a" * 52}),
        retraining(triggers={"newData": {}, "performance": {}, "drift": {}, "schedule": {"cron": "0 3 * * 0"}}),
        retraining(PINNED_MODEL, triggers={"newData": {"action": "Train"}, "drift": {}}),
        retraining(template=PINNED_DATA),
        retraining(None, limits={}, gate={"data": {"uri": "pvc://lake/recent"}}),
        model_deployment(model=None, retraining={"template": {"spec": training_job()["spec"]}}),
        serving(),
        serving(replicas=0),
        serving(replicas=1000),
        serving(resources={}),
        serving(resources={"requests": {"cpu": 1, "memory": "1G"}, "limits": {"cpu": "1000m", "memory": "1Gi"}}),
        serving(resources={"limits": {"nvidia.com/gpu": 1, "hugepages-2Mi": "4Mi", "ephemeral-storage": "1e9"}}),
        serving(resources={"requests": {"cpu": "0"}}),
        serving(nodeSelector={"disktype": "", "topology.kubernetes.io/zone": "z_1.a"}),
        serving(tolerations=[{"operator": "Exists"}, {"key": "a", "value": "b"}]),
        serving(tolerations=[{"key": "a", "effect": "NoExecute", "tolerationSeconds": 0}]),
        serving(requestTimeoutMilliseconds=10, maxBatchRows=1),
        serving(requestTimeoutMilliseconds=600000, maxBatchRows=4096),
        serving(env=[{"name": f"V{n}", "value": "x" * 1024} for n in range(32)]),
        serving(env=[{"name": "XPATH", "value": ""}, {"name": "MY_PYTHON", "value": "x"}]),
        serving(env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "a.b", "key": "c_d.E"}}}]),
        serving(storageSecretRef={"name": "a.b"}, serviceAccountName="a.b", cacheClaimRef={"name": "a.b"}),
        serving(tls={"secretRef": {"name": "a.b"}, "clientAuth": "Required"}),
        serving(feedback={"secretRef": {"name": "a"}, "rowsPerMinute": 1000}),
        serving(tls={"secretRef": {"name": "a"}}, feedback={"secretRef": {"name": "b"}, "clientAuth": "Required"}),
        model_deployment(suspend=True),
        *(rollout(strategy) for strategy in ("Immediate", "Canary", "Manual")),
        *(rollout(strategy, shadow={"percent": 1, "minSeconds": 10}) for strategy in ("Canary", "Manual")),
        rollout(tolerancePerMille=100, onInsufficientTraffic="Synthetic", progressDeadlineSeconds=86400),
        steps(1),
        steps(1, 2, 3, 5, 10, 20, 30, 50, 80, 99),
        guard(action="Notify", controlPercent=0),
        guard(warmSeconds=600, rollbackWindowSeconds=600),
        guard(warmSeconds=0, rollbackWindowSeconds=0),
        slo(availability="99.999", windowDays=90),
        slo(availability="93.1"),
        slo(availability="70.3", windowDays=7),
        slo(availability="97.7", windowDays=90),
        latency("99", 1),
        latency("70.3", 60000, windowDays=7),
        latency("93.1", 7500, availability="99.9"),
        training_job(data={"uri": "pvc://models/wine/", "digest": DIGEST, "format": "Parquet"}),
        training_job(
            split={"orderColumn": "day"},
            data={
                "uri": "pvc://lake/wine",
                "checks": {
                    "minRows": 2**40,
                    "columns": [
                        {"name": "ash", "maxMissingPerMille": 0, "minimum": "-1.5", "maximum": "-1.5"},
                        {"name": "colour", "allowed": ["red", "white"]},
                    ],
                },
            },
        ),
        training_job(
            data={"uri": "s3://lake/wine", "secretRef": {"name": "lake-read"}},
            output={"uri": "az://models", "secretRef": {"name": "lake-write"}},
            serviceAccountName="wine",
        ),
        training_job(features={"numeric": ["ash"]}),
        training_job(estimators=None, container=OWN),
        training_job(estimators=None, container=OWN, distributed={"workers": 64}),
        training_job(estimators=[{"name": "TorchMLPClassifier"}], distributed={"workers": 64}),
        training_job(tuning={"parallelism": 64}),
        training_job(
            tracking={
                "uri": "https://mlflow.tools:5000/below",
                "experiment": "My Wines/2",
                "registeredModel": "wine of mine",
                "alias": "champion",
                "secretRef": {"name": "mlflow"},
            }
        ),
        training_job(estimators=None, target=None, task=None, container={"image": "x", "args": ["$(A)", ""]}),
        training_job(features={"excluded": ["id", "quality"]}),
        training_job(features={"excluded": ["id"], "embeddings": ["text", "image"]}),
        training_job(features={"embeddings": ["text"]}),
        training_job(features={"numeric": [f"n{n}" for n in range(500)], "categorical": [f"c{n}" for n in range(500)]}),
        training_job(task="Regression", estimators=[{"name": "SVR", "parameters": {"C": "0.5", "kernel": "rbf"}}]),
        training_job(
            evaluation={
                "requirements": [{"metric": "Accuracy", "minimum": "0.9"}, {"metric": "LogLoss", "maximum": "1"}]
            }
        ),
        training_job(evaluation={}, preprocessing={}, split={}, resources={}),
        training_job(calibration="Isotonic"),
        training_job(evaluation={"slices": [f"c{n}" for n in range(8)]}),
        training_job(
            evaluation={
                "slices": ["colour"],
                "sliceRequirements": [
                    {"metric": "Recall", "minimum": "0.7"},
                    {"metric": "LogLoss", "maximum": "1", "minRows": 10},
                ],
            }
        ),
        training_job(task="Regression", estimators=[{"name": "Ridge"}], calibration="None"),
        tuned([{"name": "SVC"}]),
        tuned([{"name": name, "search": [C_VALUES]} for name in ("SVC", "LogisticRegression")], sampler="Grid"),
        tuned([{"name": "SVC", "search": [{"parameter": "C", "low": "0.001", "high": "9", "scale": "Log"}]}]),
        tuned(
            [{"name": "SVC", "search": [{"parameter": p, "low": "-1", "high": "9"} for p in ("C", "coef0")]}],
            sampler="CMAES",
            metric="LogLoss",
            pruner="Median",
        ),
        tuned(
            [
                {"name": name, "search": [{"parameter": f"p{n}", "values": [*map(str, range(32))]} for n in range(16)]}
                for name in CLASSIFIERS[:8]
            ]
        ),
        training_job(backoffLimit=0, activeDeadlineSeconds=2592000, seed=2147483647),
        batch_inference(parallelism=250, batchRows=65536, maxBadRowsPerMille=1000, keepColumns=["id"]),
        batch_inference(model={"uri": "s3://models/wine/3", "digest": DIGEST}),
        batch_inference(model={"trainingJobRef": {"name": "wine"}}),
        batch_inference(input={"uri": "s3://lake/wine/", "secretRef": {"name": "lake"}}, serviceAccountName="batch"),
        batch_inference(output={"uri": "az://lake/scored", "secretRef": {"name": "lake"}}),
        batch_inference(input={"uri": "pvc://lake/wine"}, output={"uri": "pvc://lake/wine-scored"}),
        batch_inference(input={"uri": "pvc://lake/wine/today"}, output={"uri": "pvc://lake/wine"}),
    ],
)
def test_what_breaks_no_rule_is_taken(server: Server, body: Json) -> None:
    assert server.accepts(body)["metadata"]["name"] == "wine"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (model(uri="https://h/" + "x" * 1015), "spec.model.uri: Too long"),
        (
            model(uri="pvc://models", digest="sha256:9D"),
            "spec.model.digest in body should match '^sha256:[0-9a-f]{64}$'",
        ),
        (model(trainingJobRef={"name": "Wine"}), "spec.model.trainingJobRef.name in body should match"),
        (serving(replicas=-1), "should be a non-negative integer"),
        (serving(replicas=1001), "spec.serving.replicas in body should be less than or equal to 1000"),
        (serving(requestTimeoutMilliseconds=9), "should be greater than or equal to 10"),
        (serving(requestTimeoutMilliseconds=600001), "should be less than or equal to 600000"),
        (serving(maxBatchRows=0), "should be greater than or equal to 1"),
        (serving(maxBatchRows=4097), "should be less than or equal to 4096"),
        (serving(replicas="2"), "spec.serving.replicas in body must be of type integer"),
        (
            serving(resources={"limits": {"cpu": 0.5}}),
            "spec.serving.resources.limits.cpu in body must be of type integer,string",
        ),
        (
            serving(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
            'spec.serving.env[1]: Duplicate value: {"name":"A"}',
        ),
        (serving(env=[{"name": f"V{n}", "value": ""} for n in range(33)]), "spec.serving.env: Too many: 33"),
        (serving(env=[{"name": "A-B", "value": ""}]), "spec.serving.env[0].name in body should match"),
        (serving(nodeSelector={f"k{n}": "" for n in range(17)}), "spec.serving.nodeSelector: Too many: 17"),
        (serving(feedback={"secretRef": {"name": "a"}, "rowsPerMinute": 999}), "greater than or equal to 1000"),
        (serving(feedback={"clientAuth": "None"}), "spec.serving.feedback.secretRef: Required value"),
        (serving(tls={}), "spec.serving.tls.secretRef: Required value"),
        (serving(tls={"secretRef": {}}), "spec.serving.tls.secretRef.name: Required value"),
        (serving(tls={"secretRef": {"name": "a"}, "clientAuth": "Maybe"}), 'supported values: "None", "Required"'),
        (model_deployment(suspend="yes"), "spec.suspend in body must be of type boolean"),
        (rollout("BlueGreen"), 'supported values: "Immediate", "Canary", "Manual"'),
        (rollout(onInsufficientTraffic="Promote"), 'supported values: "Hold", "Synthetic"'),
        (rollout(tolerancePerMille=0), "should be greater than or equal to 1"),
        (rollout(tolerancePerMille=101), "should be less than or equal to 100"),
        (rollout(progressDeadlineSeconds=29), "should be greater than or equal to 30"),
        (rollout(steps=[]), "spec.rollout.steps in body should have at least 1 items"),
        (rollout(steps=[{"weightPercent": 10}]), "spec.rollout.steps[0].minSeconds: Required value"),
        (rollout(steps=[{"minSeconds": 10}]), "weightPercent"),
        (steps(0), "should be greater than or equal to 1"),
        (steps(100), "should be less than or equal to 99"),
        (steps(10, 10), 'spec.rollout.steps[1]: Duplicate value: {"weightPercent":10}'),
        (steps(*range(1, 12)), "spec.rollout.steps: Too many: 11"),
        (rollout(shadow={"percent": 0}), "should be greater than or equal to 1"),
        (rollout(shadow={"minSeconds": 9}), "should be greater than or equal to 10"),
        (guard(action="Page"), 'supported values: "Rollback", "Notify"'),
        (guard(controlPercent=21), "should be less than or equal to 20"),
        (guard(warmSeconds=86401), "should be less than or equal to 86400"),
        (guard(rollbackWindowSeconds=2592001), "should be less than or equal to 2592000"),
        (slo(availability=99.9), "spec.slo.availability in body must be of type string"),
        (slo(availability="99.9999"), "spec.slo.availability: Too long"),
        (slo(latency={"objective": "99"}), "spec.slo.latency.thresholdMilliseconds: Required value"),
        (slo(latency={"thresholdMilliseconds": 50}), "spec.slo.latency.objective: Required value"),
        (slo(availability="99.9", windowDays=6), "should be greater than or equal to 7"),
        (slo(availability="99.9", windowDays=91), "should be less than or equal to 90"),
        (monitoring(drift={"toleratedPSIPerMille": 9}), "should be greater than or equal to 10"),
        (monitoring(drift={"features": []}), "should have at least 1 items"),
        (monitoring(drift={"features": ["ash", "ash"]}), "Duplicate value"),
        (monitoring(performance={"maxDropPerMille": 501}), "should be less than or equal to 500"),
        *((training_job(**without), f"spec.{next(iter(without))}: Required value") for without in WITHOUT_ONE),
        (training_job(estimators=[]), "spec.estimators in body should have at least 1 items"),
        (
            training_job(estimators=[{"name": name} for name in CLASSIFIERS[:9]]),
            "spec.estimators: Too many: 9: must have at most 8 items",
        ),
        (
            training_job(estimators=[{"name": "VotingClassifier"}]),
            'spec.estimators[0].name: Unsupported value: "VotingClassifier"',
        ),
        (
            tuned([{"name": "SVC", "search": [{"parameter": "C", "low": "1e-3", "high": "1"}]}]),
            "low in body should match",
        ),
        (tuned([{"name": "SVC", "search": []}]), "spec.estimators[0].search in body should have at least 1 items"),
        (tuned([{"name": "SVC"}], trials=1001), "spec.tuning.trials in body should be less than or equal to 1000"),
        (tuned([{"name": "SVC"}], folds=1), "spec.tuning.folds in body should be greater than or equal to 2"),
        (training_job(data={"uri": "pvc://a", "format": "ORC"}), 'supported values: "CSV", "Parquet", "NPZ"'),
        (training_job(features={"numeric": []}), "spec.features.numeric in body should have at least 1 items"),
        (training_job(features={"numeric": ["a", "a"]}), 'spec.features.numeric[1]: Duplicate value: "a"'),
        (training_job(split={"testPercent": 51}), "spec.split.testPercent in body should be less than or equal to 50"),
        (training_job(seed=2147483648), "spec.seed in body should be less than or equal to 2147483647"),
        (
            training_job(activeDeadlineSeconds=59),
            "spec.activeDeadlineSeconds in body should be greater than or equal to 60",
        ),
        (batch_inference(parallelism=251), "spec.parallelism in body should be less than or equal to 250"),
        (batch_inference(batchRows=0), "spec.batchRows in body should be greater than or equal to 1"),
        (batch_inference(keepColumns=[]), "spec.keepColumns in body should have at least 1 items"),
        (training_job(backoffLimit=11), "spec.backoffLimit in body should be less than or equal to 10"),
        (
            training_job(
                evaluation={"slices": ["c"], "sliceRequirements": [{"metric": "F1", "minimum": "0", "minRows": 9}]}
            ),
            "spec.evaluation.sliceRequirements[0].minRows in body should be greater than or equal to 10",
        ),
        (requirement(metric="F1", minimum="90%"), "spec.evaluation.requirements[0].minimum in body should match"),
        (training_job(estimators=[{"name": "SVC", "parameters": {"C": 1}}]), "must be of type string"),
    ],
)
def test_what_is_out_of_bounds_is_refused(server: Server, body: Json, words: str) -> None:
    assert words in server.refusal(body)


def test_names_at_the_limit_are_taken(server: Server) -> None:
    for body in (model_deployment("a" * 52), training_job("a" * 52), training_job("wine-candidate")):
        assert server.accepts(body)["metadata"]["name"] == body["metadata"]["name"]


def test_a_generated_name_is_checked_like_any_other(server: Server) -> None:
    body = training_job()
    body["metadata"] = {"generateName": "wine-"}
    assert server.accepts(body)["metadata"]["name"].startswith("wine-")
    body["metadata"] = {"generateName": "3wine-"}
    assert BAD_NAME in server.refusal(body)

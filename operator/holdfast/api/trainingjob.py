"""TrainingJob: one training run. docs/trainingjob.md is its reference."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, get_args

from pydantic import Field

from holdfast.api.meta import (
    AGE,
    BundleUri,
    Column,
    Conditions,
    Count,
    DataUri,
    Decimal,
    Digest,
    Kind,
    Model,
    NodeSelector,
    ObjectName,
    ObjectRef,
    ObservedGeneration,
    Resources,
    ShortText,
    Text,
    Time,
    Tolerations,
    atomic_list,
    condition_column,
    list_map,
    one_run,
    rules,
    set_list,
    validated,
)
from holdfast.api.variables import EnvVars


class TrainingJobCondition(StrEnum):
    """Types of conditions. Reconciling and Stalled are there only while they are True, and never together."""

    SUCCEEDED = "Succeeded"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class TrainingJobReason(StrEnum):
    """Reasons of conditions and Events."""

    # Under way.
    PENDING = "Pending"
    RUNNING = "Running"
    RETRYING = "Retrying"
    SUSPENDED = "Suspended"
    # What the pod needs; a failure once the deadline has passed.
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason
    SECRET_INVALID = "SecretInvalid"  # noqa: S105 - a reason
    # The end.
    COMPLETED = "Completed"
    # The data.
    DATA_NOT_FOUND = "DataNotFound"
    DATA_ACCESS_DENIED = "DataAccessDenied"
    DATA_UNREACHABLE = "DataUnreachable"
    ADDRESS_REFUSED = "AddressRefused"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    COLUMN_NOT_FOUND = "ColumnNotFound"
    DATA_INVALID = "DataInvalid"
    # A trainer of one's own.
    IMAGE_NOT_ALLOWED = "ImageNotAllowed"
    CONTRACT_VIOLATED = "ContractViolated"
    # The model.
    TRAINER_NOT_INSTALLED = "TrainerNotInstalled"
    PARAMETERS_INVALID = "ParametersInvalid"
    TUNING_FAILED = "TuningFailed"
    REQUIREMENT_NOT_MET = "RequirementNotMet"
    CONVERSION_FAILED = "ConversionFailed"
    PARITY_FAILED = "ParityFailed"
    # The run.
    OUTPUT_NOT_WRITABLE = "OutputNotWritable"
    OUT_OF_MEMORY = "OutOfMemory"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    NAME_CONFLICT = "NameConflict"
    INTERNAL_ERROR = "InternalError"


Classifier = Literal[
    "LogisticRegression",
    "RidgeClassifier",
    "SGDClassifier",
    "LinearSVC",
    "SVC",
    "KNeighborsClassifier",
    "GaussianNB",
    "DecisionTreeClassifier",
    "RandomForestClassifier",
    "ExtraTreesClassifier",
    "GradientBoostingClassifier",
    "HistGradientBoostingClassifier",
    "AdaBoostClassifier",
    "MLPClassifier",
    "XGBClassifier",
    "LGBMClassifier",
    "TorchMLPClassifier",
    "TorchImageClassifier",
    "KerasMLPClassifier",
]
Regressor = Literal[
    "LinearRegression",
    "Ridge",
    "Lasso",
    "ElasticNet",
    "SGDRegressor",
    "LinearSVR",
    "SVR",
    "KNeighborsRegressor",
    "DecisionTreeRegressor",
    "RandomForestRegressor",
    "ExtraTreesRegressor",
    "GradientBoostingRegressor",
    "HistGradientBoostingRegressor",
    "AdaBoostRegressor",
    "MLPRegressor",
    "PoissonRegressor",
    "XGBRegressor",
    "LGBMRegressor",
    "TorchMLPRegressor",
    "KerasMLPRegressor",
]
ClassificationMetric = Literal["Accuracy", "BalancedAccuracy", "F1", "Precision", "Recall", "ROCAUC", "LogLoss"]
RegressionMetric = Literal["R2", "MAE", "RMSE", "MAPE"]
EstimatorName = Literal[Classifier, Regressor]
MetricName = Literal[ClassificationMetric, RegressionMetric]
Task = Literal["Classification", "Regression"]

ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
ColumnNames = Annotated[tuple[ColumnName, ...], set_list(500)]


KEYLESS = (
    "!has(self.secretRef) || !self.uri.startsWith('pvc://')",
    "secretRef has the keys to a store or a web server; a claim needs none",
)
_IMAGE = rules(
    ("self.matches('^[^\\\\s]+$')", "an image is named without blanks, like registry.example.com/team/trainer:1")
)


class ColumnCheck(Model):
    """What one column must be."""

    model_config = validated(
        (
            "has(self.maxMissingPerMille) || has(self.minimum) || has(self.maximum) || has(self.allowed)",
            "say what the column must be: maxMissingPerMille, minimum, maximum or allowed",
        ),
        (
            "!has(self.allowed) || !has(self.minimum) && !has(self.maximum)",
            "give either allowed, or minimum and maximum",
        ),
        (
            "!has(self.minimum) || !has(self.maximum) || !self.minimum.matches('^-?[0-9.]+$')"
            " || !self.maximum.matches('^-?[0-9.]+$') || double(self.minimum) <= double(self.maximum)",
            "minimum must not be greater than maximum",
        ),
    )

    name: ColumnName = Field(description="Column.")
    max_missing_per_mille: int | None = Field(
        None, ge=0, le=1000, description="Missing values allowed, in thousandths."
    )
    minimum: Decimal | None = Field(None, description="Smallest value allowed, a decimal in quotes.")
    maximum: Decimal | None = Field(None, description="Largest value allowed, a decimal in quotes.")
    allowed: Annotated[tuple[Annotated[str, Field(max_length=128)], ...], set_list(100)] | None = Field(
        None, description="The only values allowed, as text."
    )


class Checks(Model):
    """What the data must be before anything is trained. A missing value breaks maxMissingPerMille alone."""

    min_rows: int | None = Field(None, ge=1, le=2**40, description="Fewest rows.")
    columns: Annotated[tuple[ColumnCheck, ...], list_map("name", 100)] | None = Field(
        None, description="Checks of columns, whether they are learned from or not."
    )


class Rows(Model):
    """Rows of a table, or of arrays."""

    model_config = validated(KEYLESS)

    uri: DataUri = Field(description="A file, or a folder of files of one format.")
    digest: Digest | None = Field(
        None, description="sha256 that the data must have. Absent: whatever is there; the digest read is in status."
    )
    format: Literal["CSV", "Parquet", "NPZ"] | None = Field(None, description="Absent: by the name's ending.")
    secret_ref: ObjectRef | None = Field(None, description="Secret with the keys to a store or a web server.")


class Data(Rows):
    """What to learn from."""

    checks: Checks | None = Field(None, description="What the data must be, or the run fails before it trains.")


class Features(Model):
    """Which columns to learn from."""

    model_config = validated(
        (
            "has(self.excluded) ? !has(self.numeric) && !has(self.categorical)"
            " : has(self.numeric) || has(self.categorical) || has(self.embeddings)",
            "give either excluded, or numeric and categorical",
        ),
        (
            "!has(self.embeddings) || self.embeddings.all(e, !(has(self.numeric) && e in self.numeric"
            " || has(self.categorical) && e in self.categorical || has(self.excluded) && e in self.excluded))",
            "an embedding cannot be numeric, categorical or excluded, too",
        ),
        (
            "!has(self.numeric) || !has(self.categorical) || self.numeric.all(c, !(c in self.categorical))",
            "a column cannot be both numeric and categorical",
        ),
    )

    numeric: ColumnNames | None = Field(None, description="Columns used as numbers.")
    categorical: ColumnNames | None = Field(None, description="Columns used as categories.")
    excluded: ColumnNames | None = Field(None, description="All columns but these and the target, by type.")
    embeddings: Annotated[tuple[ColumnName, ...], set_list(8)] | None = Field(
        None, description="Vectors: columns of lists, or NAME_0, NAME_1, …; each is one input of the model."
    )


class Preprocessing(Model):
    """How columns are prepared."""

    impute_numeric: Literal["Median", "Mean", "Zero"] = Field("Median", description="Missing numbers become this.")
    scale_numeric: Literal["Standard", "MinMax", "Robust", "None"] = Field(
        "Standard", description="Scaling of numbers."
    )
    encode_categorical: Literal["OneHot", "Ordinal"] = Field(
        "OneHot", description="Encoding of categories; unseen ones get a code of their own."
    )


class Split(Model):
    """Which rows are held out."""

    model_config = validated(("!has(self.method) || !has(self.orderColumn)", "give either method or orderColumn"))

    method: Literal["Random", "RowDigest"] | None = Field(
        None,
        description="Random (when absent): by seed, stratified for classification. RowDigest: by what the row is, so"
        " every run holds out the same rows.",
    )
    test_percent: int = Field(20, ge=5, le=50, description="Share of the rows held out.")
    order_column: ColumnName | None = Field(
        None, description="Hold out the last rows by this column, and do not learn from it unless features names it."
    )


_DECIMAL = "^-?[0-9]+([.][0-9]+)?$"


class SearchRange(Model):
    """What one parameter may be."""

    model_config = validated(
        (
            "has(self.values) ? !has(self.low) && !has(self.high) && !has(self.scale)"
            " : has(self.low) && has(self.high)",
            "give either values, or low and high",
        ),
        (
            f"!has(self.low) || !has(self.high) || !self.low.matches('{_DECIMAL}') || !self.high.matches('{_DECIMAL}')"
            " || double(self.low) < double(self.high)",
            "low must be smaller than high",
        ),
        (
            "!has(self.scale) || self.scale != 'Log' || !has(self.low)"
            f" || !self.low.matches('{_DECIMAL}') || double(self.low) > 0.0",
            "scale Log needs a low above 0",
        ),
    )

    parameter: Annotated[str, Field(min_length=1, max_length=64)] = Field(description="Its name.")
    low: Decimal | None = Field(
        None, description="Smallest number, in quotes. Numbers are whole if low and high are written without a point."
    )
    high: Decimal | None = Field(None, description="Largest number, in quotes.")
    scale: Literal["Linear", "Log"] | None = Field(None, description="How the range is drawn from. Absent: Linear.")
    values: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], set_list(32)] | None = Field(
        None, description="The values to try, each read as JSON if it is JSON, else as text."
    )


class Estimator(Model):
    """One estimator of scikit-learn, XGBoost or LightGBM."""

    model_config = validated(
        (
            "!has(self.parameters) || !has(self.search) || self.search.all(s, !(s.parameter in self.parameters))",
            "a parameter is either set in parameters or looked for in search",
        )
    )

    name: EstimatorName = Field(description="Class name.")
    parameters: Annotated[dict[str, Annotated[str, Field(max_length=256)]], Field(max_length=32)] | None = Field(
        None, description="Constructor parameters; each value is read as JSON if it is JSON, else as text."
    )
    search: Annotated[tuple[SearchRange, ...], list_map("parameter", 16, least=1)] | None = Field(
        None, description="Parameters that tuning is to find."
    )


class Tuning(Model):
    """Choice among estimators and search over their parameters, by cross-validation within the training rows."""

    trials: int = Field(20, ge=1, le=1000, description="How many are tried; fewer when there are no more to try.")
    parallelism: int = Field(1, ge=1, le=64, description="Pods that share the trials.")
    metric: MetricName | None = Field(None, description="What to choose by. Absent: Accuracy or RMSE.")
    folds: int = Field(5, ge=2, le=20, description="Parts of the cross-validation.")
    sampler: Literal["TPE", "Random", "Grid", "CMAES"] = Field("TPE", description="What to try next.")
    pruner: Literal["None", "Median", "Hyperband"] = Field(
        "None", description="Which trials to end before their last fold."
    )


class OwnContainer(Model):
    """A trainer of your own; docs/own-trainer.md says what it gets and what it has to leave."""

    image: str = Field(min_length=1, max_length=512, description="Its image, best by digest.", json_schema_extra=_IMAGE)
    command: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], atomic_list(32)] | None = Field(
        None, description="Entry point. Absent: the image's."
    )
    args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], atomic_list(64)] | None = Field(
        None, description="Arguments. Absent: the image's."
    )
    env: EnvVars | None = Field(None, description="Environment variables of the container.")


class Distributed(Model):
    """One training over several pods, each with one process."""

    workers: int = Field(ge=2, le=64, description="Pods.")
    engine: Literal["Torch"] = Field("Torch", description="How they work together: as torchrun and PyTorch do.")


class Requirement(Model):
    """A bound on one held-out metric."""

    model_config = validated(("has(self.minimum) != has(self.maximum)", "give exactly one of minimum and maximum"))

    metric: MetricName = Field(description="Metric.")
    minimum: Decimal | None = Field(None, description="Smallest value allowed, a decimal in quotes.")
    maximum: Decimal | None = Field(None, description="Largest value allowed, a decimal in quotes.")


class SliceRequirement(Requirement):
    """A bound on one metric of each slice."""

    min_rows: int | None = Field(
        None, ge=10, le=2**40, description="Held-out rows that a slice needs to be held to it. Absent: 30."
    )


class Evaluation(Model):
    """What the model must reach on held-out rows."""

    model_config = validated(
        ("!has(self.sliceRequirements) || has(self.slices)", "sliceRequirements need slices, the columns to slice by")
    )

    requirements: Annotated[tuple[Requirement, ...], list_map("metric", 16)] | None = Field(
        None, description="All must hold, or the run fails and nothing is published."
    )
    slices: Annotated[tuple[ColumnName, ...], set_list(8)] | None = Field(
        None, description="Features by whose values held-out rows are also measured in parts."
    )
    slice_requirements: Annotated[tuple[SliceRequirement, ...], list_map("metric", 16)] | None = Field(
        None, description="All must hold in each slice with enough rows, or the run fails and nothing is published."
    )


class Output(Model):
    """Where the bundle goes."""

    model_config = validated(KEYLESS)

    uri: BundleUri = Field(description="Parent folder; the run writes a folder of its own below it.")
    secret_ref: ObjectRef | None = Field(None, description="Secret with the keys to a store.")


_TRACKING_URI = rules(
    (
        "self.matches('^https?://[^\\\\s/?#@]+(/[^\\\\s?#]*)?$')",
        "a tracking server is named http(s)://HOST[:PORT][/PATH], without user name, password or query",
    )
)
_NAMED_PLAINLY = r"^[^\s/:][^/:\x00-\x1f\x7f]*$"
"""Of models and experiments that a URI can name."""


class Tracking(Model):
    """An MLflow server that is told of the run, once its model is published."""

    model_config = validated(("!has(self.alias) || has(self.registeredModel)", "alias needs registeredModel"))

    uri: str = Field(max_length=1024, description="Where it is.", json_schema_extra=_TRACKING_URI)
    experiment: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="Experiment of the run, made if there is none. Absent: last segment of output.uri."
    )
    registered_model: Annotated[str, Field(max_length=256, pattern=_NAMED_PLAINLY)] | None = Field(
        None, description="Registered model that gets the bundle as a version, made if there is none."
    )
    alias: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_-][A-Za-z0-9_-]*$")] | None = Field(
        None, description="Alias that points to that version then."
    )
    secret_ref: ObjectRef | None = Field(
        None, description="Secret with username and password, or token, and ca.crt, for that server."
    )


_REGRESSORS = ",".join(f"'{name}'" for name in get_args(Regressor))
_REGRESSION_METRICS = ",".join(f"'{name}'" for name in get_args(RegressionMetric))


RUN_RULES = (
    (
        "has(self.estimators) != has(self.container)",
        "give exactly one of estimators (built-in trainers) and container (your own)",
    ),
    (
        "!has(self.estimators) || has(self.target) && has(self.task)",
        "estimators need target and task",
    ),
    (
        "!has(self.container) || !has(self.data.checks)"
        " && !has(self.features) && !has(self.preprocessing) && !has(self.split) && !has(self.tuning)"
        " && !has(self.calibration)",
        "data.checks, features, preprocessing, split, tuning and calibration belong to estimators;"
        " your own container does these itself",
    ),
    (
        "!has(self.estimators) || !has(self.task)"
        f" || self.estimators.all(e, (self.task == 'Regression') == (e.name in [{_REGRESSORS}]))",
        "an estimator does not fit the task: classifiers need task Classification, regressors need task Regression",
    ),
    (
        "!has(self.estimators) || !self.estimators.exists(e, e.name.startsWith('Torch'))"
        " || !self.estimators.exists(e, e.name.startsWith('Keras'))",
        "no image has both PyTorch and TensorFlow: choose among estimators of one of them",
    ),
    (
        "!has(self.evaluation) || !has(self.evaluation.requirements) || !has(self.task) ||"
        f" self.evaluation.requirements.all(r, (self.task == 'Regression') == (r.metric in [{_REGRESSION_METRICS}]))",
        "a required metric does not fit the task: R2, MAE, RMSE and MAPE are for Regression,"
        " the others for Classification",
    ),
    (
        "!has(self.evaluation) || !has(self.evaluation.sliceRequirements) || !has(self.task) ||"
        " self.evaluation.sliceRequirements.all(r,"
        f" (self.task == 'Regression') == (r.metric in [{_REGRESSION_METRICS}]))",
        "a metric in sliceRequirements does not fit the task: R2, MAE, RMSE and MAPE are for Regression,"
        " the others for Classification",
    ),
    (
        "!has(self.features) || !has(self.target) ||"
        " !(has(self.features.numeric) && self.target in self.features.numeric"
        " || has(self.features.categorical) && self.target in self.features.categorical"
        " || has(self.features.embeddings) && self.target in self.features.embeddings)",
        "the target must not be among the features",
    ),
    (
        "has(self.tuning) || !has(self.estimators) || self.estimators.size() == 1 && !has(self.estimators[0].search)",
        "several estimators, or a search, need tuning",
    ),
    (
        "!has(self.tuning) || !has(self.tuning.metric) || !has(self.task)"
        f" || (self.task == 'Regression') == (self.tuning.metric in [{_REGRESSION_METRICS}])",
        "tuning.metric does not fit the task: R2, MAE, RMSE and MAPE are for Regression, the others for Classification",
    ),
    (
        "!has(self.calibration) || self.calibration == 'None' || has(self.task) && self.task == 'Classification'",
        "calibration is for task Classification",
    ),
    (
        "!has(self.tuning) || !has(self.estimators) || self.tuning.trials >= self.estimators.size()",
        "tuning.trials must not be smaller than the number of estimators: each is tried at least once",
    ),
    (
        "!has(self.distributed) || !has(self.estimators) || self.estimators.all(e, e.name.startsWith('Torch'))",
        "distributed training needs a Torch estimator or your own container",
    ),
    (
        "!has(self.distributed) || !has(self.tuning)",
        "distributed and tuning exclude each other: tune in single pods, and train what was found in several",
    ),
    (
        "!has(self.estimators) || self.estimators.all(e, e.name != 'TorchImageClassifier')"
        " || self.estimators.size() == 1 && !has(self.preprocessing)"
        " && (!has(self.evaluation) || !has(self.evaluation.slices))",
        "TorchImageClassifier learns from images, not from columns: it goes with no other estimator,"
        " no preprocessing and no evaluation.slices",
    ),
    (
        "!has(self.tuning) || self.tuning.parallelism == 1 || self.output.uri.startsWith('pvc://')",
        "parallel trials meet on the claim of the output: write to pvc://",
    ),
    (
        "!has(self.tuning) || !has(self.estimators) || self.tuning.sampler != 'Grid'"
        " || self.estimators.all(e, !has(e.search) || e.search.all(s, has(s.values)))",
        "sampler Grid needs values in every search, not low and high",
    ),
    (
        "!has(self.tuning) || !has(self.estimators) || self.tuning.sampler != 'CMAES'"
        " || self.estimators.size() == 1 && has(self.estimators[0].search)"
        " && self.estimators[0].search.filter(s, has(s.low)).size() > 1",
        "sampler CMAES needs one estimator with at least two parameters that are searched from low to high",
    ),
    (
        "!has(self.split) || !has(self.split.orderColumn) || !has(self.target)"
        " || self.split.orderColumn != self.target",
        "split.orderColumn must not be the target",
    ),
)


class RunSpec(Model):
    """What a training run is made of; its rules are RUN_RULES."""

    model_config = validated(*RUN_RULES)

    data: Data = Field(description="What to learn from.")
    target: ColumnName | None = Field(None, description="The column to predict.")
    task: Task | None = Field(None, description="What kind of answer the model gives.")
    features: Features | None = Field(
        None, description="Which columns to learn from. Absent: every column but the target, by type."
    )
    preprocessing: Preprocessing | None = Field(
        None, description="How columns are prepared. Absent: the defaults of its fields."
    )
    split: Split | None = Field(
        None, description="Which rows are held out. Absent: 20 % by seed, stratified for classification."
    )
    estimators: Annotated[tuple[Estimator, ...], list_map("name", 8, least=1)] | None = Field(
        None, description="The estimators to choose from; the best by tuning.metric is kept."
    )
    tuning: Tuning | None = Field(None, description="How to choose. Absent: there is one estimator and no search.")
    calibration: Literal["None", "Sigmoid", "Isotonic"] | None = Field(
        None, description="How a classifier's probabilities are made to hold what they say. Absent: None."
    )
    container: OwnContainer | None = Field(None, description="A trainer of your own, in place of estimators.")
    distributed: Distributed | None = Field(None, description="One training over several pods. Absent: one pod.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of every random choice.")
    evaluation: Evaluation | None = Field(None, description="What the model must reach on held-out rows.")
    output: Output = Field(description="Where the bundle goes.")
    tracking: Tracking | None = Field(None, description="An MLflow server that is told of the run. Absent: none.")
    resources: Resources | None = Field(None, description="Compute resources of the pod, as in a Pod.")
    node_selector: NodeSelector | None = Field(None, description="Labels that a node must carry.")
    tolerations: Tolerations | None = Field(None, description="Taints that the pod tolerates, as in a Pod.")
    service_account_name: ObjectName | None = Field(
        None, description="Whose cloud identity the pod has. Absent: default. Its API token is not mounted."
    )
    backoff_limit: int = Field(2, ge=0, le=10, description="How often a failed pod is tried again.")
    active_deadline_seconds: int = Field(
        86400, ge=60, le=2592000, description="Longest time for the whole run, waiting included."
    )
    ttl_seconds_after_finished: int = Field(
        604800, ge=0, le=31536000, description="How long Job and pods are kept after the end. The bundle stays."
    )


class TrainingJobSpec(RunSpec):
    """One training run. It cannot change; a new run is a new TrainingJob."""

    model_config = one_run("TrainingJob", ("suspend", "ttlSecondsAfterFinished"), *RUN_RULES)

    suspend: bool = Field(False, description="Stop the pods and keep the run; it goes on when this is false again.")


MetricValue = Annotated[str, Field(max_length=32, pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$")]


class Progress(Model):
    """How far a run is, in the words of its pod."""

    message: Text | None = Field(None, description="What it does, in a few words.")
    trials_total: Count | None = Field(None, description="Trials that the search is to make.")
    trials_completed: Count | None = Field(None, description="Trials that gave a value, or were pruned.")
    trials_failed: Count | None = Field(None, description="Trials that gave none.")
    best_value: MetricValue | None = Field(None, description="The best value of tuning.metric so far, a decimal.")
    best_estimator: ShortText | None = Field(None, description="What reached it.")


class TrainedModel(Model):
    """The bundle that came out."""

    uri: Annotated[str, Field(max_length=1100)] = Field(description="Where it is.")
    digest: Digest = Field(description="sha256 of its manifest.json.")
    estimator: ShortText | None = Field(None, description="What was fitted.")
    size_bytes: Count | None = Field(None, description="Size of all its files.")


class Metric(Model):
    """One held-out metric."""

    name: ShortText = Field(description="Metric.")
    value: MetricValue = Field(description="Its value, a decimal.")
    slice: Annotated[str, Field(max_length=128)] | None = Field(
        None, description="The part of the rows, column=index. Absent: all of them."
    )


class DataRead(Model):
    """What was read."""

    digest: Digest | None = Field(None, description="sha256.")
    version: Digest | None = Field(
        None, description="sha256 of what was listed before it was read: names, sizes, ETags or times of change."
    )
    rows: Count | None = Field(None, description="Rows.")
    test_rows: Count | None = Field(None, description="Rows held out.")
    columns: Count | None = Field(None, description="Columns.")


class Finding(Model):
    """Something wrong with the data; names and counts, never values."""

    column: Annotated[str, Field(max_length=128)] | None = Field(None, description="Column.")
    rule: ShortText = Field(description="Which rule it breaks.")
    message: Text = Field(description="In words.")
    rows: Count | None = Field(None, description="How many rows.")


class Package(Model):
    """A package that took part."""

    name: ShortText = Field(description="Name.")
    version: ShortText = Field(description="Version.")


class Tracked(Model):
    """What a tracking server made of the run."""

    run_id: ShortText = Field(description="Its run.")
    model_version: ShortText | None = Field(None, description="Version of the registered model.")


class TrainingJobStatus(Model):
    """What happened. Written by the operator alone."""

    observed_generation: ObservedGeneration | None = Field(
        None, description="The metadata.generation that this status describes; -1 until the operator has seen it."
    )
    conditions: Conditions = Field(default_factory=tuple, description="Current state, one entry per type.")
    job_name: Annotated[str, Field(max_length=63)] | None = Field(None, description="The Job that runs it.")
    image: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="Image of the trainer, as the node knows it."
    )
    start_time: Time | None = Field(None, description="When its Job started.")
    completion_time: Time | None = Field(None, description="When it ended.")
    progress: Progress | None = Field(None, description="How far it is; absent when it has ended.")
    model: TrainedModel | None = Field(None, description="The bundle that came out; absent unless it was published.")
    metrics: Annotated[tuple[Metric, ...], atomic_list(32)] | None = Field(
        None, description="Held-out metrics, the most telling one first."
    )
    data: DataRead | None = Field(None, description="What was read.")
    findings: Annotated[tuple[Finding, ...], atomic_list(16)] | None = Field(
        None, description="What was wrong with the data; names and counts, never values."
    )
    tracking: Tracked | None = Field(None, description="What spec.tracking's server made of it; absent: not told.")
    packages: Annotated[tuple[Package, ...], list_map("name", 24)] | None = Field(
        None, description="Versions that matter for doing it again."
    )


TRAINING_JOB = Kind(
    kind="TrainingJob",
    plural="trainingjobs",
    short_name="tjob",
    description="One training run. It cannot change; a new run is a new TrainingJob.",
    spec=TrainingJobSpec,
    status=TrainingJobStatus,
    columns=(
        condition_column("Succeeded", TrainingJobCondition.SUCCEEDED, "status"),
        condition_column("Reason", TrainingJobCondition.SUCCEEDED, "reason"),
        Column("Metric", ".status.metrics[0].name"),
        Column("Score", ".status.metrics[0].value"),
        AGE,
        Column("Model", ".status.model.uri", wide=True),
        condition_column("Message", TrainingJobCondition.SUCCEEDED, "message", wide=True),
    ),
)

"""Choosing among estimators and parameters by cross-validation within the training rows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from holdfast_bundle import manifest
from holdfast_training import columns, evaluation, search, spec
from holdfast_training.errors import TrainingError
from holdfast_training.progress import Progress

TREE = {
    "name": "DecisionTreeClassifier",
    "search": [
        {"parameter": "max_depth", "low": "1", "high": "6"},
        {"parameter": "min_impurity_decrease", "low": "0.0001", "high": "0.1", "scale": "Log"},
        {"parameter": "criterion", "values": ["gini", "entropy"]},
    ],
}
NEIGHBOURS = {"name": "KNeighborsClassifier", "search": [{"parameter": "n_neighbors", "low": "1", "high": "30"}]}


class Log(list[dict[str, Any]]):
    """Lines of a run's log."""

    def __call__(self, event: str, **facts: Any) -> None:
        self.append({"event": event, **facts})

    @property
    def trials(self) -> list[dict[str, Any]]:
        return [line for line in self if line["event"] == "trial"]


def wine(claim: Any, shipped: Path, estimators: list[dict[str, Any]], **tuning: Any) -> dict[str, Any]:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    document: dict[str, Any] = claim.spec(
        uri, "cultivar", "Classification", "", estimators=estimators, tuning={"folds": 3, **tuning}
    )
    return document


def lineage(claim: Any) -> dict[str, Any]:
    return dict(manifest.read(claim.last).lineage)


@pytest.mark.parametrize(
    ("sampler", "pruner"), [("TPE", "None"), ("Random", "Median"), ("TPE", "Hyperband"), ("CMAES", "None")]
)
def test_the_same_search_finds_the_same_and_gives_the_same_digest(
    claim: Any, shipped: Path, sampler: str, pruner: str
) -> None:
    estimators = [TREE] if sampler == "CMAES" else [TREE, NEIGHBOURS]
    digests = set()
    for _ in range(2):
        log = Log()
        document = wine(claim, shipped, estimators, trials=14, sampler=sampler, pruner=pruner)
        digests.add(claim.train(document, log=log)["model"]["digest"])
        assert len(log.trials) == 14
        assert len({json.dumps(trial["parameters"]) for trial in log.trials}) > 5
    assert len(digests) == 1


def test_the_best_trial_is_what_is_served_and_the_bundle_says_how_it_was_found(claim: Any, shipped: Path) -> None:
    log = Log()
    report = claim.train(wine(claim, shipped, [TREE, NEIGHBOURS], trials=8, metric="LogLoss"), log=log)
    best = min(log.trials, key=lambda trial: float(trial["LogLoss"]))
    sealed = lineage(claim)
    assert (sealed["estimator"], sealed["parameters"]) == (best["estimator"], best["parameters"])
    assert (report["model"]["estimator"], report["metrics"][0]["name"]) == (best["estimator"], "LogLoss")
    told = sealed["tuning"]
    assert (told["metric"], told["value"], told["trials"], told["failed"]) == ("LogLoss", best["LogLoss"], 8, 0)
    assert [each["name"] for each in told["estimators"]] == ["DecisionTreeClassifier", "KNeighborsClassifier"]
    again = claim.spec("pvc://models/data.csv", "cultivar", "Classification", best["estimator"])
    again["estimators"][0]["parameters"] = best["parameters"]
    claim.train(again)
    onnx = [(claim.root / "out" / f"run-{run}" / "model.onnx").read_bytes() for run in (1, 2)]
    assert onnx[0] == onnx[1]


def test_a_trial_is_worth_what_scikit_learn_says_of_the_whole_pipeline(claim: Any, shipped: Path) -> None:
    header, *rows = [line.split(",") for line in (shipped / "diabetes.csv").read_text().splitlines()]
    for row in rows[::7]:
        row[2] = ""
    uri = claim.rows("data.csv", header, rows)
    document = claim.spec(
        uri,
        "progression",
        "Regression",
        "KNeighborsRegressor",
        preprocessing={"scaleNumeric": "MinMax", "imputeNumeric": "Mean"},
        tuning={"folds": 4, "metric": "MAE"},
    )
    claim.train(document)
    numbers = np.array([[float(cell or "nan") for cell in row] for row in rows])
    run = spec.parse(json.dumps(document))
    examples = columns.Examples(
        columns.Columns(tuple(header[:-1]), ()),
        columns.Frame(numbers[:, :-1].astype(np.float32), np.empty((len(rows), 0), object)),
        numbers[:, -1],
        (),
    )
    training, _ = evaluation.split(examples, run)
    scores = cross_val_score(
        make_pipeline(SimpleImputer(), MinMaxScaler(), KNeighborsRegressor()),
        numbers[training, :-1],
        numbers[training, -1],
        cv=KFold(4, shuffle=True, random_state=0),
        scoring="neg_mean_absolute_error",
    )
    assert float(lineage(claim)["tuning"]["value"]) == pytest.approx(-scores.mean(), rel=1e-3)


def test_held_out_rows_have_no_say(claim: Any, shipped: Path) -> None:
    header, *rows = [line.split(",") for line in (shipped / "diabetes.csv").read_text().splitlines()]
    tuning = {"trials": 4, "folds": 3}
    ridge = [{"name": "Ridge", "search": [{"parameter": "alpha", "low": "0.01", "high": "100.0", "scale": "Log"}]}]
    found = []
    for wrong in (False, True):
        uri = claim.rows("data.csv", header, rows)
        document = claim.spec(uri, "progression", "Regression", "", estimators=ridge, tuning=tuning)
        report = claim.train(document)
        found.append((lineage(claim)["tuning"], lineage(claim)["parameters"], report["metrics"]))
        if not wrong:
            permuted = np.random.RandomState(0).permutation(len(rows))  # as ShuffleSplit draws by seed 0
            for row in permuted[: report["data"]["testRows"]]:
                rows[row] = [str(float(cell) * 3) for cell in rows[row]]
    assert found[0][:2] == found[1][:2]
    assert found[0][2] != found[1][2]


def test_a_grid_is_walked_once_from_end_to_end(claim: Any, shipped: Path) -> None:
    tree = {
        "name": "DecisionTreeClassifier",
        "parameters": {"min_samples_leaf": "2"},
        "search": [
            {"parameter": "max_depth", "values": ["1", "null"]},
            {"parameter": "criterion", "values": ["gini", "entropy"]},
        ],
    }
    log = Log()
    claim.train(wine(claim, shipped, [tree, {"name": "GaussianNB"}], trials=50, sampler="Grid"), log=log)
    tried = [(trial["estimator"], *sorted(trial["parameters"].items())) for trial in log.trials]
    assert len(tried) == len(set(tried)) == 5
    assert lineage(claim)["tuning"]["trials"] == 5


def test_estimators_without_a_search_are_compared_once_each(claim: Any, shipped: Path) -> None:
    names = ["GaussianNB", "LogisticRegression", "DecisionTreeClassifier"]
    log = Log()
    claim.train(wine(claim, shipped, [{"name": name} for name in names], trials=20), log=log)
    assert [trial["estimator"] for trial in log.trials] == names


def test_every_estimator_is_tried_and_a_repeated_trial_costs_nothing(claim: Any, shipped: Path) -> None:
    log = Log()
    claim.train(wine(claim, shipped, [{"name": "GaussianNB"}, TREE], trials=20, sampler="Random"), log=log)
    repeated = [trial for trial in log.trials if trial["estimator"] == "GaussianNB"]
    assert len(repeated) > 1
    assert len({trial["Accuracy"] for trial in repeated}) == 1
    assert [trial["estimator"] for trial in log.trials[:2]] == ["GaussianNB", "DecisionTreeClassifier"]


def test_trials_that_fail_are_counted_and_stop_nothing(claim: Any, shipped: Path) -> None:
    svc = {"name": "SVC", "search": [{"parameter": "kernel", "values": ["linear", "none such", "rbf"]}]}
    log, progress = Log(), Progress()
    claim.train(wine(claim, shipped, [svc], trials=3, sampler="Grid"), log=log, progress=progress)
    assert Counter(trial["state"] for trial in log.trials) == {"Complete": 2, "Fail": 1}
    assert lineage(claim)["tuning"]["failed"] == 1
    [failed] = [trial for trial in log.trials if trial["state"] == "Fail"]
    assert failed["message"].startswith("SVC: The 'kernel' parameter")
    best = max(float(trial.get("Accuracy", 0)) for trial in log.trials)
    assert progress.to_json() == {
        "message": "publishing",
        "trialsTotal": 3,
        "trialsCompleted": 2,
        "trialsFailed": 1,
        "bestValue": evaluation.formatted(best),
        "bestEstimator": "SVC",
    }


def test_a_search_in_which_all_trials_fail_ends_the_run(claim: Any, shipped: Path) -> None:
    svc = {"name": "LinearSVC", "search": [{"parameter": "C", "low": "1", "high": "2"}]}
    error = claim.failure(wine(claim, shipped, [svc], trials=3, metric="ROCAUC"))
    assert (error.reason, error.exit_code) == ("TuningFailed", 3)
    assert error.message == (
        "none of 3 trials gave a model; 3 of them: ROCAUC cannot be computed: LinearSVC gives no probabilities"
    )


def test_a_pruner_ends_hopeless_trials_before_their_last_fold(claim: Any, shipped: Path) -> None:
    depths = ["6", "7", "8", "9", "10", "1"]
    tree = {"name": "DecisionTreeClassifier", "search": [{"parameter": "max_depth", "values": depths}]}
    log = Log()
    claim.train(wine(claim, shipped, [tree], trials=6, sampler="Grid", pruner="Median"), log=log)
    assert [trial["state"] for trial in log.trials] == ["Complete"] * 5 + ["Pruned"]
    assert lineage(claim)["tuning"]["pruned"] == 1


def test_a_class_with_fewer_rows_than_folds_is_the_datas_fault(claim: Any) -> None:
    uri = claim.rows("data.csv", ["a", "y"], [[i, "a" if i < 30 else "b"] for i in range(40)])
    document = claim.spec(uri, "y", "Classification", "GaussianNB", tuning={"folds": 7}, split={"testPercent": 50})
    error = claim.failure(document)
    assert error.reason == "DataInvalid"
    assert "class 2 of 2 (in sorted order) has 5 training rows; with 7 folds each class needs at" in error.message


def test_several_estimators_without_tuning_are_a_defect_of_the_operator(claim: Any) -> None:
    document = claim.spec("pvc://models/a.csv", "y", "Classification", "", estimators=[{"name": "SVC"}, TREE])
    with pytest.raises(ValueError, match="without tuning"):
        spec.parse(json.dumps(document))


def searching(document: dict[str, Any], address: str | None, worker: int, log: Any) -> search.Search:
    """A search on made-up rows, whose trials take some tenths of a second."""
    run = spec.parse(json.dumps(document))
    random = np.random.default_rng(3)
    numbers = random.normal(size=(600, 8)).astype(np.float32)
    target = (numbers[:, 0] * numbers[:, 1] + random.normal(size=600) > 0).astype(np.int64)
    assert run.tuning is not None
    return search.Search(
        run,
        run.tuning,
        columns.Columns(tuple("abcdefgh"), ()),
        columns.Frame(numbers, np.empty((600, 0), object)),
        target,
        threads=1,
        log=log,
        progress=Progress(),
        storage=None if address is None else search.storage(address),
        worker=worker,
    )


def start(document: dict[str, Any], address: str, worker: int) -> subprocess.Popen[str]:
    code = "import json, sys; from test_search import Log, searching\n"
    code += "searching(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Log()).take_part()"
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(document), address, str(worker)],
        cwd=Path(__file__).parent,
        text=True,
        stderr=subprocess.PIPE,
    )


def forest(claim: Any, trials: int) -> dict[str, Any]:
    items = [
        {"parameter": "n_estimators", "low": "10", "high": "30"},
        {"parameter": "max_features", "low": "0.1", "high": "1.0"},
    ]
    document: dict[str, Any] = claim.spec("pvc://models/none.csv", "y", "Classification", "")
    document |= {"estimators": [{"name": "ExtraTreesClassifier", "search": items}, TREE]}
    return document | {"tuning": {"trials": trials, "folds": 3}}


def wait_for(address: str, reached: Callable[[list[str]], bool], process: subprocess.Popen[str]) -> None:
    storage, states = search.storage(address), list[str]()
    deadline = time.monotonic() + 120
    while not reached(states):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, states
        time.sleep(0.05)
        for study in optuna.get_all_study_summaries(storage):
            states = [
                trial.state.name for trial in optuna.load_study(study_name=study.study_name, storage=storage).trials
            ]


def test_a_search_whose_process_was_killed_goes_on_as_if_it_had_not(claim: Any) -> None:
    document, address = forest(claim, 10), f"journal:{claim.claims / 'journal'}"
    process = start(document, address, 0)
    wait_for(address, lambda states: states.count("COMPLETE") >= 3 and "RUNNING" in states, process)
    process.kill()
    process.wait()
    log = Log()
    resumed = searching(document, address, 0, log).outcome()
    assert 0 < len(log.trials) <= 7
    assert resumed == searching(document, None, 0, Log()).outcome()


def test_processes_that_share_a_storage_share_the_trials(claim: Any) -> None:
    document, address = forest(claim, 8), f"journal:{claim.claims / 'journal'}"
    log = Log()
    leader = searching(document, address, 0, log)
    other = start(document, address, 1)
    outcome = leader.outcome()
    _, words = other.communicate(timeout=120)
    assert other.returncode == 0, words
    (name,) = optuna.get_all_study_names(search.storage(address))
    trials = optuna.load_study(study_name=name, storage=search.storage(address)).get_trials()
    ended = [trial for trial in trials if trial.state is optuna.trial.TrialState.COMPLETE]
    assert len(ended) == outcome.completed == 8
    assert outcome.value == max(trial.value or 0 for trial in ended)


def test_too_few_numbers_for_the_folds_are_said() -> None:
    with pytest.raises(TrainingError, match=r"3 training rows; 2 folds need at least 4"):
        evaluation.folds(np.arange(3.0), "Regression", 2, 0)

"""Choose estimator and parameters by cross-validation within the training rows, as a study of Optuna's.

Every part of the pipeline is fitted on the learning rows of a fold alone, and held-out rows take no part at all.

A study lives in a storage: in memory, or where several processes find it. Each takes part until all trials have ended;
one of them then asks for the best. What a trial tries depends on the seed and on the trials before it, never on the
process: a search that is interrupted goes on as if it had not been.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from holdfast_training import evaluation, fitting
from holdfast_training.columns import Columns, Frame
from holdfast_training.errors import TrainingError
from holdfast_training.progress import Progress
from holdfast_training.spec import Candidate, Range, Run, Tuning

JOURNAL = "journal:"
_POLL_SECONDS = 0.5
_ESTIMATOR, _WORKER, _FAILURE = "estimator", "worker", "failure"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

optuna.logging.set_verbosity(optuna.logging.ERROR)  # trials are logged as lines of JSON


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search came to.

    Attributes:
        candidate: the best one, with the parameters that were found; as text, as in a spec.
        value: the mean of the metric over the folds.
        completed, pruned, failed: how many trials ended how.
    """

    candidate: Candidate
    value: float
    completed: int
    pruned: int
    failed: int


def storage(address: str) -> BaseStorage:
    """Where processes meet: `journal:PATH`, a file that all of them can write, or the URL of a database."""
    if address.startswith(JOURNAL):
        path = address.removeprefix(JOURNAL)
        return JournalStorage(JournalFileBackend(path, _Lock(path)))
    return RDBStorage(address)


class _Lock(JournalFileOpenLock):
    """The kernel's, which goes with its process; Optuna's own are files, which stay when a process is killed."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.lock"
        self._file = -1

    def acquire(self) -> bool:
        self._file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o660)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self._file)


class Search:
    """The search of one run, and this process's part in it."""

    def __init__(
        self,
        run: Run,
        tuning: Tuning,
        columns: Columns,
        features: Frame,
        target: npt.NDArray[Any],
        *,
        threads: int,
        log: Callable[..., None],
        progress: Progress,
        order: npt.NDArray[np.int64] | None = None,
        storage: BaseStorage | None = None,
        name: str = "search",
        worker: int = 0,
    ) -> None:
        """features, target, order: of the training rows. name: of the study in the storage, where there are others.
        worker: which of the processes this is; 0 leads.

        Raises:
            TrainingError: `DataInvalid` when a class has too few rows for the folds.
        """
        self._run, self._tuning, self._columns = run, tuning, columns
        self._features, self._target = features, target
        self._threads, self._log, self._progress, self._worker = threads, log, progress, worker
        self._folds = evaluation.folds(target, run.task, tuning.folds, run.seed, order)
        self._sign = 1.0 if tuning.metric in evaluation.SMALLER_IS_BETTER else -1.0
        self._fixed = _enumerated(run, tuning)
        self.total = tuning.trials if self._fixed is None else min(tuning.trials, len(self._fixed))
        self._study = optuna.create_study(
            study_name=name,
            direction="minimize" if self._sign > 0 else "maximize",
            storage=storage,
            pruner=_pruner(tuning),
            load_if_exists=True,
        )
        self._prepare()

    def take_part(self) -> None:
        """Carry out trials until none is left to begin."""
        while (trial := self._next()) is not None:
            self._carry_out(trial)
            self._tell()

    def outcome(self) -> Outcome:
        """Wait until every trial has ended, carrying out those that others left behind, and say what came of it.

        Raises:
            TrainingError: `TuningFailed` when no trial gave a model.
        """
        while True:
            self.take_part()
            ended = [trial for trial in self._counted() if trial.state in _ENDED]
            if len(ended) >= self.total:
                break
            time.sleep(_POLL_SECONDS)
        by_state = Counter(trial.state for trial in ended)
        best = self._best(ended)
        if best is None:
            failures = Counter(str(trial.user_attrs[_FAILURE]) for trial in ended)
            message, times = failures.most_common(1)[0]
            raise TrainingError("TuningFailed", f"none of {self.total} trials gave a model; {times} of them: {message}")
        return Outcome(
            self._candidate(best.params),
            self._sign * self._cost(best),
            by_state[TrialState.COMPLETE],
            by_state[TrialState.PRUNED],
            by_state[TrialState.FAIL],
        )

    def _prepare(self) -> None:
        """Queue what is to be tried in any case, and again what an earlier process of this worker left behind."""
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial.user_attrs.get(_WORKER) == self._worker:
                self._study.tell(trial.number, state=TrialState.FAIL)
                self._study.enqueue_trial(trial.params)
        if trials or self._worker > 0:
            return
        if self._fixed is not None:
            for parameters in self._fixed[: self.total]:
                self._study.enqueue_trial(parameters)
        elif len(self._run.estimators) > 1:
            for candidate in self._run.estimators:
                self._study.enqueue_trial({_ESTIMATOR: candidate.name})

    def _next(self) -> Trial | None:
        begun = len(self._counted())
        if begun >= self.total:
            return None
        self._study.sampler = _sampler(self._tuning, self._seed(begun))
        trial = self._study.ask()
        trial.set_user_attr(_WORKER, self._worker)
        # Others may have asked at the same moment: those with the smaller numbers count.
        if sum(other.number < trial.number for other in self._counted()) >= self.total:
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        return trial

    def _seed(self, begun: int) -> int:
        return int(np.random.SeedSequence((self._run.seed, begun)).generate_state(1)[0])

    def _counted(self) -> list[FrozenTrial]:
        """Trials that have begun, without those that were given up (which failed, but for no reason)."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state is not TrialState.WAITING
            and (trial.state is not TrialState.FAIL or _FAILURE in trial.user_attrs)
        ]

    def _carry_out(self, trial: Trial) -> None:
        started = time.monotonic()
        candidate = self._suggest(trial)
        earlier = self._same(trial)
        value, failure = None, None
        state = TrialState.COMPLETE
        if earlier is not None:
            state, value, failure = earlier.state, earlier.value, earlier.user_attrs.get(_FAILURE)
        else:
            try:
                state, value = self._validate(candidate, trial)
            except TrainingError as error:
                state, failure = TrialState.FAIL, error.message
            except Exception as error:  # whatever a library makes of odd parameters: another trial may do better
                traceback.print_exc()
                kind = type(error).__name__
                state, failure = TrialState.FAIL, f"{candidate.name} failed ({kind}); the pod's log has the details"
        if failure is not None:
            trial.set_user_attr(_FAILURE, failure)
        self._study.tell(trial, value if state is TrialState.COMPLETE else None, state)
        facts: dict[str, Any] = {"number": trial.number, "state": state.name.capitalize(), "estimator": candidate.name}
        facts |= {"parameters": dict(candidate.parameters), "seconds": round(time.monotonic() - started, 2)}
        if value is not None:
            facts[self._tuning.metric] = evaluation.formatted(value)
        if failure is not None:
            facts["message"] = failure
        self._log("trial", **facts)

    def _same(self, trial: Trial) -> FrozenTrial | None:
        """A trial that has ended and tried the very same: it would end alike."""
        return next(
            (other for other in self._counted() if other.state in _ENDED and other.params == trial.params), None
        )

    def _validate(self, candidate: Candidate, trial: Trial) -> tuple[TrialState, float]:
        """How the trial ends, with the mean over the folds that were looked at. Raises TrainingError."""
        scores: list[float] = []
        for fold, (learned, judged) in enumerate(self._folds, 1):
            scores.append(self._score(candidate, learned, judged))
            trial.report(float(np.mean(scores)), fold)
            if fold < len(self._folds) and trial.should_prune():
                return TrialState.PRUNED, float(np.mean(scores))
        return TrialState.COMPLETE, float(np.mean(scores))

    def _score(self, candidate: Candidate, learned: evaluation.Rows, judged: evaluation.Rows) -> float:
        features, target = self._features.take(learned), self._target[learned]
        model, _ = fitting.fit(self._run, candidate, self._columns, features, target, self._threads)
        answers = model.answer(self._features.take(judged))
        return evaluation.measure_one(self._tuning.metric, model, answers, self._target[judged])

    def _suggest(self, trial: Trial) -> Candidate:
        candidates = self._run.estimators
        if len(candidates) > 1:
            trial.suggest_categorical(_ESTIMATOR, [candidate.name for candidate in candidates])
        chosen = self._chosen(trial.params)
        for searched in chosen.search:
            _suggest(trial, chosen, searched)
        return self._candidate(trial.params)

    def _chosen(self, params: dict[str, Any]) -> Candidate:
        name = params.get(_ESTIMATOR, self._run.estimators[0].name)
        return next(candidate for candidate in self._run.estimators if candidate.name == name)

    def _candidate(self, params: dict[str, Any]) -> Candidate:
        """What a trial tries: what the spec sets, and what was suggested."""
        chosen = self._chosen(params)
        found = {item.parameter: _text(params[_key(chosen, item)]) for item in chosen.search}
        return replace(chosen, parameters={**chosen.parameters, **found})

    def _cost(self, trial: FrozenTrial) -> float:
        """The smaller the better."""
        return self._sign * float(trial.value or 0)

    def _best(self, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """Of equals the first."""
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        return min(complete, key=lambda trial: (self._cost(trial), trial.number), default=None)

    def _tell(self) -> None:
        ended = [trial for trial in self._counted() if trial.state in _ENDED]
        failed = sum(trial.state is TrialState.FAIL for trial in ended)
        facts: dict[str, Any] = {"trialsCompleted": len(ended) - failed, "trialsFailed": failed}
        if (best := self._best(ended)) is not None:
            facts["bestValue"] = evaluation.formatted(float(best.value or 0))
            facts["bestEstimator"] = self._chosen(best.params).name
        self._progress.say(f"{len(ended)} of {self.total} trials done", trialsTotal=self.total, **facts)


def _enumerated(run: Run, tuning: Tuning) -> list[dict[str, str]] | None:
    """Everything that there is to try, in the spec's order; None when a sampler draws."""
    if tuning.sampler != "Grid" and any(candidate.search for candidate in run.estimators):
        return None
    return [parameters for candidate in run.estimators for parameters in _grid(run, candidate)]


def _grid(run: Run, candidate: Candidate) -> Iterator[dict[str, str]]:
    named = {_ESTIMATOR: candidate.name} if len(run.estimators) > 1 else {}
    keys = [_key(candidate, item) for item in candidate.search]
    for values in itertools.product(*(item.values for item in candidate.search)):
        yield {**named, **dict(zip(keys, values, strict=True))}


def _sampler(tuning: Tuning, seed: int) -> optuna.samplers.BaseSampler:
    if tuning.sampler == "TPE":
        return optuna.samplers.TPESampler(seed=seed)
    random = optuna.samplers.RandomSampler(seed=seed)
    if tuning.sampler == "CMAES":
        return optuna.samplers.CmaEsSampler(seed=seed, independent_sampler=random, warn_independent_sampling=False)
    return random


def _pruner(tuning: Tuning) -> optuna.pruners.BasePruner:
    if tuning.pruner == "Median":
        return optuna.pruners.MedianPruner()
    if tuning.pruner == "Hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=tuning.folds)
    return optuna.pruners.NopPruner()


def _suggest(trial: Trial, candidate: Candidate, searched: Range) -> None:
    key, log = _key(candidate, searched), searched.scale == "Log"
    if searched.values:
        trial.suggest_categorical(key, searched.values)
    elif all(re.fullmatch(r"-?[0-9]+", bound) for bound in (searched.low, searched.high)):
        trial.suggest_int(key, int(searched.low), int(searched.high), log=log)
    else:
        trial.suggest_float(key, float(searched.low), float(searched.high), log=log)


def _key(candidate: Candidate, searched: Range) -> str:
    """A name of the study: estimators may have parameters of the same name."""
    return f"{candidate.name}.{searched.parameter}"


def _text(value: str | int | float) -> str:
    return value if isinstance(value, str) else repr(value)

"""The gate: a challenger against the champion, before any of its answers reach a user.

Both answer the same labelled rows, which the challenger has not learned from. It passes when it takes and gives what
the champion does, answers no worse, on no part of the rows much worse, and is not much slower. Whatever cannot be told
counts against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from holdfast_bundle.credentials import Credentials
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.web import Web
from holdfast_training import comparison, contender, data, evaluation, latency, paired, signature, slices, spec, unseen
from holdfast_training.access import NOBODY, Access
from holdfast_training.columns import Columns, Frame
from holdfast_training.comparison import MIN_ROWS, Row
from holdfast_training.contender import Contender, Golden, Said
from holdfast_training.data import Data
from holdfast_training.errors import count
from holdfast_training.evaluation import formatted
from holdfast_training.listing import PRODUCTION
from holdfast_training.paired import METRICS, Mask, Paired
from holdfast_training.signature import Feeds
from holdfast_training.spec import Run, Task, Tracking

Log = Callable[..., None]

UNNOTICED_SECONDS = 0.0005
"""So much slower a challenger may be, even where the percentage allows less: no client would notice."""

_OTHERS = ("BalancedAccuracy", "F1", "ROCAUC", "LogLoss", "MAE", "R2")
_CHALLENGER_ONLY = "the challenger has not learned from (of the champion nobody knows)"
_LATENCY_ROWS = 64
_MAX_WORDS = 600


@dataclass(frozen=True, slots=True)
class Pinned:
    """A model by place and digest.

    Attributes:
        secret: of the champion: names the Secret with the keys to its place. The challenger is its run's output.
    """

    uri: str
    digest: str
    secret: str


@dataclass(frozen=True, slots=True)
class Gate:
    """What is to be compared, and what the challenger may lose.

    Attributes:
        rows: labelled data as a spec names them; None for those that the challenger's run held out.
        learned: the data of the challenger's run, as a spec names them.
        slices: columns that part the rows.
        run: that run; None for a trainer of somebody's own.
        secret, service_account: what that run's pod was given for its output, and was.
        max_loss, max_slice_loss: as `paired` counts losses.
        max_latency: how many times the champion's 95th percentile the challenger's may be.
        tracking: names the challenger's version of a registered model, and the alias for one that passes.
    """

    champion: Pinned
    challenger: Pinned
    rows: Mapping[str, Any] | None
    learned: Mapping[str, Any]
    slices: tuple[str, ...]
    run: Run | None
    target: str | None
    task: Task | None
    secret: str
    service_account: str
    comparison: Literal["NonInferior", "Superior"]
    max_loss: float
    max_slice_loss: float
    max_latency: float
    tracking: Tracking | None


def parse(text: str) -> Gate:
    """The gate of `HOLDFAST_GATE`. Raises ValueError or KeyError when it is not one."""
    document: dict[str, Any] = json.loads(text)
    training = document["training"]
    if document["comparison"] not in ("NonInferior", "Superior"):
        raise ValueError(f"unknown comparison {document['comparison']!r}")
    return Gate(
        champion=_pinned(document["champion"]),
        challenger=_pinned(document["challenger"]),
        rows=document.get("data"),
        learned=training["data"],
        slices=tuple(training.get("slices", ())),
        run=None if "container" in training else spec.of(training),
        target=training.get("target"),
        task=training.get("task"),
        secret=spec.secret_of(training["output"]),
        service_account=training.get("serviceAccountName", ""),
        comparison=document["comparison"],
        max_loss=document["maxLossPerMille"] / 1000,
        max_slice_loss=document["maxSliceLossPerMille"] / 1000,
        max_latency=document["maxLatencyPercent"] / 100,
        tracking=spec.tracking_of(document),
    )


def _pinned(section: Mapping[str, Any]) -> Pinned:
    return Pinned(section["uri"], section["digest"], spec.secret_of(section))


def judge(
    gate: Gate,
    *,
    scratch: Path,
    threads: int = 1,
    log: Log = lambda event, **facts: None,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
    access: Access = NOBODY,
) -> dict[str, Any]:
    """Compare the two and return what goes into the termination message.

    Raises:
        TrainingError: with any of its reasons, when they cannot be compared. The challenger has not passed then.
    """

    def loaded(role: str, model: Pinned, credentials: Credentials) -> Contender:
        folder = scratch / role
        return contender.load(
            role, model.uri, model.digest, folder, threads=threads, claims=claims, web=web, credentials=credentials
        )

    def located(place: str, source: Mapping[str, Any]) -> Data:
        (scratch / place).mkdir()
        return data.locate(
            source["uri"],
            source.get("digest"),
            source.get("format"),
            scratch=scratch / place,
            claims=claims,
            web=web,
            credentials=access.to(place, spec.secret_of(source)),
        )

    champion = loaded("champion", gate.champion, access.to("champion", gate.champion.secret))
    challenger = loaded("challenger", gate.challenger, access.to("output", gate.secret))
    log("loaded", champion=gate.champion.digest, challenger=gate.challenger.digest)
    table = [_signature(champion, challenger)]
    if table[0].result == "Failed":
        return _report(table, 0, "")
    target, task, run = gate.target, gate.task, gate.run
    if target is None or task is None:
        words = "the template says no target and task, so nobody can tell right answers from wrong ones"
        return _report([*table, Row("Answers", "Failed", words=words)], 0, "")

    source = located("data", gate.learned)
    layout = signature.layout(challenger.inputs, challenger.matrices, source.columns, target)
    features = signature.features(challenger.inputs, layout)
    learned = rows = unseen.labelled(source, target, task, features, run)
    if gate.rows is not None:
        rows = unseen.labelled(located("rows", gate.rows), target, task, features)
    usable = unseen.unseen(challenger.manifest, target, task, run, learned, rows.digests)
    picked = np.flatnonzero(usable) if usable is not None else np.empty(0, np.intp)
    log("read", digest=rows.digest, rows=len(rows.digests), unseen=len(picked))
    if few := _too_few(METRICS[task], usable):
        return _report([*table, few], len(picked), "")

    examples = rows.examples
    feeds = signature.feeds(challenger.inputs, layout, examples.columns, examples.features.take(picked))
    truth = examples.target[picked]
    judged = _answered(target, task, truth, champion.says(task, feeds), challenger.says(task, feeds))
    pair = judged.pair
    table += (
        comparison.superior(pair) if gate.comparison == "Superior" else comparison.non_inferior(pair, gate.max_loss)
    )
    table += _golden(task, champion, challenger)
    table.append(_latency(gate.max_latency, champion, challenger, feeds))
    table += judged.others()
    table.append(Row("SizeBytes", "Skipped", champion.size, challenger.size))
    known = unseen.unseen(challenger.manifest, target, task, run, learned, learned.digests)
    taught = learned.examples.features.take(np.flatnonzero(~known)) if known is not None else examples.features
    parts = _slices(gate.slices, METRICS[task], examples.columns, taught, examples.features.take(picked))
    table += comparison.slices(pair, parts, gate.max_slice_loss)
    table += judged.recalls()
    log("compared", **{row.name: row.result for row in table})
    fair = unseen.unseen(champion.manifest, target, task, run, learned, rows.digests)
    who = "neither has learned from" if fair is not None and fair[picked].all() else _CHALLENGER_ONLY
    return _report(table, len(picked), f"on {count(len(picked), 'row')} that {who}")


def _signature(champion: Contender, challenger: Contender) -> Row:
    words = signature.difference("inputs", champion.inputs, challenger.inputs)
    words = words or signature.difference("outputs", champion.outputs, challenger.outputs)
    return Row("Signature", "Failed" if words else "Passed", words=words)


def _too_few(metric: str, usable: Mask | None) -> Row | None:
    """Why nothing can be compared; None when there are rows enough."""
    if usable is None:
        words = (
            "nobody can tell which rows the challenger has not learned from, for its data have changed since; "
            "use split.method RowDigest"
        )
        return Row(metric, "Failed", words=words)
    if (number := int(usable.sum())) >= MIN_ROWS:
        return None
    words = (
        f"of {count(len(usable), 'row')} there are {number:,} that the challenger has not learned from, and at least "
        f"{MIN_ROWS} are needed; give more labelled rows"
    )
    return Row(metric, "Failed", words=words)


def _golden(task: Task, champion: Contender, challenger: Contender) -> list[Row]:
    """Each answers its own golden requests as its trainer said; how often they agree on the champion's is said."""
    rows = []
    if own := [golden.is_answered_by(challenger.run(golden.asked)) for golden in challenger.golden]:
        words = "the challenger answers its own golden requests otherwise than its trainer wrote down"
        rows.append(Row("OwnGoldenAnswers", "Passed" if all(own) else "Failed", None, _share(own), 1, words))
    if task == "Classification" and champion.golden:
        ours, theirs = ([_agrees(model, golden) for golden in champion.golden] for model in (champion, challenger))
        rows.append(Row("GoldenAnswers", "Skipped", _share(ours), _share(theirs)))
    return rows


def _agrees(model: Contender, golden: Golden) -> bool:
    """Whether the label is the one that is written down."""
    name = model.answer_name("Classification")
    return name in golden.answers and np.array_equal(model.run(golden.asked)[name], golden.answers[name])


def _share(held: Sequence[bool]) -> float:
    return sum(held) / len(held)


def _latency(most: float, champion: Contender, challenger: Contender, feeds: Feeds) -> Row:
    """The 95th percentile of a request of one row, in milliseconds."""
    rows = min(_LATENCY_ROWS, len(next(iter(feeds.values()))))
    singles = [{name: values[row : row + 1] for name, values in feeds.items()} for row in range(rows)]
    took = latency.compare(
        lambda number: champion.run(singles[number % rows]), lambda number: challenger.run(singles[number % rows])
    )
    limit = took.champion * most
    if most >= 1:
        limit = max(limit, took.champion + UNNOTICED_SECONDS)
    holds = took.challenger <= limit
    words = (
        f"a row takes {formatted(1000 * took.challenger)} ms (p95), more than {formatted(1000 * limit)} ms "
        f"(champion {formatted(1000 * took.champion)} ms)"
    )
    return Row(
        "LatencyP95Milliseconds",
        "Passed" if holds else "Failed",
        champion=1000 * took.champion,
        challenger=1000 * took.challenger,
        limit=1000 * limit,
        words=words,
    )


@dataclass(frozen=True, slots=True)
class _Answered:
    """Rows with what both say about them."""

    target: str
    task: Task
    truth: npt.NDArray[Any]
    champion: Said
    challenger: Said

    @property
    def pair(self) -> Paired:
        made = paired.numbers if self.task == "Regression" else paired.labels
        return made(self.truth, self.champion.values, self.challenger.values)

    def recalls(self) -> list[Row]:
        """Of each class, by its number in sorted order. They decide nothing: when a class has become more frequent than
        it was, a better model misses more of the others."""
        if self.task == "Regression":
            return []
        rows = []
        for index, name in enumerate(np.unique(self.truth)):
            own = self.truth == name
            theirs, its = (float(np.mean(said.values[own] == name)) for said in (self.champion, self.challenger))
            rows.append(Row(_part("Recall", self.target, index), "Skipped", theirs, its))
        return rows

    def others(self) -> list[Row]:
        """Metrics that decide nothing."""
        ours, theirs = self._measured(self.champion), self._measured(self.challenger)
        return [Row(name, "Skipped", ours[name], theirs[name]) for name in _OTHERS if name in ours and name in theirs]

    def _measured(self, said: Said) -> dict[str, float]:
        if self.task == "Regression":
            return evaluation.measure_numbers(self.truth, said.values)
        if said.classes is not None and np.isin(self.truth, said.classes).all():
            return evaluation.measure_classes(self.truth, said.values, said.probabilities, said.classes)
        classes = np.unique(np.concatenate([self.truth, self.champion.values, self.challenger.values]))
        return evaluation.measure_classes(self.truth, said.values, None, classes)


def _slices(
    names: Sequence[str], metric: str, columns: Columns, taught: Frame, judged: Frame
) -> Iterator[tuple[str, Mask]]:
    """Parts of the rows that are judged by themselves, as the trainer makes and numbers them."""
    slices.check(names, columns)
    for name in names:
        for index, _, rows in slices.parts(name, columns, taught, judged):
            if len(rows):
                part = np.zeros(len(judged), bool)
                part[rows] = True
                yield _part(metric, name, index), part


def _part(metric: str, column: str, index: int) -> str:
    """The name of a part: by column and number, never by the text of a category. At most 64 characters."""
    room = 64 - len(f"{metric} ={index}")
    return f"{metric} {column if len(column) <= room else column[: room - 1] + '…'}={index}"


def _answered(target: str, task: Task, truth: npt.NDArray[Any], champion: Said, challenger: Said) -> _Answered:
    """Labels in a form in which equal ones are equal: whole numbers, or all of them texts."""
    kinds = {values.dtype.kind for values in (truth, champion.values, challenger.values)}
    if task == "Regression" or kinds == {"i"}:
        return _Answered(target, task, truth, champion, challenger)
    return _Answered(target, task, truth.astype(str), champion.as_texts(), challenger.as_texts())


def _report(table: Sequence[Row], rows: int, where: str) -> dict[str, Any]:
    failed = [row for row in table if row.result == "Failed"]
    if failed:
        message = "; ".join(row.words for row in failed if row.words) + (f" ({where})" if where else "")
    else:
        main = table[1]
        challenger, champion = (formatted(value or 0) for value in (main.challenger, main.champion))
        message = f"{main.name} {challenger} against {champion} {where}"
    return {
        "result": "Completed",
        "passed": not failed,
        "message": message if len(message) <= _MAX_WORDS else message[: _MAX_WORDS - 1] + "…",
        "rows": rows,
        "gate": [row.to_json() for row in table[: comparison.MAX_ROWS]],
    }

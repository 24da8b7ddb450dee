"""The road from a table to Parquet files with a model's answers, one pod's share of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from holdfast_bundle.manifest import Tensor
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.web import Web
from holdfast_training.access import Access
from holdfast_training.batch import bins, inputs, model, source
from holdfast_training.batch.bins import Tally
from holdfast_training.batch.inputs import Input
from holdfast_training.batch.model import Model
from holdfast_training.batch.parts import Part, Parts
from holdfast_training.batch.source import Source
from holdfast_training.batch.spec import Batch
from holdfast_training.data import PRODUCTION
from holdfast_training.errors import TrainingError, count, listed
from holdfast_training.progress import Progress

Log = Callable[..., None]
Faults = Counter[tuple[str, str]]


def score(
    batch: Batch,
    parts: Parts,
    *,
    scratch: Path,
    threads: int = 1,
    log: Log = lambda event, **facts: None,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
    access: Access = Access(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score the shards of this pod that are not there yet, and return what goes into the termination message.

    The pod that finds the last missing shard there sums up, and says so in `_SUCCESS`.

    Raises:
        TrainingError: with any of its reasons; shards that are done stay.
    """
    if summary := parts.summary():
        log("found", message="this run is already done", uri=str(parts.uri))
        return summary["report"]  # type: ignore[no-any-return]
    parts.open()
    loaded = model.load(
        batch.model_uri,
        batch.model_digest,
        _folder(scratch, "model"),
        threads=threads,
        claims=claims,
        web=web,
        credentials=access.to("storage", batch.model_secret),
    )
    log("loaded", uri=batch.model_uri, digest=loaded.digest)
    rows = source.locate(
        batch.input_uri,
        batch.input_digest,
        batch.input_format,
        scratch=_folder(scratch, "data"),
        claims=claims,
        web=web,
        credentials=access.to("data", batch.input_secret),
    )
    log("located", uri=str(rows.uri), files=len(rows.names), version=rows.version)
    scorer = _Scorer(batch, rows, loaded)
    for shard in batch.own:
        if progress:
            done = parts.done()
            progress.say(f"{done} of {count(batch.shards, 'shard')}", shardsSucceeded=done)
        if notes := parts.notes(shard):
            _agree(batch, rows, scorer, shard, notes)
            log("skipped", shard=shard, rows=notes["rowsRead"])
            continue
        started = time.monotonic()
        with parts.writing(shard, scorer.schema) as part:
            notes = scorer.score(shard, part)
            part.seal(notes)
        log("scored", shard=shard, rows=notes["rowsRead"], seconds=round(time.monotonic() - started, 2))
    every = parts.all_notes()
    return {"result": "Partial"} if every is None else _finished(batch, parts, rows, scorer, every)


class _Scorer:
    """Scores shards of one source with one model."""

    def __init__(self, batch: Batch, rows: Source, loaded: Model) -> None:
        """Raises TrainingError where columns, types and names do not fit together."""
        self._batch, self._rows, self._model = batch, rows, loaded
        first = rows.first_of(batch.own, batch.shards)
        present = rows.columns(first)
        self._inputs: tuple[Input, ...] = inputs.assigned(loaded.inputs, present, batch.keep)
        if missing := [name for name in batch.keep if name not in present]:
            words = f"keepColumns names {listed(missing)}, which the input does not have"
            raise TrainingError("ColumnNotFound", f"{words}; the columns there are: {listed(present)}")
        answers = [tensor.name for tensor in loaded.outputs]
        if taken := [name for name in batch.keep if name in answers]:
            words = f"keepColumns names {listed(taken)}, and so does the model call an answer"
            raise TrainingError("InputInvalid", f"{words}; rename the column")
        self.schema = pa.schema([*rows.fields(first, batch.keep), *(model.field(tensor) for tensor in loaded.outputs)])
        self.columns = [[field.name, str(field.type)] for field in self.schema]
        needed = (name for each in self._inputs for name in each.columns)
        self._columns = tuple(dict.fromkeys((*batch.keep, *needed)))
        self.tally = Tally(loaded.profile)

    @property
    def digest(self) -> str:
        """Of the model."""
        return self._model.digest

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Of the model."""
        return self._model.outputs

    def score(self, shard: int, part: Part) -> dict[str, Any]:
        """Write the answers of a shard; what is to be known of it.

        Raises TrainingError `TooManyBadRows` at the first bad row where none is allowed.
        """
        read = bad = 0
        faults: Faults = Counter()
        tally = Tally(self._model.profile)
        for chunk in self._rows.shard(shard, self._batch.shards, self._columns):
            feeds = inputs.read(chunk.table, self._inputs)
            read += chunk.table.num_rows + chunk.broken
            bad += chunk.table.num_rows - int(feeds.readable.sum()) + chunk.broken
            faults += feeds.faults
            if chunk.broken:
                faults["", "another number of cells than the header"] += chunk.broken
            if bad and not self._batch.max_bad:
                raise TrainingError("TooManyBadRows", _too_many(bad, read, faults, 0))
            if feeds.readable.any():
                part.write(self._answered(chunk.table, feeds, tally))
        return {
            "version": self._rows.version,
            "model": self._model.digest,
            "columns": self.columns,
            "rowsRead": read,
            "rowsBad": bad,
            "faults": [[column, fault, rows] for (column, fault), rows in sorted(faults.items())],
            "bins": tally.counts,
        }

    def _answered(self, table: pa.Table, feeds: inputs.Feeds, tally: Tally) -> pa.Table:
        answers = self._model.answer(feeds.arrays, self._batch.batch_rows)
        tally.add(feeds.arrays, answers)
        kept = table.select(list(self._batch.keep)).filter(pa.array(feeds.readable))
        columns = [model.column(tensor, answers[tensor.name]) for tensor in self._model.outputs]
        if kept.schema.types != self.schema.types[: len(self._batch.keep)]:
            raise _mixed(self._rows)
        return pa.Table.from_arrays([*kept.columns, *columns], schema=self.schema)


def _finished(
    batch: Batch, parts: Parts, rows: Source, scorer: _Scorer, every: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Say that the run is done, which must have had one model and one input. Its report; raises TrainingError."""
    for shard, notes in enumerate(every):
        _agree(batch, rows, scorer, shard, notes)
    if not rows.is_unchanged():
        raise _changed(rows)
    report = _summed(batch, parts, scorer, every)
    outputs = [{"name": tensor.name, "labels": list(tensor.labels)} for tensor in scorer.outputs]
    parts.succeed({"report": report, "outputs": outputs, "inputVersion": rows.version})
    return report


def _agree(batch: Batch, rows: Source, scorer: _Scorer, shard: int, notes: Mapping[str, Any]) -> None:
    if notes["model"] != scorer.digest:
        words = f"{batch.model_uri} is {scorer.digest} now, and shard {shard} was scored by {notes['model']}"
        raise TrainingError("DigestMismatch", f"{words}; pin model.digest in a new run")
    if notes["version"] != rows.version:
        raise _changed(rows)
    if notes["columns"] != scorer.columns:
        raise _mixed(rows)


def _mixed(rows: Source) -> TrainingError:
    return TrainingError(
        "InputInvalid", f"{rows.uri}: a column of keepColumns does not have the same type in all files"
    )


def _changed(rows: Source) -> TrainingError:
    words = f"{rows.uri} has changed since the run began; score what is there now in a new run"
    return TrainingError("InputInvalid", words)


def _summed(batch: Batch, parts: Parts, scorer: _Scorer, every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The report of the whole run. Raises TrainingError `TooManyBadRows`."""
    read, bad = (sum(notes[name] for notes in every) for name in ("rowsRead", "rowsBad"))
    faults: Faults = Counter()
    counts: dict[str, list[int]] = {}
    for notes in every:
        for column, fault, rows in notes["faults"]:
            faults[column, fault] += rows
        for name, found in notes["bins"].items():
            counts[name] = [one + other for one, other in zip(counts.get(name, [0] * len(found)), found, strict=True)]
    if 1000 * bad > batch.max_bad * read:
        raise TrainingError("TooManyBadRows", _too_many(bad, read, faults, batch.max_bad))
    report: dict[str, Any] = {
        "result": "Completed",
        "message": inputs.in_words(faults),
        "model": {"uri": batch.model_uri, "digest": every[0]["model"]},
        "outputURI": str(parts.uri),
        "rowsRead": read,
        "rowsWritten": read - bad,
        "rowsBad": bad,
        "shards": batch.shards,
    }
    if scorer.tally.rows:
        report["drift"] = {
            "rows": read - bad,
            "referenceRows": scorer.tally.rows,
            "features": bins.differences(scorer.tally.bins(), scorer.tally.rows, counts),
        }
    return report


def _too_many(bad: int, read: int, faults: Faults, allowed: int) -> str:
    words = (
        f"{bad:,} of the first {count(read, 'row')} of a shard" if not allowed else f"{bad:,} of {count(read, 'row')}"
    )
    limit = f"maxBadRowsPerMille is {allowed}"
    return f"{words} cannot be read ({limit}): {inputs.in_words(faults)}"


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir()
    return folder

"""Scoring a batch: every row once, in order, whatever happens on the way; and what is said of it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.serving import models
from tests.unit.training.conftest import Claim, table_of

from holdfast_bundle import manifest
from holdfast_training.batch import source, spec
from holdfast_training.batch.parts import parts_at
from holdfast_training.batch.score import score
from holdfast_training.batch.source import Chunk
from holdfast_training.errors import TrainingError
from holdfast_training.progress import Progress

START = """
import sys
from pathlib import Path
from holdfast_training.__main__ import main
sys.exit(main(["batch"], claims=Path(sys.argv[1]), termination_log=Path(sys.argv[2]), progress_port=0))
"""
KILLED = """
import os, signal
from holdfast_training.batch.parts import ClaimParts
publish = ClaimParts._publish

def killed(self, path, name):
    if WHEN == "after":
        publish(self, path, name)
    if name == "part-00002.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
    if WHEN == "before":
        publish(self, path, name)

ClaimParts._publish = killed
"""
"""A pod that is killed just before or just after its third file appears."""


@dataclass
class Scoring:
    """A claim with a trained model on it, and runs that score with it."""

    claim: Claim
    model: dict[str, str]
    log: list[tuple[str, dict[str, Any]]]

    def document(self, uri: str, **more: Any) -> dict[str, Any]:
        return {
            "model": self.model,
            "input": {"uri": uri},
            "output": {"uri": "pvc://models/scored", "folder": "run"},
            "batchRows": 64,
            "maxBadRowsPerMille": 0,
            "pods": 1,
            "shards": 4,
            **more,
        }

    def run(self, uri: str, index: int = 0, progress: Progress | None = None, **more: Any) -> dict[str, Any]:
        """One pod's share of a run."""
        batch = spec.parse(json.dumps(self.document(uri, **more)), index)
        self.claim.made += 1
        scratch = self.claim.claims / f"scratch-{self.claim.made}"
        scratch.mkdir()
        parts = parts_at(batch.output_uri, batch.output_folder, batch.shards, claims=self.claim.claims)
        self.log.clear()

        def log(event: str, **facts: Any) -> None:
            self.log.append((event, facts))

        return score(batch, parts, scratch=scratch, claims=self.claim.claims, log=log, progress=progress)

    def failure(self, uri: str, index: int = 0, **more: Any) -> TrainingError:
        with pytest.raises(TrainingError) as ended:
            self.run(uri, index, **more)
        return ended.value

    @property
    def folder(self) -> Path:
        return self.claim.root / "scored" / "run"

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def answers(self) -> pa.Table:
        return pa.concat_tables([pq.read_table(path) for path in self.parts()])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, mixed: Callable[[str], Any]) -> tuple[Path, dict[str, Any]]:
    """A model of breast-cancer with texts and missing values among its features."""
    claims = tmp_path_factory.mktemp("trained")
    (claims / "models").mkdir()
    claim = Claim(claims)
    uri = claim.rows("data.csv", *mixed("breast-cancer"))
    made = claim.train(claim.spec(uri, "diagnosis", "Classification", "LogisticRegression"))
    return claim.last, made["model"]


@pytest.fixture
def scoring(claim: Claim, bundle: tuple[Path, dict[str, Any]]) -> Scoring:
    folder, model = bundle
    shutil.copytree(folder, claim.root / "model")
    return Scoring(claim, {"uri": "pvc://models/model", "digest": model["digest"]}, [])


@pytest.fixture
def table(scoring: Scoring, mixed: Callable[[str], Any]) -> str:
    """The rows that the model was trained on, with a number for each."""
    header, rows = mixed("breast-cancer")
    return scoring.claim.rows("rows.csv", ["id", *header], [[number, *row] for number, row in enumerate(rows)])


def expected(scoring: Scoring, path: Path) -> tuple[list[Any], Any]:
    """Labels and probabilities that ONNX Runtime gives, one row at a time."""
    session = onnxruntime.InferenceSession(scoring.claim.root / "model/model.onnx")
    header, rows = table_of(path)
    labels, probabilities = [], []
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        feeds = {
            each.name: np.array([[cells[each.name]]], object)
            if each.type == "tensor(string)"
            else np.array([[float(cells[each.name] or "nan")]], np.float32)
            for each in session.get_inputs()
        }
        label, probability = session.run(["label", "probabilities"], feeds)
        labels.append(label[0])
        probabilities.append(probability[0])
    return labels, np.array(probabilities)


def test_answers_are_what_the_runtime_says_row_by_row_in_order(scoring: Scoring, table: str) -> None:
    report = scoring.run(table, keepColumns=["id", "diagnosis"])
    answers = scoring.answers()
    labels, probabilities = expected(scoring, scoring.claim.root / "rows.csv")
    assert answers.column_names == ["id", "diagnosis", "label", "probabilities"]
    assert answers["id"].to_pylist() == [str(number) for number in range(569)]
    assert answers["label"].to_pylist() == labels
    assert np.allclose(np.array(answers["probabilities"].to_pylist()), probabilities, atol=1e-5)
    assert [report[name] for name in ("rowsRead", "rowsWritten", "rowsBad", "shards")] == [569, 569, 0, 4]
    assert report["model"] == scoring.model
    assert report["outputURI"] == "pvc://models/scored/run"
    success = json.loads((scoring.folder / "_SUCCESS").read_text())
    assert success["report"] == report
    assert {"name": "probabilities", "labels": ["benign", "malignant"]} in success["outputs"]


def test_a_pod_says_how_many_shards_all_pods_have_done(scoring: Scoring, table: str) -> None:
    scoring.run(table, 1, pods=2, shards=8)
    said: list[dict[str, Any]] = []

    class Told(Progress):
        def say(self, message: str, **facts: Any) -> None:
            said.append({"message": message, **facts})

    scoring.run(table, 0, pods=2, shards=8, progress=Told())
    assert [each["shardsSucceeded"] for each in said] == [4, 5, 6, 7]
    assert said[0]["message"] == "4 of 8 shards"


def test_a_parquet_folder_gives_the_same_answers_as_a_csv_file(scoring: Scoring, table: str) -> None:
    scoring.run(table, keepColumns=["id"])
    wanted = scoring.answers()
    header, rows = table_of(scoring.claim.root / "rows.csv")
    columns: dict[str, list[Any]] = {}
    for name, cells in zip(header, zip(*rows, strict=True), strict=True):
        try:
            columns[name] = [float(cell) if cell else None for cell in cells]
        except ValueError:
            columns[name] = [cell or None for cell in cells]
    columns["id"] = [row[0] for row in rows]
    whole = pa.table(columns)
    folder = scoring.claim.root / "rows"
    folder.mkdir()
    pq.write_table(whole.slice(0, 300), folder / "a.parquet", row_group_size=70)
    pq.write_table(whole.slice(300), folder / "b.parquet", row_group_size=1000)
    (folder / "_SUCCESS").touch()
    (scoring.folder).rename(scoring.folder.with_name("csv"))
    scoring.run("pvc://models/rows/", keepColumns=["id"], shards=12, pods=1)
    assert scoring.answers().equals(wanted)
    assert len(scoring.parts()) == 12


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("shards", [1, 2, 7, 64])
def test_every_row_of_a_csv_file_is_in_one_shard_wherever_its_cells_break(
    claim: Claim, shards: int, ending: str
) -> None:
    random = np.random.default_rng(shards)
    texts = ["plain", "", 'with "quotes"', "two\nlines", 'a ",\n" b', "höher, weiter", "\n\n", '"\n"']
    rows = [[str(number), str(random.choice(texts))] for number in range(200)]
    folder = claim.root / "rows"
    folder.mkdir()
    for name, part in (("a.csv", rows[:5]), ("b.csv", []), ("c.csv", rows[5:])):
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator=ending).writerows([["id", "some\ntext"], *part])
    there = source.locate("pvc://models/rows", None, None, scratch=claim.claims, claims=claim.claims)

    def cells(chunk: Chunk) -> list[list[str]]:
        assert not chunk.broken
        return [list(row) for row in zip(*chunk.table.to_pydict().values(), strict=True)]

    found = [
        row
        for shard in range(shards)
        for chunk in there.shard(shard, shards, ["id", "some\ntext"])
        for row in cells(chunk)
    ]
    assert found == rows


@pytest.mark.parametrize("good", [0, 1, 40])
def test_lines_of_another_length_are_counted_wherever_blocks_end(
    claim: Claim, good: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 128)
    lines = ["id,a", *(f"{number},x" for number in range(good)), *("broken" for _ in range(60)), "last,y", "broken"]
    uri = claim.text("rows.csv", "\n".join(lines))
    found = source.locate(uri, None, None, scratch=claim.claims, claims=claim.claims)
    for shards in (1, 3, 8):
        chunks = [chunk for shard in range(shards) for chunk in found.shard(shard, shards, ["id", "a"])]
        assert sum(chunk.broken for chunk in chunks) == 61
        ids = [name for chunk in chunks for name in chunk.table["id"].to_pylist()]
        assert ids == [*map(str, range(good)), "last"]
        found = source.locate(uri, None, None, scratch=claim.claims, claims=claim.claims)


def test_lines_that_end_in_cr_alone_are_no_empty_table(claim: Claim) -> None:
    uri = claim.text("rows.csv", b"id,a\r1,2\r3,4\r")
    found = source.locate(uri, None, None, scratch=claim.claims, claims=claim.claims)
    with pytest.raises(TrainingError, match="end in CR alone"):
        found.columns(0)


def test_the_pod_that_finds_all_shards_says_success_and_no_other(scoring: Scoring, table: str) -> None:
    shared = {"pods": 3, "shards": 12}
    assert scoring.run(table, 2, **shared) == {"result": "Partial"}
    assert scoring.run(table, 0, **shared) == {"result": "Partial"}
    assert not (scoring.folder / "_SUCCESS").exists()
    report = scoring.run(table, 1, **shared)
    assert (report["result"], report["rowsRead"]) == ("Completed", 569)
    assert scoring.run(table, 2, **shared) == report  # it finds the run done, and does nothing
    assert scoring.log == [("found", scoring.log[0][1])]


@pytest.mark.parametrize(("when", "done"), [("before", 2), ("after", 3)])
def test_a_killed_pod_goes_on_where_it_was_and_scores_no_shard_twice(
    scoring: Scoring, table: str, when: str, done: int
) -> None:
    log = scoring.claim.claims / "last-word"
    log.touch()
    document = json.dumps(scoring.document(table, shards=6))

    def run(code: str) -> tuple[int, list[str]]:
        ended = subprocess.run(
            [sys.executable, "-c", code, str(scoring.claim.claims), str(log)],
            env={**os.environ, "HOLDFAST_BATCH": document, "JOB_COMPLETION_INDEX": "0"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
        )
        return ended.returncode, [json.loads(line)["event"] for line in ended.stdout.splitlines()]

    assert run(f"WHEN = {when!r}{KILLED}{START}")[0] == -signal.SIGKILL
    there = {path: path.stat().st_ino for path in scoring.parts()}
    assert len(there) == done
    assert not (scoring.folder / "_SUCCESS").exists()
    code, events = run(START)
    assert code == 0
    assert (events.count("skipped"), events.count("scored")) == (done, 6 - done)
    assert {path: path.stat().st_ino for path in there} == there
    assert json.loads(log.read_text())["rowsWritten"] == 569
    assert scoring.answers().num_rows == 569
    assert not [*scoring.folder.glob(".*")]


def damaged(scoring: Scoring, table: str) -> str:
    """600 rows, of which 3 cannot be read."""
    header, rows = table_of(scoring.claim.root / "rows.csv")
    rows = [*rows, *map(list, rows[:31])]
    numeric = header.index("mean radius")
    rows[10][numeric] = "much"
    rows[500][numeric] = "1e39"
    path = scoring.claim.root / "rows.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    lines = path.read_text().splitlines(keepends=True)
    lines[300] = "7\n"
    path.write_text("".join(lines))
    return header[numeric]


def test_rows_that_cannot_be_read_fail_a_run_that_allows_none(scoring: Scoring, table: str) -> None:
    column = damaged(scoring, table)
    ended = scoring.failure(table)
    assert (ended.reason, ended.exit_code) == ("TooManyBadRows", 3)
    assert f"column {column}: text in place of a number in 1 row" in ended.message
    assert "much" not in ended.message


def test_as_many_bad_rows_as_allowed_are_left_out_and_counted(scoring: Scoring, table: str) -> None:
    column = damaged(scoring, table)
    report = scoring.run(table, keepColumns=["id"], maxBadRowsPerMille=5)
    assert [report[name] for name in ("rowsRead", "rowsWritten", "rowsBad")] == [600, 597, 3]
    assert scoring.answers().num_rows == 597
    assert scoring.answers()["id"].to_pylist().count("10") == 1  # the other one is the row with a text
    for words in (
        f"column {column}: text in place of a number in 1 row",
        f"column {column}: a number too large for float32 in 1 row",
        "another number of cells than the header in 1 row",
    ):
        assert words in report["message"]


def test_more_bad_rows_than_allowed_fail_the_run_when_all_are_counted(scoring: Scoring, table: str) -> None:
    damaged(scoring, table)
    ended = scoring.failure(table, maxBadRowsPerMille=4)
    assert ended.reason == "TooManyBadRows"
    assert "3 of 600 rows cannot be read (maxBadRowsPerMille is 4)" in ended.message
    assert not (scoring.folder / "_SUCCESS").exists()


def test_a_partitioned_folder_gives_columns_by_the_names_of_its_folders(scoring: Scoring, table: str) -> None:
    header, rows = table_of(scoring.claim.root / "rows.csv")
    place = header.index("mean texture")
    inside = [name for name in header if name != "mean texture"]
    scoring.run(table, keepColumns=["id", "mean texture"])
    wanted = dict(zip(*[scoring.answers()[name].to_pylist() for name in ("id", "label")], strict=True))
    scoring.folder.rename(scoring.folder.with_name("flat"))
    for value in sorted({row[place] for row in rows}):
        cells = [[*row[:place], *row[place + 1 :]] for row in rows if row[place] == value]
        folder = f"mean texture={quote(value, safe='') or '__HIVE_DEFAULT_PARTITION__'}"
        scoring.claim.rows(f"parts/{folder}/0.csv", inside, cells)
    scoring.run("pvc://models/parts/", keepColumns=["id", "mean texture"], shards=8, pods=1)
    found = scoring.answers()
    assert dict(zip(found["id"].to_pylist(), found["label"].to_pylist(), strict=True)) == wanted
    assert set(found["mean texture"].to_pylist()) == {row[place] or None for row in rows}


def test_columns_to_keep_must_have_one_type(scoring: Scoring, table: str) -> None:
    header, rows = table_of(scoring.claim.root / "rows.csv")
    cells = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    folder = scoring.claim.root / "typed"
    folder.mkdir()
    pq.write_table(pa.table(cells), folder / "a.parquet")
    pq.write_table(pa.table({**cells, "id": [1.5] * len(rows)}), folder / "b.parquet")
    shared = {"pods": 2, "shards": 2, "keepColumns": ["id"]}
    assert scoring.run("pvc://models/typed/", 0, **shared) == {"result": "Partial"}
    ended = scoring.failure("pvc://models/typed/", 1, **shared)
    assert ended.reason == "InputInvalid"
    assert "same type" in ended.message


def test_an_input_that_changed_under_way_is_refused(scoring: Scoring, table: str) -> None:
    scoring.run(table, 0, pods=2, shards=8)
    with open(scoring.claim.root / "rows.csv", "a") as file:
        file.write("\n")
    assert scoring.failure(table, 1, pods=2, shards=8).reason == "InputInvalid"
    assert scoring.failure(table, 0, pods=2, shards=8).reason == "InputInvalid"
    assert not (scoring.folder / "_SUCCESS").exists()


def test_another_model_under_the_same_uri_is_refused(scoring: Scoring, table: str) -> None:
    scoring.model = {"uri": scoring.model["uri"]}
    scoring.run(table, 0, pods=2, shards=8)
    document = scoring.claim.root / "model/manifest.json"
    document.write_bytes(document.read_bytes().replace(b'"rows":569', b'"rows":570'))
    ended = scoring.failure(table, 1, pods=2, shards=8)
    assert (ended.reason, ended.exit_code) == ("DigestMismatch", 3)


def test_a_model_with_another_digest_is_not_used(scoring: Scoring, table: str) -> None:
    scoring.model["digest"] = "sha256:" + "0" * 64
    assert scoring.failure(table).reason == "DigestMismatch"
    assert not scoring.parts()


def test_a_model_that_answers_otherwise_than_its_trainer_wrote_down_is_not_used(scoring: Scoring, table: str) -> None:
    folder = scoring.claim.root / "model"
    golden = json.loads((folder / "golden.json").read_text())
    [*_, probabilities] = golden["requests"][0]["outputs"]
    probabilities["data"] = [0.5 for _ in probabilities["data"]]
    (folder / "golden.json").write_text(json.dumps(golden))
    sealed = manifest.read(folder)
    rest = {
        name: getattr(sealed, name)
        for name in ("name", "framework", "opset", "inputs", "outputs", "metrics", "lineage")
    }
    manifest.write(folder, **rest)
    scoring.model = {"uri": scoring.model["uri"]}
    ended = scoring.failure(table)
    assert ended.reason == "ModelInvalid"
    assert "answers 1 of its 8 golden requests otherwise" in ended.message


def test_an_input_with_another_digest_is_not_scored(scoring: Scoring, table: str) -> None:
    ended = scoring.failure(table, input={"uri": table, "digest": "sha256:" + "0" * 64})
    assert ended.reason == "ChecksumMismatch"


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"input": {"uri": "pvc://models/absent.csv"}}, "InputNotFound", "absent.csv"),
        ({"input": {"uri": "pvc://models/model"}}, "InputInvalid", ".csv or .parquet"),
        ({"input": {"uri": "pvc://models/odd/"}}, "InputInvalid", "odd/b.csv: more than one column has the name a"),
        ({"model": {"uri": "pvc://models/absent"}}, "ModelNotFound", "absent"),
        ({"keepColumns": ["nobody"]}, "ColumnNotFound", "nobody"),
        ({"output": {"uri": "https://host/scored", "folder": "run"}}, "OutputNotWritable", "pvc://"),
    ],
)
def test_what_is_wrong_is_said_in_words(
    scoring: Scoring, table: str, change: dict[str, Any], reason: str, words: str
) -> None:
    scoring.claim.text("odd/b.csv", "a,a\n1,2\n")
    ended = scoring.failure(table, **change)
    assert ended.reason == reason
    assert words in ended.message


def test_a_column_that_the_model_takes_and_the_input_does_not_have_is_named(scoring: Scoring) -> None:
    uri = scoring.claim.rows("few.csv", ["id", "other"], [["1", "2"]])
    ended = scoring.failure(uri)
    assert ended.reason == "ColumnNotFound"
    assert "the columns there are: id, other" in ended.message


def test_drift_is_counted_against_the_reference_of_the_bundle(scoring: Scoring, table: str) -> None:
    same = scoring.run(table)["drift"]
    scoring.folder.rename(scoring.folder.with_name("same"))
    header, rows = table_of(scoring.claim.root / "rows.csv")
    moved = header.index("mean radius")
    for row in rows:
        row[moved] = str(5 * float(row[moved] or 1))
    shifted = scoring.run(scoring.claim.rows("moved.csv", header, rows))["drift"]
    assert (same["rows"], same["referenceRows"]) == (569, 114)
    assert all(feature["psiPerMille"] < 300 for feature in same["features"])
    assert {feature["name"] for feature in same["features"]} == {*header[1:-1], "label"}
    assert shifted["features"][0]["name"] == header[moved]
    assert shifted["features"][0]["psiPerMille"] > 1000


def test_a_matrix_is_taken_from_all_other_columns(claim: Claim) -> None:
    (claim.root / "iris.onnx").write_bytes(models.iris())
    uri = claim.rows("iris.csv", ["id", *"abcd"], [["x", 5.1, 3.5, 1.4, 0.2], ["y", 6.7, 3.1, 5.6, 2.4]])
    scoring = Scoring(claim, {"uri": "pvc://models/iris.onnx"}, [])
    report = scoring.run(uri, keepColumns=["id"])
    assert report["rowsWritten"] == 2
    assert "drift" not in report
    assert scoring.answers()["id"].to_pylist() == ["x", "y"]
    assert (
        "takes a matrix of 4 columns"
        in scoring.failure(uri, output={"uri": "pvc://models/scored", "folder": "b"}).message
    )

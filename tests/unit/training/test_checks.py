"""What is asked of data before they are trained on, and what is said of them."""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_training import checks, evaluation
from holdfast_training.errors import TrainingError
from holdfast_training.spec import Checks, ColumnCheck, checks_of

HEADER = ["a", "colour", "y"]


def rows(count: int = 40) -> list[list[Any]]:
    return [[i, ["red", "white"][i % 2], i % 2] for i in range(count)]


def document(claim: Any, cells: list[list[Any]], asked: dict[str, Any], **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = claim.spec(
        claim.rows("data.csv", HEADER, cells), "y", "Classification", "GaussianNB", **more
    )
    made["data"]["checks"] = asked
    return made


def found(error: TrainingError) -> list[tuple[str, str, int]]:
    assert (error.reason, error.exit_code) == ("DataInvalid", 3)
    return [(finding.column, finding.rule, finding.rows) for finding in error.findings]


def test_everything_that_is_wrong_is_said_at_once_and_no_value_is_repeated(claim: Any) -> None:
    cells = rows()
    cells[3][0], cells[7][0], cells[8][0], cells[9][0] = -5, 4711, "", "canary"
    cells[5][1] = "canary"
    asked = {
        "minRows": 41,
        "columns": [
            {"name": "a", "maxMissingPerMille": 20, "minimum": "0", "maximum": "39"},
            {"name": "colour", "allowed": ["red", "white"]},
            {"name": "y", "allowed": ["0", "2"]},
        ],
    }
    error = claim.failure(document(claim, cells, asked))
    assert found(error) == [
        ("", "TooFewRows", 0),
        ("a", "MissingValues", 1),
        ("a", "NotNumeric", 1),
        ("a", "BelowMinimum", 1),
        ("a", "AboveMaximum", 1),
        ("colour", "NotAllowed", 1),
        ("y", "NotAllowed", 20),
        ("a", "NotNumeric", 1),
    ]
    assert [finding.message for finding in error.findings[3:6]] == [
        "1 row below the minimum of 0, first at row 4",
        "1 row above the maximum of 39, first at row 8",
        "1 row not among the 2 values allowed, first at row 6",
    ]
    assert error.message == "the data have 40 rows, at least 41 are asked for (and 7 more, see findings)"
    assert not any(text in json.dumps([f.to_json() for f in error.findings]) for text in ("canary", "4711", "-5"))


def test_data_that_pass_are_trained_on(claim: Any) -> None:
    asked = {
        "minRows": 40,
        "columns": [
            {"name": "a", "maxMissingPerMille": 0, "minimum": "0", "maximum": "39"},
            {"name": "colour", "allowed": ["red", "white"]},
        ],
    }
    assert claim.train(document(claim, rows(), asked))["findings"] == []


def test_a_column_that_is_checked_need_not_be_learned_from_but_must_be_there(claim: Any) -> None:
    features = {"excluded": ["colour"]}
    asked = {"columns": [{"name": "colour", "allowed": ["red"]}]}
    assert found(claim.failure(document(claim, rows(), asked, features=features))) == [("colour", "NotAllowed", 20)]
    error = claim.failure(document(claim, rows(), {"columns": [{"name": "none", "minimum": "1"}]}))
    assert (error.reason, error.message[:15]) == ("ColumnNotFound", "column none not")


def test_whole_numbers_are_allowed_by_their_text_whatever_their_type() -> None:
    allowed = Checks(columns=(ColumnCheck("a", allowed=("1", "2.5")),))
    for cells in (pa.array([1, 1]), pa.array([1.0, 2.5, None]), pa.array(["1", "2.5"]), pa.array([True])):
        assert checks.broken(pa.table({"a": cells}), allowed) == []
    [finding] = checks.broken(pa.table({"a": pa.array([1.0, 3.0])}), allowed)
    assert (finding.rule, finding.rows) == ("NotAllowed", 1)


def test_what_is_neither_number_nor_text_cannot_be_checked() -> None:
    [finding] = checks.broken(pa.table({"a": pa.array([b"x"])}), Checks(columns=(ColumnCheck("a", minimum="1"),)))
    assert finding.rule == "UnsupportedType"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(0, 1000), st.floats(-1e6, 1e6))
def test_counts_are_right(cells: list[float | None], permille: int, bound: float) -> None:
    low = f"{bound:.3f}"
    table = pa.table({"a": pa.array(cells, pa.float64())})
    counts = {f.rule: f.rows for f in checks.broken(table, Checks(columns=(ColumnCheck("a", permille, low),)))}
    missing, below = cells.count(None), sum(cell is not None and cell < float(low) for cell in cells)
    assert counts.get("MissingValues", 0) == (missing if missing / len(cells) > permille / 1000 else 0)
    assert counts.get("BelowMinimum", 0) == below


def test_a_spec_without_checks_asks_nothing() -> None:
    assert checks.broken(pa.table({"a": pa.array([], pa.float64())}), checks_of({})) == []


# --- what is noted and stops nothing


def test_odd_data_are_noted_and_trained_on(claim: Any) -> None:
    cells = [[i if i % 4 == 0 else "", "same", int(i >= 392)] for i in range(400)]
    uri = claim.rows("data.csv", HEADER, cells)
    events: list[tuple[str, dict[str, Any]]] = []
    report = claim.train(
        claim.spec(uri, "y", "Classification", "GaussianNB"), log=lambda event, **facts: events.append((event, facts))
    )
    assert [(f.get("column"), f["rule"], f["rows"]) for f in report["findings"]] == [
        ("a", "MostlyMissing", 300),
        ("colour", "Constant", 400),
        (None, "RareClass", 8),
    ]
    assert [facts for event, facts in events if event == "finding"] == report["findings"]
    assert next(facts for event, facts in events if event == "read")["missing"] == {"a": 300}


def test_classes_of_equal_size_are_not_noted(claim: Any) -> None:
    uri = claim.rows("data.csv", HEADER, rows())
    assert claim.train(claim.spec(uri, "y", "Classification", "GaussianNB"))["findings"] == []


# --- the last rows held out


def ordered(claim: Any, day: pa.Array, label: pa.Array | None = None, **split: Any) -> dict[str, Any]:
    """A run on as many rows as there are days, whose feature `a` is the row's number."""
    count = len(day)
    label = pa.array([i % 2 for i in range(count)]) if label is None else label
    table = pa.table({"a": pa.array(range(count)), "day": day, "y": label})
    pyarrow.parquet.write_table(table, claim.root / "data.parquet")
    made: dict[str, Any] = claim.spec(
        "pvc://models/data.parquet", "y", "Classification", "GaussianNB", split={"orderColumn": "day", **split}
    )
    return made


DATES = [datetime.date(2026, 1, 1) + datetime.timedelta(days=(i * 7) % 40) for i in range(40)]


@pytest.mark.parametrize(
    "day",
    [
        pa.array(DATES),
        pa.array([datetime.datetime.combine(d, datetime.time(), datetime.UTC) for d in DATES]),
        pa.array([d.isoformat() for d in DATES]),
        pa.array([d.toordinal() for d in DATES]),
        pa.array([str(d.toordinal() % 100) for d in DATES]),
    ],
    ids=lambda array: str(array.type),
)
def test_the_last_rows_are_held_out_and_their_order_is_not_learned_from(claim: Any, day: pa.Array) -> None:
    report = claim.train(ordered(claim, day))
    assert (report["data"]["testRows"], report["data"]["rows"]) == (8, 40)
    manifest = json.loads((claim.last / "manifest.json").read_text())
    assert [tensor["name"] for tensor in manifest["inputs"]] == ["a"]
    assert (manifest["lineage"]["orderColumn"], manifest["lineage"]["testRows"]) == ("day", 8)
    golden = json.loads((claim.last / "golden.json").read_text())
    values = day.to_pylist()
    key = (lambda i: float(values[i])) if isinstance(values[0], str) and values[0].isdigit() else values.__getitem__
    last = sorted(range(40), key=key)[-8:]
    assert set(numbers_in(golden)) == {float(i) for i in last}


def numbers_in(golden: dict[str, Any]) -> list[float]:
    """Values of the feature `a` in the golden requests."""
    return [
        value
        for request in golden["requests"]
        for tensor in request["inputs"]
        if tensor["name"] == "a"
        for value in np.ravel(tensor["data"]).tolist()
    ]


def test_rows_of_one_moment_are_on_one_side(claim: Any) -> None:
    report = claim.train(ordered(claim, pa.array([i // 10 for i in range(40)]), testPercent=10))
    assert report["data"]["testRows"] == 10


@pytest.mark.parametrize(
    ("day", "rule"),
    [
        (pa.array([1] * 40), "TooFewRows"),
        (pa.array([None, *range(39)]), "MissingOrder"),
        (pa.array([b"x"] * 40), "UnsupportedType"),
    ],
)
def test_an_order_that_is_none_is_refused(claim: Any, day: pa.Array, rule: str) -> None:
    error = claim.failure(ordered(claim, day))
    assert [finding.rule for finding in error.findings] == [rule]


@pytest.mark.parametrize(
    ("late", "words"), [(range(38, 40), "all of them are held out"), (range(5, 6), "at least 2 are needed")]
)
def test_a_class_that_cannot_be_learned_is_refused(claim: Any, late: range, words: str) -> None:
    label = pa.array(["rare" if i in late else ["no", "yes"][i % 2] for i in range(40)])
    error = claim.failure(ordered(claim, pa.array(range(40)), label))
    assert (found(error), words in error.message) == ([("", "TooFewRows", len(late))], True)


def test_a_search_judges_by_what_comes_after_what_it_learned_from() -> None:
    random = np.random.default_rng(3)
    order = random.permutation(np.repeat(np.arange(1, 31), 2))
    target = np.arange(60) % 2
    folds = evaluation.folds(target, "Classification", 4, 0, order)
    assert len(folds) == 4
    for learned, judged in folds:
        assert order[learned].max() < order[judged].min()
        assert set(target[learned]) == {0, 1}
    assert sorted(np.concatenate([judged for _, judged in folds]).tolist()) == np.flatnonzero(order > 6).tolist()
    with pytest.raises(TrainingError, match=r"are of 9 moments; 4 folds in order need 10"):
        evaluation.folds(target[:9], "Classification", 4, 0, np.arange(9))
    late = np.where(order > 20, 2, target)
    with pytest.raises(TrainingError, match="all of them come after the first fold"):
        evaluation.folds(late, "Classification", 4, 0, order)


def test_a_run_that_searches_keeps_the_order(claim: Any) -> None:
    """Labels last for ten rows: who learns from both sides of a row knows its label, who learns from before cannot."""
    made = ordered(claim, pa.array(range(120)), pa.array([i // 10 % 2 for i in range(120)]))
    made |= {
        "tuning": {"trials": 1, "folds": 3},
        "estimators": [{"name": "KNeighborsClassifier", "parameters": {"n_neighbors": "1"}}],
    }
    worth = []
    for order in (True, False):
        if not order:
            made["split"], made["output"] = {}, {**made["output"], "folder": "mixed"}
        claim.train(made)
        worth.append(float(json.loads((claim.last / "manifest.json").read_text())["lineage"]["tuning"]["value"]))
    assert worth[0] < 0.7 < 0.8 < worth[1]

"""Finding, digesting and reading data, and every way in which it can be bad."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_bundle.addresses import Reach
from holdfast_bundle.web import Web
from holdfast_training import columns, data
from holdfast_training.errors import Finding, TrainingError
from holdfast_training.spec import Features


def number_rows(count: int = 40) -> list[list[Any]]:
    return [[i, i * 1.5, ["red", "white"][i % 2], ["yes", "no"][i % 3 == 0]] for i in range(count)]


HEADER = ["a", "b", "colour", "y"]
WRONG_LENGTH = "with more or fewer cells than the 2 columns of the header"
RESERVED_NAME = "an output of the model has this name; rename the column or leave it out"
TEXT = "1 row holds text in a numeric column, first at row 1; is the task Classification?"
TOO_LARGE = "1 row holds infinity or a number too large for FP32, first at row 1"


def classify(claim: Any, uri: str, **more: Any) -> TrainingError:
    error: TrainingError = claim.failure(claim.spec(uri, "y", "Classification", "LogisticRegression", **more))
    return error


def only(error: TrainingError) -> Finding:
    assert (error.reason, error.exit_code) == ("DataInvalid", 3)
    (finding,) = error.findings
    assert finding.message in error.message
    return finding


# --- where the data lie


def test_csv_and_parquet_of_the_same_table_give_the_same_model(claim: Any, mixed: Callable[[str], Any]) -> None:
    header, rows = mixed("wine")
    csv = claim.rows("data.csv", header, rows)
    cells = list(zip(*rows, strict=True))
    categorical, target = (header[1], header[3]), header[-1]
    table = {
        name: [cell or None for cell in column]
        if name in categorical
        else [int(cell) for cell in column]
        if name == target
        else [float(cell) if cell else None for cell in column]
        for name, column in zip(header, cells, strict=True)
    }
    pyarrow.parquet.write_table(pa.table(table), claim.root / "data.parquet")
    claim.train(claim.spec(csv, target, "Classification", "DecisionTreeClassifier"))
    from_csv = (claim.last / "model.onnx").read_bytes()
    claim.train(claim.spec("pvc://models/data.parquet", target, "Classification", "DecisionTreeClassifier"))
    assert (claim.last / "model.onnx").read_bytes() == from_csv


def test_the_digest_of_a_file_is_its_sha256(claim: Any) -> None:
    uri = claim.rows("data.csv", HEADER, number_rows())
    digest = f"sha256:{hashlib.sha256((claim.root / 'data.csv').read_bytes()).hexdigest()}"
    document = claim.spec(uri, "y", "Classification", "LogisticRegression")
    document["data"]["digest"] = digest
    read = claim.train(document)["data"]
    assert read.pop("version").startswith("sha256:")
    assert read == {"digest": digest, "rows": 40, "testRows": 8, "columns": 4}


def test_another_digest_is_a_checksum_mismatch_with_both(claim: Any) -> None:
    uri = claim.rows("data.csv", HEADER, number_rows())
    actual = f"sha256:{hashlib.sha256((claim.root / 'data.csv').read_bytes()).hexdigest()}"
    document = claim.spec(uri, "y", "Classification", "LogisticRegression")
    document["data"]["digest"] = f"sha256:{'0' * 64}"
    error = claim.failure(document)
    assert (error.reason, error.exit_code) == ("ChecksumMismatch", 3)
    assert error.message == (f"pvc://models/data.csv has the digest {actual}, the spec asks for sha256:{'0' * 64}")


def test_a_folder_is_read_in_the_order_of_names_and_digested_like_sha256sum(claim: Any) -> None:
    rows = number_rows()
    claim.rows("parts/b.csv", HEADER, rows[20:])
    claim.rows("parts/a.csv", HEADER, rows[:20])
    claim.text("parts/_SUCCESS", "")
    claim.text("parts/.b.csv.crc", "x")
    whole = claim.rows("whole.csv", HEADER, rows)
    report = claim.train(claim.spec("pvc://models/parts", "y", "Classification", "LogisticRegression"))
    from_parts = (claim.last / "model.onnx").read_bytes()
    claim.train(claim.spec(whole, "y", "Classification", "LogisticRegression"))
    assert (claim.last / "model.onnx").read_bytes() == from_parts
    printed = subprocess.run(
        "sha256sum *.csv | sha256sum",
        shell=True,
        cwd=claim.root / "parts",
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert report["data"]["digest"] == f"sha256:{printed.split()[0]}"


def test_files_of_a_folder_may_order_their_columns_differently(claim: Any) -> None:
    claim.rows("parts/1.csv", ["a", "y"], [[i, i % 2] for i in range(20)])
    claim.rows("parts/2.csv", ["y", "a"], [[i % 2, i] for i in range(20)])
    assert claim.train(claim.spec("pvc://models/parts", "y", "Classification", "GaussianNB"))["data"]["rows"] == 40


@pytest.mark.parametrize(
    ("make", "rule", "message"),
    [
        (lambda c: (c.root / "d").mkdir(), "Empty", "pvc://models/d is a folder without data files"),
        (lambda c: c.text("d/_SUCCESS", ""), "Empty", "pvc://models/d is a folder without data files"),
        (
            lambda c: (c.text("d/1.csv", "a,y\n"), c.text("d/2.parquet", "x")),
            "FormatsDiffer",
            "pvc://models/d holds both CSV and Parquet files; give each its own folder",
        ),
        (
            lambda c: (c.text("d/1.csv", "a,y\n"), c.text("d/2026/1.csv", "a,y\n")),
            "FolderInFolder",
            "pvc://models/d holds folders whose names are not COLUMN=VALUE; only partitions are read",
        ),
        (
            lambda c: c.text("d/1.tsv", "a\ty\n"),
            "FormatUnknown",
            "pvc://models/d: a file name in the folder does not end in .csv, .parquet or .npz; give data.format",
        ),
        (
            lambda c: (c.text("d/1.csv", "a,b,y\n"), c.text("d/2.csv", "a,y,z\n")),
            "ColumnsDiffer",
            "the files of pvc://models/d have different columns: b, z not in all of them",
        ),
    ],
)
def test_a_folder_that_is_no_data_set_is_explained(
    claim: Any, make: Callable[[Any], object], rule: str, message: str
) -> None:
    make(claim)
    finding = only(classify(claim, "pvc://models/d"))
    assert (finding.rule, finding.message) == (rule, message)


def test_parquet_files_of_different_types_are_explained(claim: Any) -> None:
    (claim.root / "d").mkdir()
    pyarrow.parquet.write_table(pa.table({"a": [1, 2], "y": [0, 1]}), claim.root / "d/1.parquet")
    pyarrow.parquet.write_table(pa.table({"a": ["1", "2"], "y": [0, 1]}), claim.root / "d/2.parquet")
    finding = only(classify(claim, "pvc://models/d"))
    assert finding == Finding("TypesDiffer", "its type is not the same in all files", "a")


def test_data_that_are_not_there_are_not_found(claim: Any) -> None:
    error = classify(claim, "pvc://models/nothing.csv")
    assert (error.reason, error.exit_code) == ("DataNotFound", 3)
    assert "pvc://models/nothing.csv" in error.message


def test_data_of_a_link_that_leaves_the_claim_are_refused(claim: Any) -> None:
    (claim.claims / "secret.csv").write_text("a,y\n1,2\n")
    (claim.root / "link.csv").symlink_to("../secret.csv")
    error = classify(claim, "pvc://models/link.csv")
    assert error.reason == "DataInvalid"
    assert "link that leads out of its claim" in error.message


def test_a_fifo_does_not_hang_the_run(claim: Any) -> None:
    os.mkfifo(claim.root / "data.csv")
    finding = only(classify(claim, "pvc://models/data.csv"))
    assert finding.message == "pvc://models/data.csv is neither a file nor a folder"


def test_the_format_can_be_said_where_the_name_does_not(claim: Any) -> None:
    uri = claim.rows("data", HEADER, number_rows())
    assert only(classify(claim, uri)).rule == "FormatUnknown"
    document = claim.spec(uri, "y", "Classification", "LogisticRegression")
    document["data"]["format"] = "CSV"
    assert claim.train(document)["data"]["rows"] == 40


def test_data_that_change_between_digest_and_reading_are_read_again_later(claim: Any) -> None:
    claim.rows("data.csv", HEADER, number_rows())
    source = data.locate("pvc://models/data.csv", None, None, scratch=claim.claims, claims=claim.claims)
    claim.rows("data.csv", HEADER, number_rows(41))
    with pytest.raises(TrainingError, match="changed while it was read") as ended:
        source.read(["a"])
    assert (ended.value.reason, ended.value.exit_code) == ("DataUnreachable", 1)


class Files(http.server.BaseHTTPRequestHandler):
    """Answers from a table: path → (status, headers, body)."""

    answers: dict[str, tuple[int, dict[str, str], bytes]] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        status, headers, body = self.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


LOOPBACK = Web(policy=lambda address: Reach.PRIVATE)


def test_data_are_read_over_http(claim: Any, web: str) -> None:
    claim.rows("data.csv", HEADER, number_rows())
    content = (claim.root / "data.csv").read_bytes()
    Files.answers = {"/data.csv": (200, {}, content)}
    report = claim.train(claim.spec(f"{web}/data.csv", "y", "Classification", "GaussianNB"), web=LOOPBACK)
    assert report["data"]["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize(
    ("path", "reason", "code"),
    [
        ("/nothing.csv", "DataNotFound", 3),
        ("/secret.csv", "DataAccessDenied", 3),
        ("/broken.csv", "DataUnreachable", 1),
        ("/cut.csv", "DataUnreachable", 1),
    ],
)
def test_what_the_server_says_becomes_the_reason(claim: Any, web: str, path: str, reason: str, code: int) -> None:
    Files.answers = {
        "/secret.csv": (403, {}, b""),
        "/broken.csv": (500, {}, b""),
        "/cut.csv": (200, {"Content-Length": "1000"}, b"a,y\n"),
    }
    error = classify_over(claim, f"{web}{path}", LOOPBACK)
    assert (error.reason, error.exit_code) == (reason, code)
    assert path in error.message


def classify_over(claim: Any, uri: str, web: Web | None = None) -> TrainingError:
    options = {} if web is None else {"web": web}
    error: TrainingError = claim.failure(claim.spec(uri, "y", "Classification", "GaussianNB"), **options)
    return error


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1/data.csv", "http://169.254.169.254/latest/data.csv"])
def test_addresses_that_a_pod_must_not_reach_are_refused(claim: Any, uri: str) -> None:
    error = classify_over(claim, uri)
    assert (error.reason, error.exit_code) == ("AddressRefused", 3)


def test_a_server_that_is_not_there_is_unreachable_and_tried_again(claim: Any) -> None:
    error = classify_over(claim, "http://127.0.0.1:9/data.csv", LOOPBACK)
    assert (error.reason, error.exit_code) == ("DataUnreachable", 1)


# --- columns


def test_a_missing_target_names_the_columns_there_are(claim: Any) -> None:
    uri = claim.rows("data.csv", HEADER, number_rows())
    error = claim.failure(claim.spec(uri, "quality", "Classification", "LogisticRegression"))
    assert (error.reason, error.exit_code) == ("ColumnNotFound", 3)
    assert error.message == ("column quality (the target) not in the data; the columns there are: a, b, colour, y")


def test_a_missing_target_in_a_file_with_semicolons_gets_a_hint(claim: Any) -> None:
    uri = claim.text("data.csv", "a;b;y\n1;2;3\n")
    assert classify(claim, uri).message.endswith("; the file seems not to be separated by commas")


@pytest.mark.parametrize(
    "features",
    [{"numeric": ["a", "c", "d"]}, {"numeric": ["a"], "categorical": ["c", "d"]}, {"excluded": ["d", "c", "a"]}],
)
def test_missing_features_are_all_named(claim: Any, features: dict[str, list[str]]) -> None:
    uri = claim.rows("data.csv", HEADER, number_rows())
    error = classify(claim, uri, features=features)
    assert error.reason == "ColumnNotFound"
    assert error.message.startswith(("columns c, d not", "columns d, c not"))


def test_many_columns_are_cut_in_the_message_and_counted(claim: Any) -> None:
    uri = claim.rows("data.csv", [f"column_{i}" for i in range(200)], [])
    assert classify(claim, uri).message.endswith("column_29 and 170 more")


def test_listed_features_are_the_only_ones(claim: Any) -> None:
    uri = claim.rows("data.csv", HEADER, number_rows())
    features = {"numeric": ["b"], "categorical": ["colour"]}
    claim.train(claim.spec(uri, "y", "Classification", "GaussianNB", features=features))
    assert input_types(claim) == {"b": "FP32", "colour": "BYTES"}


def test_numbers_can_be_categories(claim: Any) -> None:
    uri = claim.rows("data.csv", HEADER, number_rows())
    claim.train(claim.spec(uri, "y", "Classification", "GaussianNB", features={"categorical": ["a"]}))
    assert input_types(claim) == {"a": "BYTES"}


def test_without_a_list_every_column_is_a_feature_by_its_type(claim: Any) -> None:
    uri = claim.rows("data.csv", HEADER, number_rows())
    claim.train(claim.spec(uri, "y", "Classification", "GaussianNB", features={"excluded": ["b"]}))
    assert input_types(claim) == {"a": "FP32", "colour": "BYTES"}


def input_types(claim: Any) -> dict[str, str]:
    from holdfast_bundle import manifest

    return {tensor.name: tensor.datatype for tensor in manifest.read(claim.last).inputs}


# --- bad data, each with its words


def test_text_in_a_numeric_column_is_counted_with_its_first_row(claim: Any) -> None:
    rows = number_rows()
    rows[16][0], rows[20][0], rows[30][0] = "secret-17", "n.a.", "1,5"
    uri = claim.rows("data.csv", HEADER, rows)
    for features in ({}, {"numeric": ["a", "b"]}):
        error = classify(claim, uri, features=features)
        assert only(error) == Finding(
            "NotNumeric",
            "3 rows hold text in a numeric column, first at row 17; correct them, or name the column in "
            "features.categorical",
            "a",
            3,
        )
        assert error.message.startswith("column a: 3 rows hold text")
        assert "secret" not in repr(error.message)


def test_all_faults_are_found_in_one_run(claim: Any) -> None:
    rows = number_rows()
    rows[0][0], rows[1][1], rows[2][3] = "x", "1e999", ""
    uri = claim.rows("data.csv", [*HEADER, "empty"], [[*row, ""] for row in rows])
    error = classify(claim, uri)
    assert {(finding.column, finding.rule) for finding in error.findings} == {
        ("a", "NotNumeric"),
        ("b", "OutOfRange"),
        ("y", "MissingTarget"),
        ("empty", "AllMissing"),
    }
    assert "(and 3 more, see findings)" in error.message


@pytest.mark.parametrize(
    ("change", "column", "rule", "message"),
    [
        (lambda row: row.__setitem__(0, ""), "a", "AllMissing", "every row is missing"),
        (lambda row: row.__setitem__(0, "NA"), "a", "AllMissing", "every row is missing"),
        (
            lambda row: row.__setitem__(3, "yes"),
            "y",
            "OneClass",
            "every row has the same class; at least two are needed",
        ),
        (
            lambda row: row.__setitem__(3, "" if row[0] in (4, 7) else row[3]),
            "y",
            "MissingTarget",
            "2 rows without a target, first at row 5; leave such rows out",
        ),
        (
            lambda row: row.__setitem__(3, row[0] / 4),
            "y",
            "NotClasses",
            "30 rows hold fractions, first at row 2, which are no classes; is the task Regression?",
        ),
        (
            lambda row: row.__setitem__(1, "-1e39" if row[0] == 9 else row[1]),
            "b",
            "OutOfRange",
            "1 row holds infinity or a number too large for FP32, first at row 10",
        ),
    ],
)
def test_a_bad_column_is_explained(
    claim: Any, change: Callable[[list[Any]], None], column: str, rule: str, message: str
) -> None:
    rows = number_rows()
    for row in rows:
        change(row)
    finding = only(classify(claim, claim.rows("data.csv", HEADER, rows)))
    assert (finding.column, finding.rule, finding.message) == (column, rule, message)


@pytest.mark.parametrize(
    ("content", "rule", "message"),
    [
        (b"", "Empty", "the file is empty: not even a header"),
        (b"\n\n\n", "Empty", "the file is empty: not even a header"),
        (b"a,y\n", "Empty", "the data has no rows"),
        (b"y\n1\n2\n", "NoFeatures", "no column is left beside the target y"),
        (
            b"a,y\n1,2\n1,2,3\n1\n",
            "RowLength",
            "2 rows with more or fewer cells than the 2 columns of the header, first at row 2",
        ),
        (
            b'a,y\n"1,2\n3,4\n',
            "RowLength",
            "1 row with more or fewer cells than the 2 columns of the header, first at row 1",
        ),
        (b"a,y\n\xff\xfe,2\n", "NotUTF8", "the file is not text in UTF-8; convert it, for example with iconv"),
        (b"\xff\xfea\x00,y\x00\n", "NotUTF8", "the file is not text in UTF-8; convert it, for example with iconv"),
        (b",y\n0,1\n1,2\n", "UnnamedColumn", "the header has a column without a name; name it, or list the features"),
        (
            b"label,y\n0,1\n1,2\n",
            "ReservedName",
            "an output of the model has this name; rename the column or leave it out",
        ),
    ],
)
def test_a_bad_file_is_explained(claim: Any, content: bytes, rule: str, message: str) -> None:
    finding = only(classify(claim, claim.text("data.csv", content)))
    assert (finding.rule, finding.message) == (rule, message)


def test_columns_of_the_same_name_are_refused(claim: Any) -> None:
    finding = only(classify(claim, claim.text("data.csv", "a,a,y\n1,2,3\n")))
    assert finding == Finding("DuplicateColumn", "there is more than one of this name", "a")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,y\n1,2\n", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_file_that_is_not_parquet_is_explained(claim: Any, content: bytes) -> None:
    finding = only(classify(claim, claim.text("data.parquet", content)))
    assert (finding.rule, finding.message) == ("NotReadable", "the file is not readable as Parquet")


def test_too_few_rows_are_explained(claim: Any) -> None:
    finding = only(classify(claim, claim.rows("data.csv", HEADER, number_rows(9))))
    assert finding.message == "the data have 9 rows, at least 10 are needed"


def test_a_class_with_too_few_rows_is_named_by_number_and_not_by_text(claim: Any) -> None:
    rows = number_rows()
    for i in (11, 22):
        rows[i][3] = "a-rare-disease"
    error = classify(claim, claim.rows("data.csv", HEADER, rows))
    assert only(error) == Finding(
        "TooFewRows",
        "class 1 of 3 (in sorted order) has 2 rows, first at row 12; with testPercent 20 each class needs at least 5",
        rows=2,
    )
    assert "disease" not in error.message


def test_too_many_categories_are_refused(claim: Any) -> None:
    rows = [[f"id-{i}", i % 2] for i in range(1001)]
    finding = only(classify(claim, claim.rows("data.csv", ["id", "y"], rows)))
    assert (finding.rule, finding.column) == ("TooManyCategories", "id")
    assert finding.message.startswith("1,001 categories in 1,001 rows")


def test_identifiers_as_numbers_are_a_finding_and_no_failure(claim: Any) -> None:
    rows = [[16_777_217 + 2 * i, i, i % 2] for i in range(40)]
    uri = claim.rows("data.csv", ["id", "a", "y"], rows)
    report = claim.train(claim.spec(uri, "y", "Classification", "DecisionTreeClassifier"))
    assert report["findings"] == [
        {
            "column": "id",
            "rule": "PrecisionLost",
            "message": "40 rows hold whole numbers that FP32 rounds, first at row 1; is it an identifier?",
            "rows": 40,
        }
    ]


@pytest.mark.parametrize(
    ("values", "rule", "message"),
    [
        (
            ["x", *map(str, range(39))],
            "NotNumeric",
            "1 row holds text in a numeric column, first at row 1; is the task Classification?",
        ),
        (["5"] * 40, "OneValue", "every row has the same value: nothing to learn"),
        (
            ["1e39", *map(str, range(39))],
            "OutOfRange",
            "1 row holds infinity or a number too large for FP32, first at row 1",
        ),
    ],
)
def test_a_bad_target_of_regression_is_explained(claim: Any, values: list[str], rule: str, message: str) -> None:
    uri = claim.rows("data.csv", ["a", "y"], [[i, value] for i, value in enumerate(values)])
    finding = only(claim.failure(claim.spec(uri, "y", "Regression", "Ridge")))
    assert (finding.column, finding.rule, finding.message) == ("y", rule, message)


def examine(table: pa.Table, **features: Any) -> columns.Examples:
    return columns.examine(table, "y", "Classification", Features(**features))


def test_types_of_parquet_become_numbers_or_categories() -> None:
    n = 20
    table = pa.table(
        {
            "bool": pa.array([True, False] * 10),
            "int8": pa.array(range(n), pa.int8()),
            "uint64": pa.array(range(n), pa.uint64()),
            "half": pa.array(np.arange(n, dtype=np.float16)),
            "decimal": pa.array([None, *range(1, n)], pa.decimal128(10, 2)),
            "dictionary": pa.array(["a", "b"] * 10).dictionary_encode(),
            "large": pa.array(["", "b"] * 10, pa.large_string()),
            "nan": pa.array([float("nan"), *range(1, n)], pa.float64()),
            "y": pa.array([0, 1] * 10),
        }
    )
    examples = examine(table)
    assert examples.columns.numeric == ("bool", "int8", "uint64", "half", "decimal", "nan")
    assert examples.columns.categorical == ("dictionary", "large")
    assert examples.features.numeric[:2].tolist()[1] == [0, 1, 1, 1, 1, 1]
    assert np.isnan(examples.features.numeric[0, 4:]).all()
    assert examples.features.categorical[0].tolist() == ["a", ""]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([0] * 20, pa.timestamp("s")), "timestamp[s]"),
        (pa.array([[1]] * 20), "list<"),
        (pa.array([b"x"] * 20), "binary"),
    ],
)
def test_other_types_are_refused(values: pa.Array, kind: str) -> None:
    with pytest.raises(TrainingError) as ended:
        examine(pa.table({"a": values, "y": [0, 1] * 10}))
    (finding,) = ended.value.findings
    assert finding.rule == "UnsupportedType"
    assert finding.message.startswith(f"its type {kind}")


def test_whole_numbers_are_the_same_category_from_integers_and_from_floats() -> None:
    integers = pa.table({"a": pa.array([1, 2, None, 4] * 5), "y": [0, 1] * 10})
    floats = pa.table({"a": pa.array([1.0, 2.0, None, 4.0] * 5), "y": [0, 1] * 10})
    for table in (integers, floats):
        assert examine(table, categorical=("a",)).features.categorical[:4, 0].tolist() == ["1", "2", "", "4"]


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["0", "1"], [0, 1]),
        (["-1", "+1"], [-1, 1]),
        (["1.0", "2.0"], [1, 2]),
        (["1", "x"], ["1", "x"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_labels_are_whole_numbers_or_texts(cells: list[str], labels: list[Any]) -> None:
    examples = examine(pa.table({"a": range(20), "y": cells * 10}))
    assert examples.target[:2].tolist() == labels


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(values=st.lists(st.none() | numbers, min_size=2, max_size=30).filter(lambda v: any(x is not None for x in v)))
def test_numbers_written_as_csv_are_read_back_to_the_bit(tmp_path: Path, values: list[float | None]) -> None:
    (tmp_path / "models").mkdir(exist_ok=True)
    lines = [f"{'' if value is None else repr(value)},{i % 2}" for i, value in enumerate(values)]
    (tmp_path / "models/d.csv").write_text("a,y\n" + "\n".join(lines) + "\n")
    source = data.locate("pvc://models/d.csv", None, None, scratch=tmp_path, claims=tmp_path)
    examples = examine(source.read(["a", "y"]))
    expected = np.array([np.nan if value is None else value for value in values], np.float32)
    assert examples.features.numeric[:, 0].tobytes() == expected.tobytes()


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(values=st.lists(texts.filter(lambda text: text not in data.MISSING), min_size=2, max_size=20))
def test_texts_written_as_csv_are_read_back(tmp_path: Path, values: list[str]) -> None:
    import csv

    (tmp_path / "models").mkdir(exist_ok=True)
    with open(tmp_path / "models/d.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["ä,b\n", "y"], *([value, i % 2] for i, value in enumerate(values))])
    source = data.locate("pvc://models/d.csv", None, None, scratch=tmp_path, claims=tmp_path)
    table = source.read(["ä,b\n", "y"])
    assert examine(table, categorical=("ä,b\n",)).features.categorical[:, 0].tolist() == values

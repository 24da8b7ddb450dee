"""Which files are the data, in which version, and the poll that looks for new ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pytest
from tests.unit.bundle.loopback import LOOPBACK, answer, serve
from tests.unit.training.test_program import finish

from holdfast_bundle.errors import BundleError
from holdfast_bundle.uris import parse
from holdfast_training import data, partitions
from holdfast_training.errors import TrainingError
from holdfast_training.listing import Files, files_of
from holdfast_training.poll import poll

ROWS = "a,y\n1,0\n"


def files(claim: Any, uri: str = "pvc://models/d") -> Files:
    return files_of(parse(uri), web=LOOPBACK, claims=claim.claims)


def test_marks_of_other_programs_are_no_data(claim: Any) -> None:
    for name in ("a.csv", "_SUCCESS", ".a.csv.crc", "_temporary/0/b.csv", "_year=2026/c.csv", ".hidden/d.csv"):
        claim.text(f"d/{name}", ROWS)
    assert files(claim).names == ("_year=2026/c.csv", "a.csv")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.text("d/b.csv", ROWS),
        lambda c: (c.root / "d/a.csv").unlink(),
        lambda c: os.rename(c.root / "d/a.csv", c.root / "d/b.csv"),
        lambda c: os.utime(c.root / "d/a.csv", ns=(1, 1)),
        lambda c: c.text("d/a.csv", ROWS * 2),
    ],
)
def test_another_version_is_seen_and_the_same_one_is_not(claim: Any, change: Callable[[Any], object]) -> None:
    claim.text("d/a.csv", ROWS)
    before = files(claim).version
    claim.text("d/_SUCCESS", "")
    assert files(claim).version == before
    change(claim)
    assert files(claim).version != before


def test_where_there_is_a_manifest_it_says_what_the_data_are(claim: Any) -> None:
    claim.text("d/a.csv", ROWS)
    claim.text("d/_manifest.json", json.dumps({"files": [{"name": "a.csv"}], "by": "a job"}))
    before = files(claim)
    assert before.names == ("a.csv",)
    claim.text("d/b.csv", ROWS)
    assert files(claim) == before
    claim.text("d/_manifest.json", json.dumps({"files": [{"name": "b.csv"}, {"name": "a.csv", "sha256": "0" * 64}]}))
    after = files(claim)
    assert (after.names, after.promised) == (("a.csv", "b.csv"), {"a.csv": f"sha256:{'0' * 64}"})
    assert after.version != before.version


@pytest.mark.parametrize(
    "manifest",
    [
        "", "[]", "{}", '{"files": []}', '{"files": [1]}', '{"files": "ab"}', '{"files": [{"name": "../x"}]}',
        '{"files": [{"name": "/etc/passwd"}]}', '{"files": [{"name": "a//b"}]}', '{"files": [{"name": ""}]}',
        '{"files": [{"name": "a", "sha256": "x"}]}', '{"files": [{"name": "a"}, {"name": "a"}]}',
        '{"files": [{"name": "a\\u0000"}]}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(claim: Any, manifest: str) -> None:
    claim.text("d/_manifest.json", manifest)
    with pytest.raises(BundleError, match=r"_manifest\.json cannot be used") as caught:
        files(claim)
    assert caught.value.reason == "Invalid"


def test_a_manifest_that_lists_what_is_not_there_is_said(claim: Any) -> None:
    claim.text("d/_manifest.json", json.dumps({"files": [{"name": "a.csv"}]}))
    error = claim.failure(claim.spec("pvc://models/d", "y", "Classification", "GaussianNB"))
    assert (error.reason, error.message[:25]) == ("DataNotFound", "pvc://models/d/a.csv: no ")


# --- partitions


def test_folders_of_partitions_give_columns(claim: Any) -> None:
    rows = [[i, i % 2] for i in range(20)]
    for year, region in ((2025, "north%20sea"), (2026, "__HIVE_DEFAULT_PARTITION__")):
        claim.rows(f"d/year={year}/region={region}/part.csv", ["a", "y"], rows)
    flat = [[*row, year, region] for year, region in ((2025, "north sea"), (2026, "")) for row in rows]
    whole = claim.rows("flat.csv", ["a", "y", "year", "region"], flat)
    report = claim.train(claim.spec("pvc://models/d", "y", "Classification", "GaussianNB"))
    model = (claim.last / "model.onnx").read_bytes()
    assert (report["data"]["rows"], report["data"]["columns"]) == (40, 4)
    claim.train(claim.spec(whole, "y", "Classification", "GaussianNB"))
    assert (claim.last / "model.onnx").read_bytes() == model


def test_partitions_as_arrow_writes_them_are_read_back(claim: Any) -> None:
    regions = ["north sea", "höher & tiefer", "50%", "a/b=c", None]
    table = pa.table(
        {
            "a": pa.array(range(50)),
            "region": pa.array([regions[i % 5] for i in range(50)]),
            "year": pa.array([2025 + i % 2 for i in range(50)]),
            "y": pa.array([i % 2 for i in range(50)]),
        }
    )
    schema = pa.schema([("region", pa.string()), ("year", pa.int64())])
    by = pyarrow.dataset.partitioning(schema, flavor="hive")
    pyarrow.dataset.write_dataset(table, claim.root / "d", format="parquet", partitioning=by)
    found = data.locate("pvc://models/d", None, None, scratch=claim.claims / "scratch", claims=claim.claims)
    back = found.read(["a", "region", "year", "y"]).sort_by("a")
    assert back["region"].to_pylist() == table["region"].to_pylist()
    assert [int(year) for year in back["year"].to_pylist()] == table["year"].to_pylist()


def test_a_partition_can_be_the_target(claim: Any) -> None:
    for label in ("no", "yes"):
        claim.rows(f"d/y={label}/part.csv", ["a"], [[i] for i in range(20)])
    assert claim.train(claim.spec("pvc://models/d", "y", "Classification", "GaussianNB"))["data"]["rows"] == 40


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["a=1/x.csv", "inner/x.csv"], "FolderInFolder"),
        (["=1/x.csv"], "FolderInFolder"),
        (["a=1/x.csv", "x.csv"], "PartitionsDiffer"),
        (["a=1/x.csv", "b=1/x.csv"], "PartitionsDiffer"),
        (["a=1/a=2/x.csv"], "PartitionsDiffer"),
    ],
)
def test_folders_that_are_no_partitions_are_refused(names: list[str], rule: str) -> None:
    with pytest.raises(TrainingError) as caught:
        partitions.columns(parse("pvc://models/d"), names)
    assert caught.value.findings[0].rule == rule


def test_a_column_in_the_files_and_in_the_folders_is_one_too_many(claim: Any) -> None:
    claim.rows("d/a=1/part.csv", ["a", "y"], [[i, i % 2] for i in range(20)])
    error = claim.failure(claim.spec("pvc://models/d", "y", "Classification", "GaussianNB"))
    assert (error.findings[0].rule, error.findings[0].column) == ("DuplicateColumn", "a")


# --- the poll


def asked(uri: str, settle: int = 60) -> str:
    return json.dumps({"data": {"uri": uri}, "settleSeconds": settle})


def test_a_poll_reports_what_a_run_would_report(claim: Any) -> None:
    uri = claim.rows("d/a.csv", ["a", "y"], [[i, i % 2] for i in range(20)]).rpartition("/")[0]
    pauses: list[float] = []
    report = poll(asked(uri), claims=claim.claims, sleep=pauses.append)
    assert (report["result"], report["files"], pauses) == ("Completed", 1, [60])
    run = claim.train(claim.spec(uri, "y", "Classification", "GaussianNB"))
    assert run["data"]["version"] == report["version"]


def test_data_that_change_between_two_looks_are_not_there_yet(claim: Any) -> None:
    claim.text("d/a.csv", ROWS)
    with pytest.raises(TrainingError) as caught:
        poll(asked("pvc://models/d"), claims=claim.claims, sleep=lambda _: claim.text("d/b.csv", ROWS))
    assert (caught.value.reason, caught.value.exit_code) == ("DataChanging", 1)
    assert caught.value.message == "pvc://models/d changed within 60 seconds; it is looked at again"


def test_no_data_are_no_new_data(claim: Any) -> None:
    claim.text("d/_SUCCESS", "")
    for uri in ("pvc://models/d", "pvc://models/none"):
        with pytest.raises(TrainingError) as caught:
            poll(asked(uri), claims=claim.claims, sleep=lambda _: None)
        assert caught.value.reason == "DataNotFound"


def test_a_web_file_is_told_by_its_head_and_one_that_tells_nothing_cannot_be_polled(tmp_path: Path) -> None:
    with serve() as origin:

        def version(*headers: str) -> str:
            origin.pages["/data.csv"] = answer(b"", "200 OK", *headers)
            return str(poll(asked(origin.url("/data.csv")), web=LOOPBACK, sleep=lambda _: None)["version"])

        assert version('ETag: "1"') == version('ETag: "1"') != version('ETag: "2"')
        assert all(head.startswith(b"HEAD ") for head in origin.seen)
        with pytest.raises(TrainingError, match="neither an ETag nor when it was changed") as caught:
            version()
        assert (caught.value.reason, caught.value.exit_code) == ("DataInvalid", 3)


def test_the_program_polls_without_loading_what_only_training_needs(claim: Any) -> None:
    claim.text("d/a.csv", ROWS)
    code = (
        "import sys; from pathlib import Path; from holdfast_training.__main__ import main;"
        "code = main(['poll'], claims=Path(sys.argv[1]), termination_log=Path(sys.argv[2]));"
        "sys.exit(code or 9 * bool({'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    (claim.claims / "last-word").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(claim.claims), str(claim.claims / "last-word")],
        env={**os.environ, "HOLDFAST_POLL": asked("pvc://models/d", 0)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ended, message, log = finish(process, claim.claims)
    assert (ended, message["result"], message["files"]) == (0, "Completed", 1)
    assert log[-1]["event"] == "Completed"

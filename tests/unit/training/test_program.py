"""The program as the pod runs it: a process with HOLDFAST_RUN, an exit code and a last word."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast_bundle import termination, verify
from holdfast_training import cpu, datasets
from holdfast_training.__main__ import guarded, main

START = """
import sys
from pathlib import Path
from holdfast_training.__main__ import main
sys.exit(main(sys.argv[3:], claims=Path(sys.argv[1]), termination_log=Path(sys.argv[2]), progress_port=0))
"""


def start(claims: Path, run: Any, **environment: str) -> subprocess.Popen[str]:
    (claims / "last-word").touch()
    document = run if isinstance(run, str) else json.dumps(run)
    return subprocess.Popen(
        [sys.executable, "-c", START, str(claims), str(claims / "last-word")],
        env={**os.environ, "HOLDFAST_RUN": document, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], claims: Path) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """Exit code, termination message, log lines."""
    stdout, _ = process.communicate(timeout=120)
    raw = (claims / "last-word").read_bytes()
    assert len(raw) < 4096
    return process.returncode, json.loads(raw or b"{}"), [json.loads(line) for line in stdout.splitlines()]


def test_the_same_run_gives_the_same_digest_in_another_process_folder_and_hash_seed(
    claim: Any, mixed: Any, tmp_path: Path
) -> None:
    header, rows = mixed("breast-cancer")
    document = claim.spec("pvc://models/data.csv", "diagnosis", "Classification", "RandomForestClassifier")
    elsewhere = type(claim)(tmp_path / "another" / "claims")
    elsewhere.root.mkdir(parents=True)
    for each in (claim, elsewhere):
        each.rows("data.csv", header, rows)
    process = start(elsewhere.claims, document, PYTHONHASHSEED="1")  # this process has one by chance
    code, message, log = finish(process, elsewhere.claims)
    assert code == 0
    assert message["model"] == claim.train(document)["model"]
    assert verify.verify(elsewhere.root / "out" / document["output"]["folder"], message["model"]["digest"])
    assert [line["event"] for line in log] == [
        "located", "read", "fitted", "measured", "converted", "published", "Completed",
    ]  # fmt: skip


def test_the_cpu_limit_does_not_change_the_model(claim: Any, shipped: Path) -> None:
    program = """
import sys
from pathlib import Path
from holdfast_training import cpu
cpu.threads = lambda: int(sys.argv[1])
from holdfast_training.__main__ import main
sys.exit(main([], claims=Path(sys.argv[2]), termination_log=Path(sys.argv[3]), progress_port=0))
"""
    uri = claim.text("data.csv", (shipped / "digits.csv").read_bytes())
    parameters = {"hidden_layer_sizes": "[64]", "max_iter": "3"}
    digests = []
    for threads in (1, 2):
        document = claim.spec(uri, "digit", "Classification", "MLPClassifier", parameters=parameters)
        word = claim.text(f"word-{threads}", "").removeprefix("pvc://")
        subprocess.run(
            [sys.executable, "-c", program, str(threads), str(claim.claims), str(claim.claims / word)],
            env={**os.environ, "HOLDFAST_RUN": json.dumps(document)},
            check=True,
            capture_output=True,
        )
        digests.append(json.loads((claim.claims / word).read_text())["model"]["digest"])
    assert digests[0] == digests[1]


def test_a_permanent_failure_ends_with_3_and_its_words(claim: Any) -> None:
    uri = claim.rows("data.csv", ["a", "y"], [["x" if i == 6 else i, i % 2] for i in range(40)])
    document = claim.spec(uri, "y", "Classification", "GaussianNB")
    code, message, log = finish(start(claim.claims, document), claim.claims)
    assert code == 3
    assert message["reason"] == "DataInvalid"
    assert message["message"].startswith("column a: 1 row holds text in a numeric column, first at row 7")
    words = message["message"].removeprefix("column a: ")
    assert message["findings"] == [{"column": "a", "rule": "NotNumeric", "message": words, "rows": 1}]
    assert log[-1]["event"] == "failed"
    assert log[-1]["reason"] == "DataInvalid"


def test_a_run_that_cannot_be_read_is_a_defect_without_details(claim: Any) -> None:
    code, message, _ = finish(start(claim.claims, '{"data": {"uri": "secret"}}'), claim.claims)
    assert code == 1
    assert message == {
        "reason": "InternalError",
        "message": "a defect of the trainer (KeyError); the pod's log has the details",
        "findings": [],
    }


def test_a_failure_that_may_pass_ends_with_1(claim: Any) -> None:
    (claim.root / "out").write_text("a file where the folder should be")
    uri = claim.rows("data.csv", ["a", "y"], [[i, i % 2] for i in range(40)])
    message, code = guarded(lambda: claim.train(claim.spec(uri, "y", "Classification", "GaussianNB")))
    assert (code, message["reason"]) == (1, "OutputNotWritable")
    assert message["message"] == "pvc://models/out/run-1: File exists"


def test_running_out_of_memory_is_permanent_and_said() -> None:
    message, code = guarded(lambda: {"too large": [0] * sys.maxsize})
    assert (code, message["reason"]) == (3, "OutOfMemory")


def test_many_findings_and_long_names_fit_into_the_termination_message(claim: Any) -> None:
    names = [f"{i:03}-{'ü' * 200}" for i in range(60)]
    uri = claim.rows("data.csv", [*names, "y"], [[*["x" if i == 2 else 1] * 60, i % 2] for i in range(40)])
    document = claim.spec(uri, "y", "Classification", "GaussianNB", features={"numeric": names})
    payload, code = guarded(lambda: claim.train(document))
    message = json.loads(termination.encode(payload))
    assert (code, message["reason"]) == (3, "DataInvalid")
    assert 0 < len(message["findings"]) <= 16
    assert all(len(finding["column"]) <= 128 for finding in message["findings"])


def test_sigterm_in_the_middle_of_a_fit_ends_the_process_and_leaves_nothing(claim: Any) -> None:
    rows = [[i, i * 7 % 1000, i * 13 % 777, i % 2] for i in range(20_000)]
    uri = claim.rows("data.csv", ["a", "b", "c", "y"], rows)
    document = claim.spec(uri, "y", "Classification", "SVC", parameters={"C": "1e6", "cache_size": "50"})
    process = start(claim.claims, document)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "read":
            break  # from here on it is inside one call of libsvm, for minutes
    staging = list((claim.root / "out").iterdir())
    assert [path.name.endswith(".partial") for path in staging] == [True]
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, message, log = finish(process, claim.claims)
    assert time.monotonic() - started < 60
    assert code == 143
    assert message == {}
    assert [line["event"] for line in log] == ["stopped"]
    assert list((claim.root / "out").iterdir()) == []


@pytest.mark.parametrize("name", datasets.NAMES)
def test_data_sets_are_written_with_the_same_bytes_every_time(name: str, shipped: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / f"{name}.csv"
    digest = datasets.write(name, path)
    assert digest == f"sha256:{hashlib.sha256((shipped / path.name).read_bytes()).hexdigest()}"
    assert os.listdir(path.parent) == [path.name]


def test_digits_are_images_too_with_the_same_bytes_every_time(tmp_path: Path) -> None:
    digests = {datasets.write("digits", tmp_path / f"{number}.npz") for number in range(2)}
    assert len(digests) == 1
    with np.load(tmp_path / "0.npz") as arrays:
        assert (arrays["image"].shape, arrays["image"].dtype, arrays["digit"].shape) == (
            (1797, 8, 8),
            np.uint8,
            (1797,),
        )


def test_a_data_set_without_images_is_not_written_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "wine", "--output", str(tmp_path / "wine.npz")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'wine.npz'}: wine has no images; digits has\n"
    assert not list(tmp_path.iterdir())


def test_the_dataset_command_prints_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "wine.csv"
    arguments = [sys.executable, "-m", "holdfast_training", "dataset", "wine", "--output", str(path)]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert printed == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n"
    assert path.read_text().startswith("alcohol,malic_acid,")
    assert len(path.read_text().splitlines()) == 179


def test_the_dataset_command_says_what_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["dataset", "wine", "--output", str(tmp_path / "file" / "wine.csv")]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/file/wine.csv: File exists\n"


def test_threads_are_limited_before_numpy_is_loaded() -> None:
    code = "import sys, holdfast_training.__main__; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, 1),
        ({"cpu.max": "max 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "nonsense"}, 1),
    ],
)
def test_threads_are_the_whole_cpus_of_the_limit(files: dict[str, str], threads: int, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu.threads(tmp_path) == threads

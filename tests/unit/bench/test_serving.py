"""The serving benchmark sees what is wrong, and adds up what it must."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.serving import counters, image, page, questions
from bench.serving.calls import call
from bench.serving.client import Client, Witness
from bench.serving.findings import Findings
from bench.serving.questions import Question, WrongAnswerError
from tests.unit.serving import zoo
from tests.unit.serving.server import serving

ROWS = {"X": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)}
EXPECTED = {"label": np.array([1]), "probabilities": np.array([[0.25, 0.5, 0.25]], np.float32)}


def answer(**changes: Any) -> bytes:
    document = json.loads(questions.in_json("iris", ROWS, EXPECTED).answer("iris", "1"))
    for output in document["outputs"]:
        output |= changes.get(output["name"], {})
    document["outputs"] = [output for output in document["outputs"] if changes.get(output["name"]) != {}]
    return json.dumps(document).encode()


@pytest.mark.parametrize("make", [questions.in_json, questions.in_binary])
def test_the_right_answer_is_right(make: Any) -> None:
    make("iris", ROWS, EXPECTED).check(200, {}, answer())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, answer()),
        (200, b"{}"),
        (200, answer()[:-1]),
        (200, answer(label={})),
        (200, answer(label={"data": [2]})),
        (200, answer(probabilities={"data": [0.25, 0.5, 0.26]})),
        (200, answer(probabilities={"data": [0.25, 0.5]})),
    ],
    ids=["status", "empty", "cut", "missing", "label", "number", "size"],
)
def test_a_wrong_answer_is_seen(status: int, body: bytes) -> None:
    with pytest.raises(WrongAnswerError):
        questions.in_json("iris", ROWS, EXPECTED).check(status, {}, body)


def test_a_wrong_answer_over_grpc_is_seen() -> None:
    asked = call("iris", ROWS, EXPECTED)
    asked.check(asked.answer("iris", "1"))
    wrong = call("iris", ROWS, {**EXPECTED, "label": np.array([2])})
    with pytest.raises(WrongAnswerError):
        asked.check(wrong.answer("iris", "1"))


def test_a_witness_beside_the_load_sees_one_wrong_answer(tmp_path: Path) -> None:
    subject = zoo.logistic_regression()
    with serving(tmp_path, subject.content) as server:

        def asked(number: int, **expected: Any) -> Question:
            rows = {"X": subject.rows["X"][[number]]}
            right = {name: values[[number]] for name, values in subject.answers.items()}
            return questions.in_json(server.name, rows, right | expected)

        for last, sees in ((asked(2), False), (asked(2, label=np.array([9])), True)):
            witness = Witness(lambda: Client(server.port), [asked(0), asked(1), last], pause=0.001)
            witness.start()
            while witness.is_alive() and witness.asked < 10:
                pass
            if sees:
                with pytest.raises(WrongAnswerError, match="label"):
                    witness.finish()
            else:
                witness.finish()


def test_a_failure_is_one_server_s_alone_and_takes_its_figures() -> None:
    found = Findings()
    for rate in (3.0, 1.0, 2.0):
        found.add("good", rate=rate)
    found.add("bad", rate=9.0)
    with found.guarded("bad"):
        raise WrongAnswerError("no")
    assert found.medians("rate") == {"good": 2.0}
    assert found.rows()["good"]["rate"] == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert found.failures == {"bad": "no"}


def test_an_image_s_size_is_what_its_own_layers_leave(tmp_path: Path) -> None:
    base = layer({"usr/bin/python": 1000})
    ours = layer({"opt/holdfast/a": 10, "opt/holdfast/b/c": 20, "opt/holdfast/b/d": 30})
    last = layer({"opt/holdfast/a": 5, "opt/holdfast/.wh.b": 0, "etc/x": 7})
    archive = tmp_path / "image.tar"
    parts = {"1.tar": base, "2.tar": ours, "3.tar": last}
    parts["manifest.json"] = json.dumps([{"Layers": ["1.tar", "2.tar", "3.tar"]}]).encode()
    archive.write_bytes(packed(parts))
    assert image.own_files(archive) == {"opt/holdfast/a": 5, "etc/x": 7}


def layer(sizes: dict[str, int]) -> bytes:
    return packed({name: bytes(size) for name, size in sizes.items()})


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_the_page_says_what_was_measured_and_what_was_not() -> None:
    keys = ("mlp_c64_of_raw", "counters_cost", "ready_ms", "pss_mb", "image_mb", *page.FROM_ELSEWHERE)
    text = page.page(
        {
            "iris_json_c32": {"holdfast": 3000.0, "fastapi": 100.0},
            "iris_json_c1_p50_us": {"holdfast": 50.0, "null": 40.0},
            "grpc_c32": {},
            "cnn_of_raw": 0.97,
            **dict.fromkeys(keys),
            "failures": {"kserve": "it died"},
            "rows": {
                "holdfast": {
                    "iris_json_c32": {"median": 3000.0, "min": 2900.0, "max": 3100.0},
                    "iris_json_c32_cpu_us": {"median": 10.0, "min": 9.0, "max": 11.0},
                },
                "fastapi": {"iris_json_c32_cpu_us": {"median": 90.0, "min": 90.0, "max": 90.0}},
            },
            "run": {"rounds": 3, "seconds": 5.0, "cores": 2, "load_average": 1.0, "python": "3.11.7"},
        }
    )
    assert "| ≥ 15 × fastapi | 30.00 × | 9.00 × |" in text
    assert "null + 10 µs" in text
    assert "| ≥ 28 × mlserver | not measured | not measured |" in text
    assert "| 0.97 |  |" in text
    assert "`kserve` failed: it died" in text
    assert re.search(r"3,000 \(2,900 to 3,100\)", text)


METRICS = """
holdfast_inference_requests_total{model="m",outcome="ok",revision="r"} 3.0
holdfast_inference_requests_total{model="m",outcome="failed",revision="r"} 1.0
holdfast_model_feature_bin_total{bin="0",feature="width",model="m",revision="r"} 1.0
holdfast_model_feature_bin_total{bin="1",feature="width",model="m",revision="r"} 2.0
holdfast_model_prediction_bin_total{bin="0",model="m",revision="r"} 3.0
holdfast_model_confidence_bin_total{bin="0",model="m",revision="r"} 3.0
"""


def test_rows_are_added_up_by_what_they_are_counted_for() -> None:
    assert counters.totals(METRICS) == {"requests": 3, "width": 3, "prediction": 3, "confidence": 3}

"""The classification extension: the largest elements of an output as texts, over REST and gRPC."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from tests.unit.serving import models
from tests.unit.serving.grpc_client import client, request
from tests.unit.serving.server import Server, claim, serving, until, write_bundle

from holdfast_bundle.manifest import Tensor
from holdfast_serving.classification import MAX_TEXTS, largest
from holdfast_serving.codec import RestCodec
from holdfast_serving.problems import Problem
from holdfast_serving.signature import Signature

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]], np.float32)
LABELS = ("setosa", "versicolor", "é:x")
NAMED = [Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 3), LABELS)]


@pytest.fixture(scope="module", params=["batched", "one by one"])
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """iris, whose manifest calls its classes by names."""
    folder = tmp_path_factory.mktemp("named")
    digest = write_bundle(claim(folder) / "iris", models.iris(), outputs=NAMED)
    rows = {"HOLDFAST_MAX_BATCH_ROWS": "1"} if request.param == "one by one" else {}
    with Server(folder, "pvc://models/iris", digest, **rows) as server:
        until(server.ready, "readiness")
        yield server


def body(rows: Any = ROWS, **parameters: Any) -> dict[str, Any]:
    inputs = [{"name": "X", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}]
    return {"inputs": inputs, "outputs": [{"name": "label"}, {"name": "probabilities", "parameters": parameters}]}


def expected(count: int) -> list[tuple[float, int, str]]:
    _, probabilities = onnxruntime.InferenceSession(models.iris()).run(None, {"X": ROWS})
    return [
        (row[index], index, LABELS[index])
        for row in probabilities
        for index in sorted(range(3), key=row.__getitem__, reverse=True)[:count]
    ]


def right(texts: list[str], count: int) -> None:
    assert len(texts) == count * len(ROWS)
    for text, (value, index, label) in zip(texts, expected(count), strict=True):
        told, place, name = text.split(":", 2)
        assert (int(place), name) == (index, label)
        assert float(told) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2), (3, 3), (1 << 60, 3)])
def test_json_has_the_largest_with_their_places_and_labels(named: Server, asked: int, given: int) -> None:
    answer = named.infer(body(classification=asked) | {"id": "7"}).json()
    label, classes = answer["outputs"]
    assert answer["id"] == "7"
    assert (label["datatype"], label["shape"], label["data"]) == ("INT64", [3], [0, 2, 1])
    assert (classes["name"], classes["datatype"], classes["shape"]) == ("probabilities", "BYTES", [3, given])
    right(classes["data"], given)


def test_as_binary_data_they_are_texts_with_their_lengths(named: Server) -> None:
    answer = named.infer(body(classification=2, binary_data=True))
    size = int(answer.headers["inference-header-content-length"])
    rest, texts = answer.content[size:], []
    while rest:
        (length,) = struct.unpack_from("<I", rest)
        texts.append(rest[4 : 4 + length].decode())
        rest = rest[4 + length :]
    right(texts, 2)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_grpc_gives_the_same(named: Server, raw: bool, kind: str) -> None:
    outputs = [{"name": "probabilities", "parameters": {"classification": {kind: 2}}}, {"name": "label"}]
    fields = request(raw, X=("FP32", [3, 4], ROWS.ravel().tolist()), outputs=outputs)
    with client(named) as made:
        for _ in range(4):  # what repeats itself is read by its form from the third time on
            answer = made.call("ModelInfer", **fields)
            classes, label = answer.outputs
            assert (classes.datatype, list(classes.shape)) == ("BYTES", [3, 2])
            assert (label.datatype, list(label.shape)) == ("INT64", [3])
            if raw:
                content, texts = answer.raw_output_contents[0], []
                while content:
                    (length,) = struct.unpack_from("<I", content)
                    texts.append(content[4 : 4 + length].decode())
                    content = content[4 + length :]
            else:
                texts = [text.decode() for text in classes.contents.bytes_contents]
            right(texts, 2)


class Nobody:
    """A client of which nothing is expected."""

    transport = None

    def respond(self, status: int, body: bytes, fields: bytes = b"") -> None: ...

    def respond_problem(self, problem: Problem) -> None: ...


WRONG: list[tuple[str, str, Any, str]] = [
    ("none", "probabilities", 0, "a number of classes"),
    ("less than none", "probabilities", -1, "a number of classes"),
    ("a text", "probabilities", "2", "a number of classes"),
    ("a switch", "probabilities", True, "a number of classes"),
    ("no classes", "label", 2, "one element for each row"),
]


@pytest.mark.parametrize(("output", "count", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_cannot_be_classified_is_told_why(iris: Server, output: str, count: Any, words: str) -> None:
    asked = body() | {"outputs": [{"name": output, "parameters": {"classification": count}}]}
    answer = iris.infer(asked)
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text


def test_over_grpc_what_cannot_be_classified_is_told_why(iris: Server) -> None:
    for output, count, words in (
        ("label", {"int64_param": 2}, "one element"),
        ("label", {"bool_param": True}, "a num"),
    ):
        outputs = [{"name": output, "parameters": {"classification": count}}]
        with client(iris) as made, pytest.raises(grpc.RpcError) as caught:
            made.call("ModelInfer", **request(X=("FP32", [1, 4], [1.0] * 4), outputs=outputs))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in caught.value.details()


def test_only_outputs_are_classified_and_not_too_many_at_once(iris: Server) -> None:
    item = body()["inputs"][0]
    for asked in (
        body() | {"parameters": {"classification": 2}},
        {"inputs": [item | {"parameters": {"classification": 2}}]},
    ):
        answer = iris.infer(asked)
        assert (answer.status_code, "is for outputs" in answer.json()["error"]) == (400, True)
    many = np.ones((MAX_TEXTS // 3 + 1, 4), np.float32)
    answer = iris.infer(body(many, classification=3))
    assert (answer.status_code, f"at most {MAX_TEXTS} texts" in answer.json()["error"]) == (400, True)


def test_halves_can_be_classified_where_json_cannot_carry_them(tmp_path: Path) -> None:
    with serving(tmp_path, models.echo("FP16", None, 4)) as server, client(server) as made:
        values = [0.5, 2.0, -1.0, 2.0]
        outputs = [{"name": "y", "parameters": {"classification": {"int64_param": 3}}}]
        answer = made.call("ModelInfer", **request(True, x=("FP16", [1, 4], values), outputs=outputs))
        assert answer.raw_output_contents[0].count(b":") == 3
        data = np.array(values, np.float16).tobytes()
        head = (
            b'{"inputs":[{"name":"x","datatype":"FP16","shape":[1,4],"parameters":{"binary_data_size":8}}],'
            b'"outputs":[{"name":"y","parameters":{"classification":3}}]}'
        )
        size = {"Inference-Header-Content-Length": str(len(head))}
        given = server._client.post(server.url + server.infer_path, content=head + data, headers=size).json()
        assert given["outputs"][0]["data"] == ["2.0:1", "2.0:3", "0.5:0"]


@pytest.mark.parametrize(
    ("array", "count", "texts"),
    [
        (np.array([[1, 5, 5], [7, 0, 2]], np.int64), 2, [["5:1", "5:2"], ["7:0", "2:2"]]),
        (np.array([[2**63 - 1, 2**63 - 2]], np.int64), 1, [[f"{2**63 - 1}:0"]]),
        (np.array([[0, 2**64 - 1]], np.uint64), 1, [[f"{2**64 - 1}:1"]]),
        (np.array([[np.nan, -np.inf, 0.1]], np.float32), 3, [["0.1:2", "nan:0", "-inf:1"]]),
        (np.array([[1e-9, 1e-8]], np.float32), 2, [["1e-08:1", "1e-09:0"]]),
        (np.arange(8).reshape(2, 2, 2), 1, [["3:3"], ["7:3"]]),
        (np.empty((2, 0)), 5, [[], []]),
    ],
)
def test_the_largest_come_first_and_of_equal_ones_the_first(array: Any, count: int, texts: list[list[str]]) -> None:
    assert largest(array, count, ()).tolist() == texts


@pytest.mark.parametrize("labels", [LABELS, ()])
def test_who_asks_for_labels_is_answered_by_the_revision_that_has_them(labels: tuple[str, ...]) -> None:
    outputs = (Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 3), labels))
    codec = RestCodec(Signature((Tensor("X", "FP32", (-1, 4)),), outputs), "wine", "1")
    for asked, pinned in ((body(), False), (body(classification=1), bool(labels))):
        assert codec.decode(json.dumps(asked).encode(), Nobody()).pinned is pinned


def test_labels_of_another_number_are_left_out() -> None:
    assert largest(np.array([[1, 2]]), 1, ("a", "b")).tolist() == [["2:1:b"]]
    assert largest(np.array([[1, 2]]), 1, ("a", "b", "c")).tolist() == [["2:1"]]


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("iris"), models.iris()) as server:
        yield server

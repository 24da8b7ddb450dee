"""Models as users bring them are served by the real server, which answers as the runtime and the framework do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tests.unit.serving import grpc_client, zoo
from tests.unit.serving import test_binary as binary
from tests.unit.serving.server import Server, serving, wire
from tests.unit.serving.zoo import Array, Subject

from holdfast_serving.signature import NUMPY

SUBJECTS: dict[str, Callable[[], Subject]] = {
    make.__name__: make
    for make in (
        zoo.logistic_regression,
        zoo.perceptron,
        zoo.gradient_boosting,
        zoo.regression,
        zoo.mixed_columns,
        zoo.xgboost,
        zoo.lightgbm,
        zoo.convolutions,
        zoo.transformer,
    )
}
DATATYPES = {dtype: name for name, dtype in NUMPY.items()}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@contextmanager
def served(subject: Subject, folder: Path) -> Iterator[Server]:
    with serving(folder, subject.content) as server:
        yield server


def described(rows: dict[str, Array]) -> dict[str, tuple[str, list[int], list[Any]]]:
    """(datatype, shape, elements) by name."""
    return {
        name: (DATATYPES[values.dtype], list(values.shape), values.ravel().tolist()) for name, values in rows.items()
    }


def by_json(server: Server, rows: dict[str, Array]) -> dict[str, Array]:
    """What the server answers in JSON."""
    return {
        name: np.array(output["data"], NUMPY[output["datatype"]]).reshape(output["shape"])
        for name, output in server.ask(**described(rows)).items()
    }


def by_binary(server: Server, rows: dict[str, Array]) -> dict[str, Array]:
    """What the server answers in bytes."""
    inputs = [
        binary.tensor(
            name,
            DATATYPES[values.dtype],
            list(values.shape),
            binary.texts(*values.ravel()) if values.dtype.kind == "O" else values.tobytes(),
        )
        for name, values in rows.items()
    ]
    with wire(server) as client:
        client.send(binary.post(*binary.body(*inputs, parameters={"binary_data_output": True})))
        return binary.of_reply(client.reply())


def by_grpc(server: Server, rows: dict[str, Array], *, raw: bool = False) -> dict[str, Array]:
    """What the server answers over gRPC, with typed contents or raw ones."""
    with grpc_client.client(server) as client:
        return client.infer(raw=raw, **described(rows))


WIRES: tuple[Callable[[Server, dict[str, Array]], dict[str, Array]], ...] = (
    by_json,
    by_binary,
    by_grpc,
    partial(by_grpc, raw=True),
)


def by_runtime(subject: Subject, rows: dict[str, Array]) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(subject.content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, rows), strict=True))


def agree(given: dict[str, Array], expected: dict[str, Array], **tolerance: float) -> None:
    """The same outputs of the same shapes and types, numbers within the tolerance."""
    assert given.keys() == expected.keys()
    for name, values in expected.items():
        assert (given[name].shape, given[name].dtype) == (values.shape, values.dtype), name
        if values.dtype.kind == "f":
            np.testing.assert_allclose(given[name], values, **(tolerance or CLOSE), err_msg=name)
        else:
            np.testing.assert_array_equal(given[name], values, err_msg=name)


def first(rows: dict[str, Array], count: int) -> dict[str, Array]:
    return {name: values[:count] for name, values in rows.items()}


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_model_is_answered_as_the_runtime_answers(name: str, tmp_path: Path) -> None:
    subject = SUBJECTS[name]()
    with served(subject, tmp_path) as server:
        for count in (1, 2, len(next(iter(subject.rows.values())))):
            rows = first(subject.rows, count)
            for ask in WIRES:
                agree(ask(server, rows), by_runtime(subject, rows))
        assert server.get(f"/v2/models/{server.name}").json()["parameters"]["batching"] is True


@pytest.mark.parametrize("name", [name for name in SUBJECTS if name not in ("convolutions", "transformer")])
def test_a_model_is_answered_as_its_framework_answers(name: str, tmp_path: Path) -> None:
    subject = SUBJECTS[name]()
    with served(subject, tmp_path) as server:
        given = by_json(server, subject.rows)
    assert given.keys() == subject.answers.keys()
    for output, expected in subject.answers.items():
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(given[output], expected, rtol=1e-3, atol=1e-4)
        else:
            assert given[output].tolist() == expected.tolist()


def test_a_dimension_may_vary_from_request_to_request(tmp_path: Path) -> None:
    subject = zoo.transformer()
    with served(subject, tmp_path) as server:
        for length in (1, 7, 128):
            rows = {"ids": subject.rows["ids"][:2, :length]}
            for ask in WIRES:
                given = ask(server, rows)
                assert given["words"].shape == (2, length, 16)
                agree(given, by_runtime(subject, rows))


def test_a_model_in_half_precision_is_answered_in_bytes(tmp_path: Path) -> None:
    subject = zoo.half_precision()
    with served(subject, tmp_path) as server:
        for ask in (by_binary, partial(by_grpc, raw=True)):
            given = ask(server, subject.rows)
            assert given["y"].dtype == np.float16
            agree(given, by_runtime(subject, subject.rows), rtol=1e-2)


def test_a_label_that_the_file_wrongly_says_to_be_one_row_is_one_per_row(tmp_path: Path) -> None:
    subject = zoo.lightgbm()
    (label, _) = onnxruntime.InferenceSession(subject.content, providers=["CPUExecutionProvider"]).get_outputs()
    assert label.shape == [1]
    with served(subject, tmp_path) as server:
        described = server.get(f"/v2/models/{server.name}").json()["outputs"]
    assert described[0] == {"name": "label", "datatype": "INT64", "shape": [-1]}

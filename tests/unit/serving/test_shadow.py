"""Copies go to the other revision, their answers are compared, and no client notices."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from tests.unit.serving import models
from tests.unit.serving.candidate import candidate, right, says
from tests.unit.serving.leases import TARGET, Operator
from tests.unit.serving.server import REVISION, Server, Wire, http, request, serving, until
from tests.unit.serving.test_router import KEYS, address, ask, hangs

from holdfast_bundle.manifest import Tensor
from holdfast_serving.shadow import Comparison


def scaled(factor: float, label: str = "Greater") -> bytes:
    """Gives x times a factor, and whether x is greater (or less) than 1."""
    return models.build(
        [models.node("Mul", "x factor", "y"), models.node(label, "x one", "big")],
        {"x": (models.FLOAT, [None, 2])},
        {"y": (models.FLOAT, [None, 2]), "big": (models.BOOL, [None, 2])},
        factor=np.array(factor, np.float32),
        one=np.array(1, np.float32),
    )


@contextmanager
def both(folder: Path, ours: bytes, theirs: bytes) -> Iterator[tuple[Server, Operator]]:
    """A server, and another revision with another model."""
    for name in ("ours", "theirs"):
        (folder / name).mkdir()
    with (
        serving(folder / "ours", ours, **KEYS) as server,
        serving(folder / "theirs", theirs, HOLDFAST_REVISION=TARGET) as other,
    ):
        yield server, Operator(server, address(other))


def rows(*values: float) -> dict[str, Any]:
    return request(x=("FP32", [len(values), 2], [value for value in values for _ in range(2)]))


def compared(operator: Operator, count: int) -> Any:
    """What was counted, once so many rows have been compared."""
    until(lambda: operator.read()["arms"]["comparison"]["rows"] == count, f"{count} rows")
    return operator.read()["arms"]["comparison"]


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance", "expected"),
    [
        (scaled(1), scaled(1), 0, (0, 0, 0)),
        (scaled(1), scaled(1.001), 0.01, (0, 0, 0)),
        (scaled(1), scaled(1.001), 0.0001, (3, 3, 0)),
        (scaled(1), scaled(1, "GreaterOrEqual"), 0, (1, 0, 1)),
    ],
)
def test_rows_that_differ_are_counted_by_output(
    tmp_path: Path, ours: bytes, theirs: bytes, tolerance: float, expected: tuple[int, int, int]
) -> None:
    with both(tmp_path, ours, theirs) as (server, operator):
        operator.grant("shadow", tolerance={"relative": tolerance, "absolute": 0})
        answer = server.infer(rows(1, 2, 3)).json()
        assert answer["model_version"] == REVISION
        found = compared(operator, 3)
        assert (found["disagreeing"], found["outputs"]["y"], found["outputs"]["big"]) == expected
        assert server.metric("holdfast_router_compared_rows_total", revision=TARGET) == 3
        assert server.metric("holdfast_router_disagreeing_rows_total", revision=TARGET) == expected[0]
        assert server.metric("holdfast_router_disagreeing_outputs_total", output="big") == expected[2]
        assert operator.outcomes("local") == operator.outcomes("target") == {"ok": 1}


def test_requests_of_one_batch_are_compared_row_by_row(tmp_path: Path) -> None:
    with both(tmp_path, scaled(1), scaled(1)) as (server, operator), ExitStack() as stack:
        operator.grant("shadow", tolerance={"relative": 0, "absolute": 0})
        wires = [Wire(stack.enter_context(server.connect())) for _ in range(32)]
        for wire in wires:  # until it has accepted all of them
            wire.send(http("GET", "/v2/health/live"))
            assert wire.reply() is not None
        server.process.send_signal(signal.SIGSTOP)  # so that it finds all of them at once
        for number, wire in enumerate(wires):
            wire.send(http("POST", server.infer_path, json.dumps(rows(number, -number)).encode()))
        server.process.send_signal(signal.SIGCONT)
        for wire in wires:
            reply = wire.reply()
            assert reply is not None
            assert reply.status == 200
        assert compared(operator, 64)["disagreeing"] == 0
        assert server.metric("holdfast_inference_batch_rows_bucket", le="2") < 32


def test_large_answers_are_compared_beside_the_loop(tmp_path: Path) -> None:
    values = [0.5] * 50_000
    with both(tmp_path, scaled(1), scaled(2)) as (server, operator):
        operator.grant("shadow")
        assert server.infer(rows(*values)).status_code == 200
        assert compared(operator, len(values))["disagreeing"] == len(values)


def test_a_model_without_rows_is_compared_whole(tmp_path: Path) -> None:
    echo = models.echo("FP32", 1, 4)
    with both(tmp_path, echo, echo) as (server, operator):
        operator.grant("shadow")
        server.ask(x=("FP32", [1, 4], [1, 2, 3, 4]))
        assert compared(operator, 1)["disagreeing"] == 0
        operator.grant("all")
        assert server.infer(request(x=("FP32", [1, 4], [1, 2, 3, 4]))).json()["model_version"] == TARGET


def test_a_part_of_the_requests_is_copied(tmp_path: Path) -> None:
    with both(tmp_path, models.iris(), models.iris()) as (server, operator):
        operator.grant("shadow", weight=0.3)
        assert ask(server, 1000, 4) == {(200, REVISION): 1000}
        drawn = operator.arm("target")["drawn"]
        assert binom.ppf(5e-7, 1000, 0.3) <= drawn <= binom.isf(5e-7, 1000, 0.3)
        assert operator.arm("local")["drawn"] == drawn
        assert compared(operator, drawn)["disagreeing"] == 0


def test_clients_do_not_wait_for_a_shadow_that_hangs(tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0), backlog=512)
    with serving(tmp_path, models.iris(), **KEYS) as server, silent as sock:
        operator = Operator(server, f"127.0.0.1:{sock.getsockname()[1]}")
        operator.grant("shadow", hedgeMilliseconds=60000)
        began = time.perf_counter()
        assert ask(server, 500, 10) == {(200, REVISION): 500}
        assert time.perf_counter() - began < 60
        assert operator.outcomes() == {"saturated": 244}  # dropped: 256 are there
        assert operator.outcomes("local") == {"ok": 500}


@pytest.mark.parametrize(
    ("fault", "hedge", "outcome"),
    [(hangs, 50, "timeout"), (says(lambda n: b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"), 60_000, "failed")],
)
def test_a_shadow_that_fails_is_counted_and_not_compared(
    tmp_path: Path, fault: Callable[..., bool | None], hedge: int, outcome: str
) -> None:
    with serving(tmp_path, models.iris(), **KEYS) as server, candidate(fault) as target:
        operator = Operator(server, target.address)
        operator.grant("shadow", hedgeMilliseconds=hedge)
        assert ask(server, 10) == {(200, REVISION): 10}
        until(lambda: operator.outcomes() == {outcome: 10}, "outcomes")
        assert operator.read()["arms"]["comparison"]["rows"] == 0


def test_an_answer_that_is_another_is_a_disagreement(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), **KEYS) as server, candidate(right) as target:
        operator = Operator(server, target.address)
        operator.grant("shadow")
        assert ask(server, 10) == {(200, REVISION): 10}
        assert compared(operator, 10) == {"rows": 10, "disagreeing": 10, "outputs": {"label": 10, "probabilities": 10}}


def test_numbers_that_are_none_agree_with_themselves_only() -> None:
    comparison = Comparison([Tensor("y", "FP32", (-1,))], has_rows=True)
    nan, inf = np.nan, np.inf
    ours = np.array([nan, inf, -inf, inf, nan, 1, 1e38], np.float32)
    theirs = np.array([nan, inf, -inf, -inf, 1, nan, -1e38], np.float32)
    comparison.compare([ours], [theirs], 0.1, 0.1)
    assert (comparison.rows, comparison.disagreeing) == (7, 4)


def test_another_shape_is_a_disagreement_of_every_row() -> None:
    comparison = Comparison([Tensor("y", "FP32", (-1, -1))], has_rows=True)
    comparison.compare([np.ones((3, 2), np.float32)], [np.ones((3, 1), np.float32)], 1, 1)
    assert (comparison.rows, comparison.disagreeing) == (3, 3)


def test_texts_are_compared_as_texts() -> None:
    comparison = Comparison([Tensor("y", "BYTES", (-1,))], has_rows=True)
    comparison.compare([np.array(["a", "b"], object)], [np.array(["a", "c"], object)], 1, 1)
    assert (comparison.rows, comparison.disagreeing) == (2, 1)


def test_answers_without_elements_agree() -> None:
    comparison = Comparison([Tensor("y", "FP32", (-1, -1))], has_rows=True)
    comparison.compare([np.ones((3, 0), np.float32)], [np.ones((3, 0), np.float32)], 0, 0)
    assert (comparison.rows, comparison.disagreeing) == (3, 0)


def test_where_answers_have_labels_these_alone_tell_a_disagreement() -> None:
    comparison = Comparison([Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 2))], has_rows=True)
    labels, sure, unsure = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.6, 0.4], [0.4, 0.6]])
    comparison.compare([labels, sure], [labels, unsure], 0.0, 0.0)
    assert (comparison.rows, comparison.disagreeing, comparison.by_output) == (2, 0, [0, 2])
    comparison.compare([labels, sure], [labels[::-1], sure], 0.0, 0.0)
    assert (comparison.rows, comparison.disagreeing, comparison.by_output) == (4, 2, [2, 2])

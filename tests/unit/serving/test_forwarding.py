"""Whatever can be asked of this revision can be asked of another one through it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.serving import grpc_client, models
from tests.unit.serving.candidate import answer, candidate, field, right, says
from tests.unit.serving.leases import TARGET, Operator
from tests.unit.serving.server import REVISION, request, serving, until
from tests.unit.serving.test_router import KEYS, hangs
from tests.unit.serving.test_shadow import both

from holdfast_bundle.manifest import Tensor
from holdfast_serving.lease import Target
from holdfast_serving.signature import Signature
from holdfast_serving.v2_client import Client, InvalidAnswer, _read_texts

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False], "BYTES": ["", "été\n%b"], "FP32": [0.5, -2e38], "FP64": [0.1, -1e308], "INT8": [-128, 127],
    "INT16": [-32768, 32767], "INT32": [-(2**31), 2**31 - 1], "INT64": [-(2**63), 2**63 - 1], "UINT8": [0, 255],
    "UINT16": [0, 65535], "UINT32": [0, 2**32 - 1], "UINT64": [0, 2**64 - 1],
}  # fmt: skip


def echo_of_all() -> bytes:
    """Gives back an input of every datatype."""
    return models.build(
        [models.node("Identity", f"x_{name}", f"y_{name}") for name in VALUES],
        {f"x_{name}": (models.DATATYPES[name], [None, 2]) for name in VALUES},
        {f"y_{name}": (models.DATATYPES[name], [None, 2]) for name in VALUES},
    )


def test_every_datatype_goes_there_and_back(tmp_path: Path) -> None:
    with both(tmp_path, echo_of_all(), echo_of_all()) as (server, operator):
        body = request(**{f"x_{name}": (name, [2, 2], values * 2) for name, values in VALUES.items()})
        alone = server.infer(body).json()
        assert [output["data"] for output in alone["outputs"]] == [values * 2 for values in VALUES.values()]
        operator.grant("all")
        assert server.infer(body).json() == alone | {"model_version": TARGET}
        assert operator.outcomes() == {"ok": 1}


def test_strings_and_numbers_of_a_pipeline(tmp_path: Path) -> None:
    with both(tmp_path, models.colours(), models.colours()) as (server, operator):
        body = request(colour=("BYTES", [3, 1], ["red", "", "mauve"]), size=("FP32", [3, 1], [1, 6, None]))
        alone = server.infer(body).json()
        operator.grant("all")
        assert server.infer(body).json() == alone | {"model_version": TARGET}
        assert operator.outcomes() == {"ok": 1}


@pytest.mark.parametrize("size", [1, 7])
def test_dimensions_that_vary(tmp_path: Path, size: int) -> None:
    echo = models.echo("FP32", None, None)
    with both(tmp_path, echo, echo) as (server, operator):
        operator.grant("all")
        for rows in (1, 3):
            said = server.infer(request(x=("FP32", [rows, size], [0.5] * (rows * size)))).json()
            assert (said["model_version"], said["outputs"][0]["shape"]) == (TARGET, [rows, size])


@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
def test_a_large_request_and_a_large_answer_in_bytes(tmp_path: Path, datatype: str) -> None:
    data = np.arange(1_000_000, dtype="<f4" if datatype == "FP32" else "<f2").tobytes()
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": datatype,
                    "shape": [1000, 1000],
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    fields = {"Inference-Header-Content-Length": str(len(head))}
    echo = models.echo(datatype, None, 1000)
    with both(tmp_path, echo, echo) as (server, operator):
        operator.grant("all")
        for _ in range(3):
            said = httpx.post(server.url + server.infer_path, content=head + data, headers=fields, timeout=60)
            size = int(said.headers["inference-header-content-length"])
            assert json.loads(said.content[:size])["model_version"] == TARGET
            assert said.content[size:] == data
        assert operator.outcomes() == {"ok": 3}


def test_what_neither_can_write_is_the_request_s_fault(tmp_path: Path) -> None:
    """JSON has no NaN: here both models hand through the missing value that the request holds."""
    echo = models.echo("FP32", None)
    with both(tmp_path, echo, echo) as (server, operator):
        operator.grant("all")
        said = server.infer(request(x=("FP32", [1], [None])))
        assert (said.status_code, "missing" in said.json()["error"]) == (400, True)
        assert operator.outcomes() == {"client_error": 1}


def test_what_only_the_other_cannot_write_is_its_fault(tmp_path: Path) -> None:
    with both(tmp_path, models.build(
        [models.node("IsNaN", "x", "missing"), models.node("Where", "missing one x", "y")],
        {"x": (models.FLOAT, [None])}, {"y": (models.FLOAT, [None])}, one=np.array(1, np.float32),
    ), models.echo("FP32", None)) as (server, operator):  # fmt: skip
        operator.grant("all")
        said = server.infer(request(x=("FP32", [1], [None]))).json()
        assert (said["model_version"], said["outputs"][0]["data"]) == (REVISION, [1.0])
        assert operator.outcomes() == {"invalid": 1}


def test_a_model_that_fails_there_is_answered_here(tmp_path: Path) -> None:
    """The other one looks up what it does not have; this one has more of it."""
    with both(tmp_path, table(16), table(8)) as (server, operator):
        operator.grant("all")
        assert server.infer(request(i=("INT64", [1], [3]))).json()["model_version"] == TARGET
        said = server.infer(request(i=("INT64", [1], [12]))).json()
        assert (said["model_version"], said["outputs"][0]["data"]) == (REVISION, [12.0])
        assert operator.outcomes() == {"ok": 1, "failed": 1}
        assert server.infer(request(i=("INT64", [1], [99]))).status_code == 500
        assert operator.outcomes() == {"ok": 1, "failed": 2}


def table(size: int) -> bytes:
    return models.build(
        [models.node("Gather", "table i", "y", axis=0)],
        {"i": (models.INT64, [None])},
        {"y": (models.FLOAT, [None])},
        table=np.arange(size, dtype=np.float32),
    )


def test_what_this_revision_fails_on_is_counted_in_its_arm(tmp_path: Path) -> None:
    with both(tmp_path, table(8), table(8)) as (server, operator):
        operator.grant(weight=0)
        server.infer(request(i=("INT64", [1], [3])))
        server.infer(request(i=("INT64", [1], [12])))
        server.infer(request(i=("FP32", [1], [3])))  # not in order: it is not drawn
        assert operator.outcomes("local") == {"ok": 1, "failed": 1}


def test_outputs_may_come_in_another_order_and_with_others_beside_them(tmp_path: Path) -> None:
    def swapped(document: dict[str, Any]) -> None:
        label, probabilities = document["outputs"]
        extra = {"name": "more", "datatype": "INT8", "shape": [1], "parameters": {"binary_data_size": 1}}
        document["outputs"] = [probabilities, extra, label]

    other = says(lambda n: answer(n, change=swapped, data=lambda data: data[8 * n :] + b"\1" + data[: 8 * n]))
    with serving(tmp_path, models.iris(), **KEYS) as server, candidate(other) as target:
        Operator(server, target.address).grant("all")
        said = server.ask(X=("FP32", [1, 4], [1, 2, 3, 4]))
        assert (said["label"]["data"], said["probabilities"]["data"]) == ([9], [0.25] * 3)


def test_a_target_by_its_name(tmp_path: Path) -> None:
    with both(tmp_path, models.iris(), models.iris()) as (server, operator):
        operator.target["address"] = operator.target["address"].replace("127.0.0.1", "localhost")
        operator.grant("all")
        assert server.infer(request(X=("FP32", [1, 4], [1, 2, 3, 4]))).json()["model_version"] == TARGET


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 1),
        (b"\1\0\0\0", 1),
        (b"\xff\xff\xff\xffa", 1),
        (b"\1\0\0\0\xff", 1),
        (b"\0\0\0\0\0", 1),
        (b"\0\0\0\0", 2),
        (b"", 2**62),
    ],
)
def test_texts_that_are_none(data: bytes, count: int) -> None:
    with pytest.raises(InvalidAnswer):
        _read_texts(memoryview(data), count)


SIGNATURE = Signature(
    (Tensor("X", "FP32", (-1, 4)),), (Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 3)))
)


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), max_size=3))
def test_whatever_is_answered_fits_or_is_none(rows: int, changes: list[tuple[int, bytes]]) -> None:
    head, _, right_body = answer(rows).partition(b"\r\n\r\n")
    body = bytearray(right_body)
    for place, content in changes:
        body[place % len(body) : place % len(body) + 1] = content
    client = Client(SIGNATURE, "wine", Target(TARGET, "127.0.0.1", 80, None, 0), rows=True)
    fields = {b"inference-header-content-length": field(head, "Inference-Header-Content-Length").encode()}
    fields[b"server-timing"] = b"infer;dur=1"
    for _ in range(2):  # the second time by what is known
        try:
            (label, probabilities), seconds = client.read(fields, bytes(body), rows)
        except InvalidAnswer:
            continue
        assert (label.shape, label.dtype, probabilities.shape) == ((rows,), np.int64, (rows, 3))
        assert seconds == 0.001


@pytest.mark.parametrize("transport", ["holdfast", "grpcio"])
def test_a_grpc_client_gets_the_other_revision_s_answer_in_its_own_form(tmp_path: Path, transport: str) -> None:
    row = ("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2])
    with (
        candidate(right) as target,
        serving(tmp_path, models.iris(), HOLDFAST_GRPC_TRANSPORT=transport, **KEYS) as server,
        grpc_client.client(server) as client,
    ):
        operator = Operator(server, target.address)
        operator.grant("all", hedgeMilliseconds=4000)
        for raw in (False, True):
            said = client.call("ModelInfer", **grpc_client.request(raw, X=row, id="mine"))
            assert (said.model_version, said.id, len(said.raw_output_contents)) == (TARGET, "mine", 2 * raw)
            given = grpc_client.outputs(said)
            assert (given["label"].tolist(), given["probabilities"].tolist()) == ([9], [[0.25] * 3])
        said = client.call("ModelInfer", **grpc_client.request(X=row, model_version=REVISION))
        assert said.model_version == REVISION
        said = client.call("ModelInfer", **grpc_client.request(X=row), seconds=7)  # not enough for two attempts
        assert said.model_version == REVISION
        target.fault = hangs
        operator.grant("all", hedgeMilliseconds=100)
        assert client.call("ModelInfer", **grpc_client.request(X=row)).model_version == REVISION
        assert operator.outcomes() == {"ok": 2, "timeout": 1}


def test_a_grpc_client_is_asked_to_leave_while_the_lease_says_so(tmp_path: Path) -> None:
    row = grpc_client.request(X=("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2]))
    with (
        candidate(right) as target,
        serving(tmp_path, models.iris(), **KEYS) as server,
        grpc_client.client(server) as client,
    ):
        states: list[grpc.ChannelConnectivity] = []  # they are told in a thread
        client.channel.subscribe(states.append)
        operator = Operator(server, target.address)
        operator.grant("all")
        assert client.call("ModelInfer", **row).model_version == TARGET
        until(lambda: states[-1:] == [grpc.ChannelConnectivity.READY], "a client that is there")
        operator.grant("all", closeConnections=True)
        assert client.call("ModelInfer", **row).model_version == TARGET
        until(lambda: states[-1] is grpc.ChannelConnectivity.IDLE, "a client that has left")
        operator.grant("all")
        assert client.call("ModelInfer", **row).model_version == TARGET
        until(lambda: states[-1] is grpc.ChannelConnectivity.READY, "a client that is back")
        time.sleep(0.5)
        assert states[-1] is grpc.ChannelConnectivity.READY

"""Messages of the Open Inference Protocol to calls and back, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.serving import models
from tests.unit.serving.codec import EXTREMES
from tests.unit.serving.codec import Client as RestClient
from tests.unit.serving.grpc_client import outputs, raw_of, request

from holdfast_bundle.manifest import Tensor
from holdfast_serving import rows, session
from holdfast_serving.codec import RestCodec
from holdfast_serving.grpc import messages, wire
from holdfast_serving.grpc.codec import GrpcCall, GrpcCodec
from holdfast_serving.grpc.frames import Buffer
from holdfast_serving.inference import Outputs, feeds
from holdfast_serving.problems import Problem
from holdfast_serving.signature import Signature

REQUEST, RESPONSE = messages.inference("ModelInferRequest"), messages.inference("ModelInferResponse")


class Client:
    """Keeps its answer."""

    deadline = float("inf")
    gone = False

    def __init__(self) -> None:
        self.answer = b""

    def reply(self, parts: Sequence[Buffer]) -> None:
        self.answer = b"".join(parts)

    def fail(self, problem: Problem) -> None:
        raise problem


class Codec:
    """Decodes, runs and encodes as the server does."""

    def __init__(self, content: bytes, folder: Path) -> None:
        (folder / "model.onnx").write_bytes(content)
        self.model = session.load(folder / "model.onnx", 1)
        self.codec = GrpcCodec(self.model.signature, "wine", "1")
        self.joins = rows.why_apart(self.model, folder / "model.onnx", []) is None

    def ask(self, *requests: dict[str, Any]) -> list[Any]:
        """The answers to requests that share a run; raises Problem."""
        clients = [Client() for _ in requests]
        asked = [REQUEST(**fields).SerializeToString() for fields in requests]
        calls = [self.codec.decode(message, client) for message, client in zip(asked, clients, strict=True)]
        made = Outputs(self.model.run(feeds(self.model.signature, calls)), self.joins)
        end = 0
        for call in calls:
            start, end = end, end + (call.rows if self.joins else 1)
            call.answer(made, start, end)
        return [RESPONSE.FromString(client.answer) for client in clients]


@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
@pytest.mark.parametrize("datatype", EXTREMES)
@pytest.mark.parametrize("fixed", [False, True], ids=["rows", "fixed shape"])
def test_every_value_of_every_datatype_comes_back_as_it_went(
    tmp_path: Path, datatype: str, fixed: bool, raw: bool
) -> None:
    codec = Codec(models.echo(datatype, 3 if fixed else None), tmp_path)
    for _ in range(4):  # the form of a request is learned on the way
        (answer,) = codec.ask(request(raw, x=(datatype, [3], EXTREMES[datatype])))
        assert (answer.outputs[0].name, answer.outputs[0].datatype) == ("y", datatype)
        assert len(answer.raw_output_contents) == raw
        assert raw_of(datatype, outputs(answer)["y"].tolist()) == raw_of(datatype, EXTREMES[datatype])


@pytest.mark.parametrize("datatype", EXTREMES)
def test_every_row_of_a_run_goes_to_its_own_call(tmp_path: Path, datatype: str) -> None:
    codec = Codec(models.echo(datatype, None), tmp_path)
    values = EXTREMES[datatype]
    asked = [request(raw, x=(datatype, [1], [value])) for value in values for raw in (False, True)]
    asked.append(request(x=(datatype, [3], values), id="all"))
    answers = codec.ask(*asked)
    expected = [raw_of(datatype, [value]) for value in values for _ in range(2)] + [raw_of(datatype, values)]
    assert [raw_of(datatype, outputs(answer)["y"].tolist()) for answer in answers] == expected
    assert [answer.id for answer in answers] == [*[""] * (2 * len(values)), "all"]


def test_requests_of_several_formats_share_a_run(tmp_path: Path) -> None:
    codec = Codec(models.echo("FP32", None), tmp_path)
    rest, client, other = RestCodec(codec.model.signature, "wine", "1"), RestClient(), Client()
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1.5]}]}'
    calls = [
        rest.decode(body, client),
        codec.codec.decode(REQUEST(**request(x=("FP32", [1], [2.5]))).SerializeToString(), other),
    ]
    made = Outputs(codec.model.run(feeds(codec.model.signature, calls)), True)
    for index, call in enumerate(calls):
        call.answer(made, index, index + 1)
    assert b'"data":[1.5]' in client.body
    assert outputs(RESPONSE.FromString(other.answer))["y"].tolist() == [2.5]


def test_halves_are_raw_in_both_directions(tmp_path: Path) -> None:
    codec = Codec(models.echo("FP16", None), tmp_path)
    (answer,) = codec.ask(request(True, x=("FP16", [3], [0.5, -1.0, 65504.0])))
    assert outputs(answer)["y"].tolist() == [0.5, -1.0, 65504.0]
    with pytest.raises(Problem, match="raw_input_contents alone can carry"):
        codec.ask({"model_name": "wine", "inputs": [{"name": "x", "datatype": "FP16", "shape": [1]}]})
    half = models.build(
        [models.node("Cast", "x", "half", to=10), models.node("Identity", "x", "y")],
        {"x": (models.FLOAT, [None])},
        {"half": (10, [None]), "y": (models.FLOAT, [None])},
    )
    codec = Codec(half, tmp_path)
    (answer,) = codec.ask(request(x=("FP32", [1], [1.5])))
    assert {name: array.tolist() for name, array in outputs(answer).items()} == {"half": [1.5], "y": [1.5]}
    (answer,) = codec.ask(request(x=("FP32", [1], [1.5]), outputs=[{"name": "y"}]))
    assert (len(answer.raw_output_contents), outputs(answer)["y"].tolist()) == (0, [1.5])


def test_scalars_and_outputs_without_rows_keep_their_shape(tmp_path: Path) -> None:
    for raw in (False, True):
        (answer,) = Codec(models.total(), tmp_path).ask(request(raw, x=("FP32", [2, 3], [1, 2, 3, 4, 5, 6])))
        assert (list(answer.outputs[0].shape), outputs(answer)["y"].tolist()) == ([], 21.0)
        (answer,) = Codec(models.echo("INT64"), tmp_path).ask(request(raw, x=("INT64", [], [-7])))
        assert outputs(answer)["y"].tolist() == -7


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("UINT8", 256)])
def test_values_outside_their_datatype_are_refused(tmp_path: Path, datatype: str, value: int) -> None:
    codec = Codec(models.echo(datatype, None), tmp_path)
    with pytest.raises(Problem, match=f"outside the range of {datatype}"):
        codec.ask(request(x=(datatype, [2], [1, value])))


@pytest.mark.parametrize(
    "content", [b"\x01\x00\x00", b"\x05\x00\x00\x00abcd", b"\xff\xff\xff\xffabcd", b"\x02\x00\x00\x00\xff\xfe", b""]
)
def test_texts_whose_lengths_are_wrong_are_refused(tmp_path: Path, content: bytes) -> None:
    codec = Codec(models.echo("BYTES", None), tmp_path)
    fields = request(True, x=("BYTES", [1], ["a"]))
    with pytest.raises(Problem, match="'x' has"):
        codec.ask({**fields, "raw_input_contents": [content]})


IRIS = Signature((Tensor("X", "FP32", (-1, 4)),), (Tensor("label", "INT64", (-1,)),))
TWO = Signature((Tensor("a", "FP32", (-1, 1)), Tensor("b", "INT8", (-1, 2))), (Tensor("y", "FP32", (-1,)),))


def meaning(codec: GrpcCodec, message: Buffer) -> Any:
    """All that a message is read as, or the words it is refused with."""
    try:
        call: GrpcCall = codec.decode(message, Client())
    except Problem as problem:
        return problem.status, problem.message
    data = [bytes(part) for part in call.inputs]  # type: ignore[arg-type]
    shapes = [list(shape) for shape in call.shapes]
    return data, shapes, call.rows, call.key, call.identifier, call.wanted, call.raw, call.pinned, call.sealed


GOOD = [
    (IRIS, request(X=("FP32", [1, 4], [1, 2, 3, 4]))),
    (IRIS, request(True, X=("FP32", [2, 4], range(8)), model_version="1")),
    (TWO, request(True, a=("FP32", [1, 1], [1.5]), b=("INT8", [1, 2], [-1, 127]))),
    (TWO, request(a=("FP32", [1, 1], [1.5]), b=("INT8", [1, 2], [1, 2]), outputs=[{"name": "y"}])),
]


@given(st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_a_form_that_was_learned_changes_nothing(
    good: tuple[Signature, dict[str, Any]], changes: list[tuple[int, int]]
) -> None:
    signature, fields = good
    learned = GrpcCodec(signature, "wine", "1")
    message = REQUEST(**fields).SerializeToString()
    expected = meaning(GrpcCodec(signature, "wine", "1"), message)
    assert [meaning(learned, message) for _ in range(4)] == [expected] * 4
    changed = bytearray(message)
    for place, value in changes:
        changed[place % len(changed)] = value
    assert meaning(learned, bytes(changed)) == meaning(GrpcCodec(signature, "wine", "1"), bytes(changed))


@given(st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=6)), max_size=3))
@settings(max_examples=200, deadline=None)
def test_large_requests_are_read_as_small_ones_are(
    good: tuple[Signature, dict[str, Any]], changes: list[tuple[int, bytes]]
) -> None:
    """Those that are cut before protobuf sees them, against those that it gets as a whole."""
    signature, fields = good
    message = bytearray(REQUEST(**fields).SerializeToString())
    for place, part in changes:
        message[place % len(message) :][: len(part)] = part
        message[place % len(message) : place % len(message)] = part
    whole = meaning(GrpcCodec(signature, "wine", "1"), bytes(message))
    codec = GrpcCodec(signature, "wine", "1")
    padding = b"\x1a\x02id" + wire.field(1000, bytes(70_000))  # an id, and a field that nobody knows
    given = meaning(codec, bytes(message) + padding)
    if type(whole[0]) is list and type(given[0]) is list:
        assert given[:3] == whole[:3]
    else:
        # A field that nobody knows counts as structure.
        assert given[0] == 413 or whole[0] == given[0]


@pytest.mark.parametrize(
    "message",
    [
        wire.field(5, b"") * 40_000,
        wire.field(5, wire.field(4, b"") * 40_000),
        wire.field(6, b"") * 40_000,
        wire.field(4, b"") * 40_000,
        wire.field(5, wire.field(5, b"") * 40_000),
        wire.field(7, b"") * 40_000,
        wire.field(5, wire.field(5, wire.field(3, bytes(5 << 20)))),
        wire.field(5, wire.field(5, wire.field(8, b"") * (3 << 20))),
    ],
    ids=["inputs", "parameters of an input", "outputs", "parameters", "contents", "raw contents", "integers", "texts"],
)
def test_a_message_of_many_parts_is_refused_before_it_is_taken_apart(message: bytes) -> None:
    codec = GrpcCodec(TWO, "wine", "1")
    status, words = meaning(codec, wire.field(1, b"wine") + message)
    assert (status, "bytes" in words) == (413, True), words


@pytest.mark.parametrize("size", [200, 100_000])  # whole to protobuf, and cut before
def test_there_is_no_field_0(size: int) -> None:
    status, words = meaning(GrpcCodec(TWO, "wine", "1"), wire.field(1, b"wine") + bytes(size))
    assert (status, "not of its type" in words) == (400, True)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_rubbish_is_no_message_and_nothing_worse(rubbish: bytes) -> None:
    for content in (rubbish, rubbish + bytes(70_000), wire.field(1, b"wine") + rubbish):
        given = meaning(GrpcCodec(TWO, "wine", "1"), content)
        assert given[0] in (400, 404, 413)

"""The binary tensor extension: tensors in bytes behind the JSON, in requests and in answers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tests.unit.serving import models
from tests.unit.serving.codec import EXTREMES, Client, Codec
from tests.unit.serving.server import Reply, Server, Wire, http, request, serving, wire

from holdfast_serving.problems import Problem
from holdfast_serving.signature import NUMPY

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]], np.float32)
INFER = "/v2/models/wine/infer"
ALL = {"binary_data_output": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("binary"), models.iris()) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Wire]:
    with wire(server) as connected:
        yield connected


def texts(*elements: str | bytes) -> bytes:
    encoded = [element.encode() if isinstance(element, str) else element for element in elements]
    return b"".join(struct.pack("<I", len(element)) + element for element in encoded)


def tensor(name: str, datatype: str, shape: list[int], data: bytes) -> tuple[dict[str, Any], bytes]:
    """An input object and its bytes."""
    parameters = {"binary_data_size": len(data)}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}, data


def body(*inputs: tuple[dict[str, Any], bytes], pad: int = 0, **members: Any) -> tuple[bytes, int]:
    """(body, bytes of it that are JSON) of a request; `pad` blanks stand at the end of the JSON."""
    head = json.dumps({"inputs": [item for item, _ in inputs], **members}).encode() + b" " * pad
    return head + b"".join(data for _, data in inputs), len(head)


def post(content: bytes, json_size: int) -> bytes:
    fields = ("Content-Type: application/octet-stream", f"Inference-Header-Content-Length: {json_size}")
    return http("POST", INFER, content, *fields)


def outputs(content: bytes, json_size: int) -> dict[str, Any]:
    """Arrays by name, of elements in either form."""
    found: dict[str, Any] = {}
    end = json_size
    for output in json.loads(content[:json_size])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = np.array(output["data"], NUMPY[output["datatype"]]).reshape(output["shape"])
            continue
        assert "data" not in output
        start, end = end, end + size
        if output["datatype"] == "BYTES":
            found[output["name"]] = np.array(list(cut(content[start:end])), object).reshape(output["shape"])
        else:
            array = np.frombuffer(content[start:end], NUMPY[output["datatype"]].newbyteorder("<"))
            found[output["name"]] = array.reshape(output["shape"])
    assert end == len(content)
    return found


def cut(data: bytes) -> Iterator[str]:
    while data:
        (size,) = struct.unpack("<I", data[:4])
        yield data[4 : 4 + size].decode()
        data = data[4 + size :]


def of_reply(reply: Reply | None) -> dict[str, Any]:
    assert reply is not None
    assert reply.status == 200, reply.body
    size = reply.fields.get("inference-header-content-length")
    assert reply.fields["content-type"] == ("application/json" if size is None else "application/octet-stream")
    return outputs(reply.body, len(reply.body) if size is None else int(size))


def of_client(client: Client) -> dict[str, Any]:
    return of_reply(Reply("HTTP/1.1 200 OK\r\n" + client.fields.decode().rstrip(), client.body))


def expected(rows: np.ndarray[Any, Any] = ROWS) -> dict[str, Any]:
    return dict(
        zip(("label", "probabilities"), onnxruntime.InferenceSession(models.iris()).run(None, {"X": rows}), strict=True)
    )


def same(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(given) == list(wanted)
    for name, array in wanted.items():
        assert given[name].shape == array.shape
        assert given[name].dtype == array.dtype
        if array.dtype.kind == "f":
            np.testing.assert_allclose(given[name], array, 1e-6)
        else:
            np.testing.assert_array_equal(given[name], array)


def test_bytes_go_in_and_bytes_come_out(client: Wire) -> None:
    content, size = body(tensor("X", "FP32", [3, 4], ROWS.tobytes()), parameters=ALL, id="7")
    client.send(post(content, size))
    reply = client.reply()
    same(of_reply(reply), expected())
    assert reply is not None
    head = json.loads(reply.body[: int(reply.fields["inference-header-content-length"])])
    assert (head["model_name"], head["id"]) == ("wine", "7")
    assert head["outputs"][0] == {
        "name": "label", "datatype": "INT64", "shape": [3], "parameters": {"binary_data_size": 24}
    }  # fmt: skip


def test_either_side_may_be_json(client: Wire) -> None:
    binary = body(tensor("X", "FP32", [3, 4], ROWS.tobytes()))
    client.send(post(*binary))
    same(of_reply(client.reply()), expected())
    text = json.dumps(request(X=("FP32", [3, 4], ROWS.astype(float).ravel().tolist())) | {"parameters": ALL})
    client.send(http("POST", INFER, text.encode()))
    same(of_reply(client.reply()), expected())


@pytest.mark.parametrize("of_request", [None, False, True])
@pytest.mark.parametrize("of_output", [None, False, True])
def test_what_is_said_of_an_output_goes_before_what_is_said_of_all(
    client: Wire, of_request: bool | None, of_output: bool | None
) -> None:
    members: dict[str, Any] = {"outputs": [{"name": "probabilities"}, {"name": "label"}]}
    if of_request is not None:
        members["parameters"] = {"binary_data_output": of_request}
    if of_output is not None:
        members["outputs"][0]["parameters"] = {"binary_data": of_output}
    client.send(post(*body(tensor("X", "FP32", [3, 4], ROWS.tobytes()), **members)))
    reply = client.reply()
    wanted = expected()
    same(of_reply(reply), {name: wanted[name] for name in ("probabilities", "label")})
    assert reply is not None
    first, second = json.loads(reply.body[: int(reply.fields.get("inference-header-content-length", len(reply.body)))])[
        "outputs"
    ]
    assert ("parameters" in first) == bool(of_request if of_output is None else of_output)
    assert ("parameters" in second) == bool(of_request)


def test_the_same_head_with_other_bytes_gives_another_answer(client: Wire) -> None:
    for row, label in ((ROWS[:1], 0), (ROWS[1:2], 2), (ROWS[2:], 1)):
        for parameters in (ALL, {"binary_data_output": False}):
            for _ in range(3):
                client.send(post(*body(tensor("X", "FP32", [1, 4], row.tobytes()), parameters=parameters)))
                assert of_reply(client.reply())["label"].tolist() == [label]


def test_a_head_that_is_known_tells_json_from_bytes(client: Wire) -> None:
    content = json.dumps(request(X=("FP32", [1, 4], ROWS[0].astype(float).tolist()))).encode()
    for _ in range(3):
        client.send(http("POST", INFER, content))
        assert of_reply(client.reply())["label"].tolist() == [0]
        client.send(post(content, len(content)))
        assert of_reply(client.reply())["label"].tolist() == [0]
        client.send(post(content, 0))
        assert client.reply().status == 400  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [1, 3, 100, 5000])
def test_it_does_not_matter_in_which_pieces_bytes_come(client: Wire, size: int) -> None:
    stream = post(*body(tensor("X", "FP32", [3, 4], ROWS.tobytes()), parameters=ALL)) * 2
    for start in range(0, len(stream), size):
        client.send(stream[start : start + size])
    for _ in range(2):
        same(of_reply(client.reply()), expected())


def test_a_large_tensor_goes_both_ways(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    with serving(tmp_path, models.echo("FP32", None, 3, 224, 224)) as server, wire(server) as client:
        for _ in range(3):
            client.send(post(*body(tensor("x", "FP32", list(image.shape), image.tobytes()), parameters=ALL)))
            same(of_reply(client.reply()), {"y": image})


def test_a_body_without_json_is_one_row_of_the_only_input(client: Wire) -> None:
    client.send(post(ROWS[1].tobytes(), 0))
    same(of_reply(client.reply()), expected(ROWS[1:2]))
    for data in (b"", ROWS.tobytes(), ROWS[0].tobytes()[:-1]):
        client.send(post(data, 0))
        reply = client.reply()
        assert reply is not None
        assert (reply.status, "its shape asks for 16" in reply.json["error"]) == (400, True)


@pytest.mark.parametrize(
    ("shape", "size", "answered"),
    [
        ((None,), 1, [1]),
        ((None,), 2, None),
        ((), 1, []),
        ((3,), 3, [3]),
        ((2, None), 8, [2, 4]),
        ((2, None), 7, None),
        ((2, None), 0, None),
        ((None, None), 5, [1, 5]),
        ((None, None, 2), 6, [1, 3, 2]),
        ((None, None, None), 4, None),
    ],
)
def test_the_shape_of_a_body_without_json_is_found_where_one_size_is_open(
    tmp_path: Path, shape: tuple[int | None, ...], size: int, answered: list[int] | None
) -> None:
    codec = Codec(models.echo("INT16", *shape), tmp_path)
    data = np.arange(size, dtype=np.int16)
    if answered is None:
        with pytest.raises(Problem) as caught:
            codec.send((data.tobytes(), 0))
        assert caught.value.status == 400
    else:
        (client,) = codec.send((data.tobytes(), 0))
        same(of_client(client), {"y": data.reshape(answered)})


def test_a_text_without_json_is_the_whole_body(tmp_path: Path) -> None:
    (client,) = Codec(models.echo("BYTES", None), tmp_path).send(("Grüße".encode(), 0))
    assert of_client(client)["y"].tolist() == ["Grüße"]
    with pytest.raises(Problem, match="more than one text needs JSON"):
        Codec(models.echo("BYTES", 2), tmp_path).send((b"x", 0))


def test_two_inputs_cannot_be_told_apart_without_json(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="2 inputs: a body needs JSON"):
        Codec(models.colours(), tmp_path).send((b"abcd", 0))


@pytest.mark.parametrize("fixed", [False, True], ids=["rows", "fixed shape"])
@pytest.mark.parametrize("datatype", [*EXTREMES, "FP16"])
def test_every_value_of_every_datatype_comes_back_as_it_went(tmp_path: Path, datatype: str, fixed: bool) -> None:
    codec = Codec(models.echo(datatype, 3 if fixed else None), tmp_path)
    values = np.array(EXTREMES.get(datatype, [0.1, -65504, 6e-8]), NUMPY[datatype])
    data = texts(*values) if datatype == "BYTES" else values.tobytes()
    for pad in range(9):  # whatever its place in the body
        (client,) = codec.send(body(tensor("x", datatype, [3], data), parameters=ALL, pad=pad))
        given = of_client(client)["y"]
        assert given.tolist() == values.tolist()
        assert client.body.endswith(data)


def test_what_json_has_no_number_for_goes_in_bytes(tmp_path: Path) -> None:
    codec = Codec(models.echo("FP32", None), tmp_path)
    values = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    content, size = body(tensor("x", "FP32", [4], values.tobytes()), parameters=ALL)
    (client,) = codec.send((content, size))
    assert client.body.endswith(values.tobytes())
    with pytest.raises(Problem, match="the request has missing or infinite values") as caught:
        codec.send(body(tensor("x", "FP32", [4], values.tobytes())))
    assert caught.value.status == 400


def test_a_half_float_output_is_there_for_whom_it_is_bytes(tmp_path: Path) -> None:
    half = models.build(
        [models.node("Cast", "x", "half", to=10), models.node("Identity", "x", "y")],
        {"x": (models.FLOAT, [None])},
        {"half": (10, [None]), "y": (models.FLOAT, [None])},
    )
    codec = Codec(half, tmp_path)
    asked = [{"name": "y"}, {"name": "half", "parameters": {"binary_data": True}}]
    (client,) = codec.send((json.dumps(request(x=("FP32", [1], [1.5])) | {"outputs": asked}).encode(), None))
    given = of_client(client)
    assert (given["half"].dtype, given["half"].tolist(), given["y"].tolist()) == (np.float16, [1.5], [1.5])
    with pytest.raises(Problem, match="'half' is FP16, which JSON cannot carry; ask for it with binary_data"):
        codec.ask(request(x=("FP32", [1], [1.5])))


def test_inputs_in_any_order_get_the_bytes_in_theirs(tmp_path: Path) -> None:
    codec = Codec(models.colours(), tmp_path)
    colour = tensor("colour", "BYTES", [2, 1], texts("red", "blue"))
    size = tensor("size", "FP32", [2, 1], np.array([5, 0], np.float32).tobytes())
    as_json = {"name": "size", "datatype": "FP32", "shape": [2, 1], "data": [5, 0]}, b""
    for inputs in ((colour, size), (size, colour), (colour, as_json), (as_json, colour)):
        (client,) = codec.send(body(*inputs, outputs=[{"name": "label", "parameters": {"binary_data": True}}]))
        assert of_client(client)["label"].tolist() == ["red, big", "blue, small"]


def test_calls_of_every_form_share_a_run(tmp_path: Path) -> None:
    codec = Codec(models.iris(), tmp_path)
    assert codec.joins
    as_json = json.dumps(request(X=("FP32", [2, 4], ROWS[:2].astype(float).ravel().tolist()))).encode()
    chosen = [{"name": "label", "parameters": {"binary_data": True}}]
    binary = tensor("X", "FP32", [3, 4], ROWS.tobytes())
    answers = codec.send(
        (as_json, None), body(binary, parameters=ALL), (ROWS[2].tobytes(), 0), body(binary, outputs=chosen, pad=1)
    )
    same(of_client(answers[0]), expected(ROWS[:2]))
    same(of_client(answers[1]), expected())
    same(of_client(answers[2]), expected(ROWS[2:]))
    same(of_client(answers[3]), {"label": expected()["label"]})


GOOD = tensor("X", "FP32", [1, 4], ROWS[0].tobytes())


def sized(size: object, content: bytes = ROWS[0].tobytes(), **members: Any) -> tuple[dict[str, Any], bytes]:
    return GOOD[0] | {"parameters": {"binary_data_size": size}} | members, content


BAD: list[tuple[str, tuple[bytes, int], str]] = [
    ("one byte less", body(tensor("X", "FP32", [1, 4], ROWS[0].tobytes()[:-1])), "has 15 bytes, its shape asks for 16"),
    ("one byte more", body(tensor("X", "FP32", [1, 4], ROWS[0].tobytes() + b"x")), "has 17 bytes"),
    ("a size beyond the end", body(sized(17)), "must be 0 to 16"),
    ("a size before the end", body(sized(15)), "1 bytes behind the JSON belong to no input"),
    ("a negative size", body(sized(-1)), "must be 0 to 16"),
    ("a size in words", body(sized("16")), "must be 0 to 16"),
    ("a size that is true", body(sized(True, b"x")), "must be 0 to 1"),
    ("a size of 2^64", body(sized(2**64)), "must be 0 to 16"),
    ("no bytes", body(sized(0, b"")), "has 0 bytes"),
    ("data and bytes", body(sized(16, data=[1, 2, 3, 4])), "not in both"),
    ("bytes of nobody", body(({k: v for k, v in GOOD[0].items() if k != "parameters"}, b"x")), "belong to no input"),
    ("a shape of 2^62", body(sized(16, shape=[2**62, 4])), f"asks for {2**66}"),
    ("another datatype", body(sized(16, datatype="FP64")), "must have the datatype FP32"),
    ("a region", body(sized(16, parameters={"binary_data_size": 16, "shared_memory_region": "r"})), "does not have"),
    ("the size as a switch", body(GOOD, parameters={"binary_data_size": 16}), "is for inputs"),
    ("inputs of other kinds", body((1, b""), GOOD), 'an object with a "name"'),  # type: ignore[arg-type]
    ("too much JSON", (body(GOOD)[0], body(GOOD)[1] + 1), "not JSON"),
    ("too little JSON", (body(GOOD)[0], body(GOOD)[1] - 1), "not JSON"),
    ("JSON beyond the end", (b"{}", 3), "and the body has 2 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_request_is_told_what_is_wrong(client: Wire, bad: tuple[bytes, int], words: str) -> None:
    for _ in range(2):
        client.send(post(*bad))
        reply = client.reply()
        assert reply is not None
        assert (reply.status, words in reply.json["error"]) == (400, True), reply.body
    client.send(post(*body(GOOD)))
    assert of_reply(client.reply())["label"].tolist() == [0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too few for the 2 texts"),
        (b"\0" * 7, "too few for the 2 texts"),
        (texts("a"), "too few"),
        (texts("a", "b")[:-1], "are not 2 texts"),
        (texts("a", "b", "c"), "are not 2 texts"),
        (texts("a", "b") + b"\0", "are not 2 texts"),
        (texts("abcd") + b"\0\0\0", "are not 2 texts"),
        (struct.pack("<I", 2**32 - 1) + b"abcdefgh", "are not 2 texts"),
        (texts(b"\xff", "b"), "not UTF-8"),
        (texts(b"\xed\xa0\x80", "b"), "not UTF-8"),
    ],
)
def test_texts_must_have_their_lengths_before_them(tmp_path: Path, data: bytes, words: str) -> None:
    codec = Codec(models.echo("BYTES", None), tmp_path)
    with pytest.raises(Problem, match=words) as caught:
        codec.send(body(tensor("x", "BYTES", [2], data)))
    assert caught.value.status == 400


def test_a_truth_value_is_0_or_1(tmp_path: Path) -> None:
    codec = Codec(models.echo("BOOL", None), tmp_path)
    with pytest.raises(Problem, match="other than 0 and 1"):
        codec.send(body(tensor("x", "BOOL", [3], b"\0\1\2")))


def test_so_many_texts_that_they_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    codec = Codec(models.echo("BYTES", None), tmp_path)
    with pytest.raises(Problem, match="too many elements") as caught:
        codec.send(body(tensor("x", "BYTES", [1 << 23], bytes(4 << 23))))
    assert caught.value.status == 413

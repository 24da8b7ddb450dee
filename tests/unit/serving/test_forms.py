"""Requests with one input per feature: those that are known but for their values are read as all others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.unit.serving import codec as in_process

from holdfast_bundle.manifest import Tensor
from holdfast_serving.codec import RestCodec
from holdfast_serving.inference import to_array
from holdfast_serving.problems import Problem
from holdfast_serving.signature import Signature

FEATURES = (
    Tensor("alcohol", "FP32", (-1, 1)),
    Tensor('co"lour', "BYTES", (-1, 1)),
    Tensor("age", "INT8", (-1,)),
    Tensor("proline", "FP64", (-1, 1, 1)),
    Tensor("ripe", "BOOL", (-1, 1)),
)
ROW: list[Any] = [14.2, "red", 3, 1065, True]
COMPACT: Callable[..., str] = lambda document: json.dumps(document, separators=(",", ":"))  # noqa: E731


def made() -> RestCodec:
    codec = RestCodec(Signature(FEATURES, (Tensor("label", "INT64", (-1,)),)), "wine", "1")
    codec.same_rows = True
    return codec


def document(row: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": [1] * len(tensor.shape),
                "data": [value],
                **more,
            }
            for tensor, value in zip(FEATURES, row, strict=True)
        ]
    }


def said(codec: RestCodec, body: bytes) -> Any:
    """What a request is read as, or what is wrong with it."""
    try:
        call = codec.decode(body, in_process.Client())
    except Problem as problem:
        return problem.status, problem.message
    inputs = [to_array(*each).tolist() for each in zip(FEATURES, call.inputs, call.shapes, strict=True)]
    return str(inputs), call.rows, call.key, call.wanted, call.identifier


def taught(*writers: Callable[..., str], **more: Any) -> RestCodec:
    codec = made()
    for writer in writers:
        for _ in range(40):
            codec.decode(writer(document(ROW, **more)).encode(), in_process.Client())
    return codec


def knows(codec: RestCodec, body: bytes) -> bool:
    assert codec._forms is not None
    return codec._forms.read(body) is not None


@pytest.mark.parametrize("writer", [COMPACT, json.dumps], ids=["compact", "with spaces"])
def test_what_is_known_is_read_like_what_is_not(writer: Callable[..., str]) -> None:
    codec = taught(writer)
    rows = [
        [0, "", -128, 1e300, False],
        [-3.5e-7, "a \\ \" ' b", 127, -0.0, True],
        [1e38, "日本 :{}", 0, 12345678901234567890, True],
    ]
    for row in rows:
        body = writer(document(row)).encode()
        assert knows(codec, body)
        assert said(codec, body) == said(made(), body)
        first = np.float32(row[0]).item()
        assert said(codec, body)[0] == str([[[first]], [[row[1]]], [row[2]], [[[float(row[3])]]], [[row[4]]]])


def test_two_ways_of_writing_are_known_at_once() -> None:
    codec = taught(COMPACT, json.dumps)
    assert knows(codec, COMPACT(document(ROW)).encode())
    assert knows(codec, json.dumps(document(ROW)).encode())


def test_parameters_that_are_always_the_same_do_not_matter() -> None:
    codec = taught(COMPACT, parameters={"content_type": "np"})
    assert knows(codec, COMPACT(document(ROW, parameters={"content_type": "np"})).encode())
    other = COMPACT(document(ROW, parameters={"shared_memory_region": "x"})).encode()
    assert said(codec, other) == said(made(), other)
    assert said(codec, other)[0] == 400


UNUSUAL = {
    "a missing number": ('"data":[14.2]', '"data":[null]'),
    "a number too large for FP32": ("[14.2]", "[1e39]"),
    "a number out of range": ("[3]", "[128]"),
    "two elements": ("[3]", "[3,4]"),
    "no element": ("[3]", "[]"),
    "two here and none there": ('"data":[14.2]', '"data":[14.2,7]'),
    "another type": ("[3]", '["3"]'),
    "a number for a switch": ("[true]", "[1]"),
    "a list": ("[3]", "[[3]]"),
    "an element that hides the next input": ("[14.2]", '[14.2]},{"name":"x","data":[1]'),
    "a text with a bracket": ('"red"', '"re]d"'),
    "a text with a mark": ('"red"', '"\\"data\\":["'),
    "another shape": ('"shape":[1,1]', '"shape":[2,1]'),
    "no JSON": ("[3]", "[3"),
    "half a character": ('"red"', '"\\ud800"'),
}


@pytest.mark.parametrize(("part", "instead"), UNUSUAL.values(), ids=list(UNUSUAL))
def test_what_is_unusual_is_read_in_the_usual_way(part: str, instead: str) -> None:
    body = COMPACT(document(ROW)).replace(part, instead, 1).encode()
    assert body != COMPACT(document(ROW)).encode()
    assert said(taught(COMPACT), body) == said(made(), body)


def test_options_are_not_overlooked() -> None:
    codec = taught(COMPACT)
    body = COMPACT(document(ROW) | {"id": "7", "outputs": [{"name": "label"}]}).encode()
    assert said(codec, body)[3:] == ([0], "7")


def test_inputs_in_another_order_and_tricks_with_names_are_never_learned() -> None:
    twisted = document(ROW)
    twisted["inputs"] = twisted["inputs"][::-1]
    hidden = COMPACT(document(ROW)).replace('"data":[3]', '"data" :[3],"x\\"data":[9]', 1)
    for text in (COMPACT(twisted), hidden):
        codec = made()
        for _ in range(40):
            assert said(codec, text.encode())[0].startswith("[[[14.19")
        assert not knows(codec, text.encode())


def test_no_change_of_a_known_request_makes_another_reading_of_it() -> None:
    codec, seed = taught(COMPACT), COMPACT(document(ROW)).encode()
    dice = random.Random(1)
    inserted = [
        b"[",
        b"]",
        b",",
        b'"',
        b"1",
        b"-",
        b".5",
        b"null",
        b'"data":[',
        b"],",
        b"}",
        b" ",
        b"\\",
        b"\xff",
        b"e9",
    ]
    known = 0
    for _ in range(5000):
        body = seed
        for _ in range(dice.choice((1, 1, 2, 3))):
            place, length = dice.randrange(len(body)), dice.choice((0, 1, 1, 5))
            body = body[:place] + dice.choice((b"", *inserted)) + body[place + length :]
        known += knows(codec, body)
        assert said(codec, body) == said(made(), body), body
    assert known > 50


@pytest.mark.parametrize("dimension", ["1.0", "true", "1.5"])
def test_a_dimension_is_an_integer(dimension: str) -> None:
    body = COMPACT(document(ROW)).replace('"shape":[1,1]', f'"shape":[1,{dimension}]', 1).encode()
    assert "list of integers" in said(made(), body)[1]

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from holdfast_bundle.errors import BundleError
from holdfast_bundle.onnx_safety import MAX_DEPTH, check_external_data


def external(location: str = "weights.bin", **entries: str) -> TensorProto:
    """A tensor of four floats that says its data lies in `location`."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def inline() -> TensorProto:
    return numpy_helper.from_array(np.zeros(4, np.float32), "v")


def sparse(tensor: TensorProto, *, as_indices: bool = False) -> onnx.SparseTensorProto:
    values, indices = (inline(), tensor) if as_indices else (tensor, inline())
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


def graph(*nodes: onnx.NodeProto, **parts: Any) -> onnx.GraphProto:
    return onnx.GraphProto(name="g", node=nodes, **parts)


def node(**attribute: Any) -> onnx.NodeProto:
    return onnx.NodeProto(op_type="Constant", attribute=[onnx.AttributeProto(name="value", **attribute)])


def model(inner: onnx.GraphProto | None = None, **parts: Any) -> onnx.ModelProto:
    return onnx.ModelProto(
        ir_version=10, graph=inner or graph(), opset_import=[onnx.OperatorSetIdProto(version=21)], **parts
    )


PLACES: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    "initializer": lambda t: model(graph(initializer=[inline(), t])),
    "values of a sparse initializer": lambda t: model(graph(sparse_initializer=[sparse(t)])),
    "indices of a sparse initializer": lambda t: model(graph(sparse_initializer=[sparse(t, as_indices=True)])),
    "attribute": lambda t: model(graph(node(t=t))),
    "list in an attribute": lambda t: model(graph(node(tensors=[inline(), t]))),
    "sparse attribute": lambda t: model(graph(node(sparse_tensor=sparse(t)))),
    "list of sparse attributes": lambda t: model(graph(node(sparse_tensors=[sparse(t, as_indices=True)]))),
    "subgraph": lambda t: model(graph(node(g=graph(initializer=[t])))),
    "list of subgraphs": lambda t: model(graph(node(graphs=[graph(), graph(node(t=t))]))),
    "subgraph of a subgraph": lambda t: model(
        graph(node(g=graph(node(graphs=[graph(sparse_initializer=[sparse(t)])]))))
    ),
    "function": lambda t: model(functions=[onnx.FunctionProto(name="f", domain="d", node=[node(t=t)])]),
    "default of a function's attribute": lambda t: model(
        functions=[onnx.FunctionProto(name="f", domain="d", attribute_proto=[onnx.AttributeProto(name="a", t=t)])]
    ),
    "initialization of training": lambda t: model(
        training_info=[onnx.TrainingInfoProto(initialization=graph(initializer=[t]))]
    ),
    "algorithm of training": lambda t: model(training_info=[onnx.TrainingInfoProto(algorithm=graph(node(t=t)))]),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder with 16 bytes of weights, and a secret beside it."""
    folder = tmp_path / "bundle"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(16))
    (folder / "sub" / "weights.bin").write_bytes(bytes(16))
    (tmp_path / "secret").write_bytes(bytes(16))
    return folder


def check(content: bytes | onnx.ModelProto, folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    check_external_data(path, folder)


def refusal(content: bytes | onnx.ModelProto, folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        check(content, folder)
    assert caught.value.reason == "Invalid"
    assert str(folder.parent) not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(bundle: Path, place: str) -> None:
    check(PLACES[place](external()), bundle)
    check(PLACES[place](inline()), bundle)
    assert "outside the bundle: '../secret'" in refusal(PLACES[place](external("../secret")), bundle)


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd", "../secret", "sub/../../secret", "sub/..", "..", "", ".", "//etc/passwd", "a\x00b", "a\nb",
        "..\\secret", "C:/secret", "*/_ORT_MEM_ADDR_/*", "file:///etc/passwd", "..\u202e",
    ],
)  # fmt: skip
def test_a_location_that_could_leave_the_bundle_is_refused(bundle: Path, location: str) -> None:
    assert "outside the bundle" in refusal(model(graph(initializer=[external(location)])), bundle)


@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin", "sub/weights.bin"])
def test_a_location_in_the_bundle_is_taken(bundle: Path, location: str) -> None:
    check(model(graph(initializer=[external(location, offset="4", length="12", checksum="x")])), bundle)


def test_only_plain_files_with_one_name_are_read(bundle: Path) -> None:
    (bundle / "symlink").symlink_to("weights.bin")
    (bundle / "out").symlink_to("../secret")
    (bundle / "folder").symlink_to("sub")
    (bundle / "up").symlink_to("..")
    os.link(bundle.parent / "secret", bundle / "hardlink")
    os.mkfifo(bundle / "fifo")
    for location in ("symlink", "out", "folder/weights.bin", "up/secret", "hardlink", "fifo", "sub", "weights.bin/x"):
        message = refusal(model(graph(initializer=[external(location)])), bundle)
        assert "not a plain file" in message, location
    assert "not in the bundle: 'none'" in refusal(model(graph(initializer=[external("none")])), bundle)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "17"}, {"length": "17"}, {"offset": "8", "length": "9"}, {"offset": "-1"}, {"length": "1e3"},
        {"offset": "9" * 30}, {"offset": ""}, {"offset": "١"},
    ],
)  # fmt: skip
def test_a_part_that_is_not_there_is_refused(bundle: Path, entries: dict[str, str]) -> None:
    refusal(model(graph(initializer=[external(**entries)])), bundle)


def test_a_tensor_with_two_places_is_refused(bundle: Path) -> None:
    tensor = external()
    tensor.external_data.add(key="location", value="../secret")
    assert "several" in refusal(model(graph(initializer=[tensor])), bundle)
    tensor.external_data.reverse()
    assert "several" in refusal(model(graph(initializer=[tensor])), bundle)


def test_data_location_has_no_say_since_readers_disagree_on_it(bundle: Path) -> None:
    tensor = external("../secret")
    tensor.data_location = TensorProto.DEFAULT
    refusal(model(graph(initializer=[tensor])), bundle)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"<!DOCTYPE html><html></html>", b'{"schemaVersion": 1}', b"PK\x03\x04" + bytes(40),
        b"\x80\x04\x95", bytes(100), b"\xff" * 100, b"\x3a", b"\x3a\x05ab",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x08\x0a",
        b"\x0b\x3a\x00\x0c",
    ],
)  # fmt: skip
def test_what_is_not_onnx_is_said_to_be_none(bundle: Path, content: bytes) -> None:
    message = refusal(content, bundle)
    assert "not an ONNX model" in message or "is empty" in message


def test_a_tag_with_more_than_32_bits_cannot_hide_a_field(bundle: Path) -> None:
    tensor = external("../secret").SerializeToString()
    hidden = b"\xaa\x80\x80\x80\x10" + bytes([len(tensor)]) + tensor  # 5<<3|2 for who drops the upper bits
    refusal(b"\x3a" + bytes([len(hidden)]) + hidden, bundle)


def test_overlong_numbers_hide_nothing(bundle: Path) -> None:
    tensor = external("../secret").SerializeToString()
    overlong = b"\xaa\x80\x00" + bytes([len(tensor) | 0x80, 0]) + tensor
    content = b"\x3a" + bytes([len(overlong)]) + overlong
    assert onnx.ModelProto.FromString(content).graph.initializer[0].external_data
    assert "outside" in refusal(content, bundle)


def nested(depth: int) -> bytes:
    """A model with `depth` subgraphs in one another, made from the inside."""
    inner = b""
    for _ in range(depth):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # Attribute.g, Node.attribute, Graph.node
            inner = tag + length(inner) + inner
    return b"\x3a" + length(inner) + inner


def length(data: bytes) -> bytes:
    size, out = len(data), b""
    while size > 0x7F:
        out += bytes([size & 0x7F | 0x80])
        size >>= 7
    return out + bytes([size])


def test_ten_thousand_subgraphs_in_one_another_are_refused_and_a_few_are_not(bundle: Path) -> None:
    assert f"more than {MAX_DEPTH} deep" in refusal(nested(10_000), bundle)
    check(nested(30), bundle)


def test_a_big_forest_is_read_in_no_time(bundle: Path) -> None:
    attribute = onnx.AttributeProto(name="nodes_values", type=onnx.AttributeProto.FLOATS)
    attribute.floats.extend(np.random.default_rng(0).random(2_000_000).tolist())
    numbers = onnx.AttributeProto(name="nodes_ids", type=onnx.AttributeProto.INTS)
    numbers.ints.extend(range(-1_000_000, 1_000_000))
    last = onnx.AttributeProto(name="t", t=external("../secret"))
    forest = onnx.NodeProto(op_type="TreeEnsembleClassifier", attribute=[attribute, numbers, last])
    content = model(graph(forest)).SerializeToString()
    assert len(content) > 20_000_000
    before = time.process_time()
    assert "outside" in refusal(content, bundle)
    assert time.process_time() - before < 5


def locations(message: Any) -> Iterator[str]:
    """All locations in a parsed model, found by reflection instead of a table."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in value if field.is_repeated else [value]:
            if isinstance(item, TensorProto):
                yield from (entry.value for entry in item.external_data if entry.key == "location")
            yield from locations(item)


def must_be_refused(content: bytes) -> bool:
    try:
        parsed = onnx.ModelProto.FromString(content)
    except DecodeError:
        return False
    return any(location != "weights.bin" for location in locations(parsed))


@settings(max_examples=300, deadline=20000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(sorted(PLACES)),
    location=st.sampled_from(["weights.bin", "../secret", "/etc/passwd"]),
    edits=st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(["set", "cut", "add"]), st.binary(max_size=3)), max_size=4
    ),
)
def test_no_damage_hides_what_protobuf_still_reads(
    bundle: Path, place: str, location: str, edits: list[tuple[int, str, bytes]]
) -> None:
    content = PLACES[place](external(location)).SerializeToString()
    for position, kind, data in edits:
        position %= len(content) or 1
        keep = {"set": position + len(data), "cut": position + 1, "add": position}[kind]
        content = content[:position] + (b"" if kind == "cut" else data) + content[keep:]
    if must_be_refused(content):
        refusal(content, bundle)
    else:
        with contextlib.suppress(BundleError):
            check(content, bundle)


@settings(max_examples=300, deadline=20000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
@example(b"\x3a\x02\x2a\x00")
def test_no_bytes_end_in_anything_but_an_answer(bundle: Path, content: bytes) -> None:
    with contextlib.suppress(BundleError):
        check(content, bundle)


def test_a_real_model_of_a_converter_passes(bundle: Path) -> None:
    weights = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    real = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
            [weights],
        )
    )
    check(real, bundle)
    onnx.save(real, bundle / "model.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    check_external_data(bundle / "model.onnx", bundle)
    (bundle / "w.data").unlink()
    with pytest.raises(BundleError, match="not in the bundle"):
        check_external_data(bundle / "model.onnx", bundle)

"""Files that call themselves ONNX: other formats, damage, and models that are made to hurt who loads them.

Everything is made by code, always the same way.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tests.hostile.wirefmt import BYTES, GROUP, field, nested, varint
from tests.unit.serving import models
from tests.unit.serving.models import FLOAT, INT64, OPSET, STRING, build, node

Content = Callable[[], bytes]

SERVED = "served"
"""The verdict on a model that is odd, but does no harm."""

FOREIGN = "not an ONNX model"
LOAD = "cannot be loaded"
MEMORY = "more memory than there is"
TIME = "takes more than"
CRASH = "crashes the runtime"
HUGE = 1 << 60


@dataclass(frozen=True, slots=True)
class File:
    """A bare model file. `verdict`: `SERVED`, or a pattern that the refusal must match."""

    name: str
    content: Content
    verdict: str


# --- Other formats --------------------------------------------------------------------------------------------------


class _Bomb:
    """Whoever unpickles this makes a file."""

    def __reduce__(self) -> Any:
        return (open, ("pickled-canary", "w"))


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name.replace("__", "/")), content)
    return out.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def array_of_objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([_Bomb()], object), allow_pickle=True)
    return out.getvalue()


def ort_format() -> bytes:
    """ONNX Runtime's own format, written by it: a FlatBuffer that has another loader."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = f"{folder}/model.ort"
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(classifier(), options)
        return Path(folder, "model.ort").read_bytes()


FOREIGN_FILES = [
    File("nothing", lambda: b"", "is empty"),
    File("one byte", lambda: b"\x08", FOREIGN),
    File("text", lambda: b"hello\n" * 1000, FOREIGN),
    File("text in UTF-16", lambda: "hello\n".encode("utf-16") * 1000, FOREIGN),
    File("a web page", lambda: b"<!doctype html><title>Sign in</title>", FOREIGN),
    File("JSON", lambda: b'{"schemaVersion": 1}', FOREIGN),
    File(
        "XML with an external entity",
        lambda: b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        FOREIGN,
    ),
    File(
        "a pointer of Git LFS", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", FOREIGN
    ),
    File("a shell script", lambda: b"#!/bin/sh\ntouch pickled-canary\n", FOREIGN),
    File("a shared library", lambda: b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + bytes(4000), FOREIGN),
    File("a Windows library", lambda: b"MZ\x90\x00" + bytes(4000), FOREIGN),
    *(
        File(f"a pickle, protocol {protocol}", partial(pickle.dumps, _Bomb(), protocol), FOREIGN)
        for protocol in range(6)
    ),
    File("PyTorch's zip around a pickle", lambda: zipped(archive__data_pkl=pickle.dumps(_Bomb())), FOREIGN),
    File("a model in a zip", lambda: zipped(model=classifier()), FOREIGN),
    File("a zip that leaves its folder", lambda: zipped(**{"..__..__pickled-canary": b"x"}), FOREIGN),
    File("a model in a tar", lambda: tarred("model.onnx", classifier()), FOREIGN),
    File("a tar that leaves its folder", lambda: tarred("../../pickled-canary", b"x"), FOREIGN),
    File("a compressed model", lambda: gzip.compress(classifier(), mtime=0), FOREIGN),
    File("an array of objects", array_of_objects, FOREIGN),
    File("HDF5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(2000), FOREIGN),
    File("TFLite", lambda: b"\x1c\x00\x00\x00TFL3" + bytes(2000), FOREIGN),
    File("GGUF", lambda: b"GGUF\x03\x00\x00\x00" + b"\xff" * 16 + bytes(2000), FOREIGN),
    File("safetensors with an endless header", lambda: b"\xff" * 7 + b"\x7f{" + b" " * 1000, FOREIGN),
    File("ONNX Runtime's own format", ort_format, FOREIGN),
    File("zeros", lambda: bytes(1 << 20), FOREIGN),
    File("ones", lambda: b"\xff" * (1 << 20), FOREIGN),
    *(File(f"noise {seed}", partial(lambda seed: Random(seed).randbytes(5000), seed), FOREIGN) for seed in range(3)),
]


# --- Damage and the wire format -------------------------------------------------------------------------------------


def model_with(graph: bytes, *more: bytes) -> bytes:
    """A model around the bytes of a graph."""
    return field(1, 10) + field(7, graph) + field(8, field(2, OPSET)) + b"".join(more)


def graph_of(content: bytes) -> bytes:
    graph: bytes = onnx.load_from_string(content).graph.SerializeToString()
    return graph


@cache
def classifier() -> bytes:
    """Four columns to a label and three scores, as converters of scikit-learn's models write it."""
    made = helper.make_node(
        "LinearClassifier",
        ["X"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        classlabels_ints=[0, 1, 2],
        coefficients=[n / 10 for n in range(12)],
        intercepts=[0.5, 0.0, -0.5],
        multi_class=1,
        post_transform="SOFTMAX",
    )
    model = onnx.load_from_string(
        build([made], {"X": (FLOAT, [None, 4])}, {"label": (INT64, [None]), "scores": (FLOAT, [None, 3])})
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    content: bytes = model.SerializeToString()
    return content


@cache
def plain() -> bytes:
    """x + w, four columns."""
    return build(
        [node("Add", "x w", "y")],
        {"x": (FLOAT, [None, 4])},
        {"y": (FLOAT, [None, 4])},
        w=np.arange(4, dtype=np.float32),
    )


def cut(parts: int, of: int) -> bytes:
    content = classifier()
    return content[: len(content) * parts // of]


DAMAGED_FILES = [
    *(File(f"{parts} of 8 parts of a model", partial(cut, parts, 8), FOREIGN) for parts in range(1, 8)),
    File("a model without its last byte", lambda: classifier()[:-1], FOREIGN),
    File("a model without its first byte", lambda: classifier()[1:], FOREIGN),
    File("text behind a model", lambda: plain() + b"hello", FOREIGN),
    File("a model twice", lambda: plain() + plain(), LOAD),
    File("a length of 2^63", lambda: varint(7 << 3 | BYTES) + varint(1 << 63) + b"x", FOREIGN),
    File("a length one too long", lambda: varint(7 << 3 | BYTES) + varint(6) + b"12345", FOREIGN),
    File("a number of eleven bytes", lambda: b"\x08" + b"\x80" * 10 + b"\x01" + plain(), FOREIGN),
    File("a group", lambda: varint(7 << 3 | GROUP) + plain(), FOREIGN),
    File("field 0", lambda: b"\x02\x00" + plain(), FOREIGN),
    File("a graph that is a number", lambda: field(1, 10) + field(7, 7), FOREIGN),
    File("a model without a graph", lambda: field(1, 10) + field(8, field(2, OPSET)), FOREIGN),
    File("an empty graph", lambda: model_with(b""), LOAD),
    File("a graph in two parts", lambda: model_with(graph_of(plain())[:0]) + field(7, graph_of(plain())), SERVED),
    File("unknown fields", lambda: plain() + field(1000, b"x" * 100_000) + field(1001, HUGE), SERVED),
    File("100 MiB of an unknown field", lambda: plain() + field(1000, bytes(100 << 20)), SERVED),
    File("a million unknown fields", lambda: plain() + field(1000, 1) * 1_000_000, SERVED),
    File("10,000 subgraphs in one another", lambda: field(7, nested(10_000, 1, 5, 6)), "more than 100 deep"),
    File(
        "10,000 sequence types in one another",
        lambda: model_with(graph_of(plain()) + field(11, field(2, nested(10_000, 4, 1)))),
        LOAD,
    ),
    File("names that are no UTF-8", lambda: model_with(graph_of(plain()).replace(b"\x01x", b"\x01\xff")), LOAD),
]


# --- Graphs that make no sense --------------------------------------------------------------------------------------

Described = dict[str, tuple[int, Any]]
X: Described = {"x": (FLOAT, [None, 1])}
Y: Described = {"y": (FLOAT, [None, 1])}


def altered(change: Callable[[onnx.ModelProto], object], content: Content = plain) -> Content:
    """A good model with one thing changed."""

    def make() -> bytes:
        made = onnx.load_from_string(content())
        change(made)
        changed: bytes = made.SerializeToString()
        return changed

    return make


def nodes(
    *made: onnx.NodeProto, inputs: Described = X, outputs: Described = Y, **constants: np.ndarray[Any, Any]
) -> Content:
    return lambda: build(made, inputs, outputs, **constants)


def chain(length: int) -> bytes:
    """Nodes one after the other."""
    steps = [node("Identity" if n % 2 else "Neg", f"h{n}" if n else "x", f"h{n + 1}") for n in range(length - 1)]
    return build([*steps, node("Neg", f"h{length - 1}", "y")], X, Y)


def fan(width: int) -> bytes:
    """Nodes beside each other."""
    return build([*(node("Neg", "x", f"h{n}") for n in range(width)), node("Neg", "x", "y")], X, Y)


def many_inputs(count: int) -> bytes:
    return build([node("Neg", "x0", "y")], {f"x{n}": (FLOAT, [None, 1]) for n in range(count)}, Y)


def many_outputs(count: int) -> bytes:
    return build(
        [node("Identity", "x", f"y{n}") for n in range(count)], X, {f"y{n}": (FLOAT, [None, 1]) for n in range(count)}
    )


def branches(depth: int) -> bytes:
    """An If in an If in an If."""

    def body(left: int) -> onnx.GraphProto:
        inner = [helper.make_node("Identity", ["x"], [f"o{left}"])] if not left else [choice(left - 1, f"o{left}")]
        return helper.make_graph(inner, f"g{left}", [], [helper.make_tensor_value_info(f"o{left}", FLOAT, None)])

    def choice(left: int, output: str) -> onnx.NodeProto:
        return helper.make_node("If", ["yes"], [output], then_branch=body(left), else_branch=body(0))

    return build([choice(depth, "y")], X, Y, yes=np.array(True))


def calls(*bodies: tuple[str, list[str]], opset: int = OPSET) -> bytes:
    """A model that calls the first of these functions, each of which calls others by name."""
    made = onnx.load_from_string(build([helper.make_node(bodies[0][0], ["x"], ["y"], domain="own")], X, Y))
    made.opset_import.append(helper.make_opsetid("own", 1))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    for name, callees in bodies:
        steps = [
            helper.make_node(callee, [f"h{n}"], [f"h{n + 1}"], domain="" if callee == "Neg" else "own")
            for n, callee in enumerate(callees)
        ]
        made.functions.append(helper.make_function("own", name, ["h0"], [f"h{len(callees)}"], steps, imports))
    content: bytes = made.SerializeToString()
    return content


def laughs(doublings: int) -> bytes:
    """Functions that each call the next one twice."""
    return calls(*((f"f{n}", [f"f{n + 1}"] * 2) for n in range(doublings)), (f"f{doublings}", ["Neg"]))


def with_maps() -> bytes:
    """Scores as a sequence of maps, as converters write it if nobody says no."""
    model = onnx.load_from_string(classifier())
    model.graph.node.append(
        helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    )
    kind = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    model.graph.output[1].CopyFrom(helper.make_value_info("maps", helper.make_sequence_type_proto(kind)))
    content: bytes = model.SerializeToString()
    return content


def set_dimension(made: onnx.ModelProto, *sizes: int) -> None:
    shape = made.graph.input[0].type.tensor_type.shape
    shape.ClearField("dim")
    for size in sizes:
        shape.dim.add(dim_value=size)


def custom_library() -> bytes:
    """A node that would like a library to be loaded."""
    odd = helper.make_node("Load", ["x"], ["y"], domain="evil", library="/tmp/evil.so", custom_op_library="evil.dll")
    made = onnx.load_from_string(build([odd], X, Y))
    made.opset_import.append(helper.make_opsetid("evil", 1))
    made.metadata_props.add(key="ep.context_enable", value="1")
    content: bytes = made.SerializeToString()
    return content


def context_node() -> bytes:
    """A node by which accelerators name a binary of theirs."""
    odd = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="/etc/passwd", main_context=1
    )
    made = onnx.load_from_string(build([odd], X, Y))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    content: bytes = made.SerializeToString()
    return content


def rename(made: onnx.ModelProto, name: str) -> None:
    """Give the input another name, everywhere."""
    made.graph.input[0].name = made.graph.node[0].input[0] = name


SENSELESS_FILES = [
    File("a circle", nodes(node("Neg", "y", "a"), node("Neg", "a", "y")), LOAD),
    File("a node that feeds itself", nodes(node("Add", "x y", "y")), LOAD),
    File("two nodes with one output", nodes(node("Neg", "x", "y"), node("Abs", "x", "y")), LOAD),
    File("an input from nowhere", nodes(node("Neg", "z", "y")), LOAD),
    File("an output from nowhere", nodes(node("Neg", "x", "z")), LOAD),
    File("a node without a name of its operator", nodes(onnx.NodeProto(input=["x"], output=["y"])), LOAD),
    File("an operator of nobody", nodes(node("Brew", "x", "y")), LOAD),
    File("an operator that loads a library", custom_library, LOAD),
    File("an accelerator's binary at /etc/passwd", context_node, LOAD),
    File(
        "Python in a node",
        nodes(helper.make_node("PyOp", ["x"], ["y"], domain="pyopmulti_1", module="os", class_name="system")),
        LOAD,
    ),
    *(
        File(f"opset {version}", altered(lambda m, v=version: setattr(m.opset_import[0], "version", v)), LOAD)  # type: ignore[misc]
        for version in (999, 0, -1, 1 << 40)
    ),
    File("no opset", altered(lambda m: m.ClearField("opset_import")), LOAD),
    File("IR version 999", altered(lambda m: setattr(m, "ir_version", 999)), LOAD),
    File("IR version 0", altered(lambda m: setattr(m, "ir_version", 0)), SERVED),
    File("IR version -1", altered(lambda m: setattr(m, "ir_version", -1)), SERVED),
    File("a function that calls itself", lambda: calls(("f", ["f"])), LOAD),
    File("functions that call each other", lambda: calls(("f", ["g"]), ("g", ["f"])), LOAD),
    File("functions that call each other 2^40 times", lambda: laughs(40), TIME),
    File(
        "functions 5,000 calls deep",
        lambda: calls(*((f"f{n}", [f"f{n + 1}"]) for n in range(5000)), ("f5000", ["Neg"])),
        LOAD,
    ),
    File("a function twice", lambda: calls(("f", ["Neg"]), ("f", ["Neg"])), LOAD),
    File("functions of another opset", lambda: calls(("f", ["Neg"]), opset=999), LOAD),
    File("20 branches in one another", lambda: branches(20), SERVED),
    File("20,000 nodes in a row", lambda: chain(20_000), SERVED),
    File("20,000 nodes beside each other", lambda: fan(20_000), SERVED),
    File("1,000 inputs", lambda: many_inputs(1000), SERVED),
    File("1,000 outputs", lambda: many_outputs(1000), SERVED),
    File("an input name of a megabyte", altered(lambda m: rename(m, "x" * (1 << 20))), SERVED),
    File("an input name that moves the cursor", altered(lambda m: rename(m, "\x1b[2J\r\n\x00x")), SERVED),
    File("an input without a name", altered(lambda m: rename(m, "")), LOAD),
    File("an input twice", altered(lambda m: m.graph.input.append(m.graph.input[0])), LOAD),
    File("an output twice", altered(lambda m: m.graph.output.append(m.graph.output[0])), SERVED),
    File("an output that is an input", altered(lambda m: setattr(m.graph.output[0], "name", "x")), SERVED),
    File("an input without a type", altered(lambda m: m.graph.input[0].ClearField("type")), LOAD),
    File("an input of type 99", altered(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99)), LOAD),
    File(
        "an input of complex numbers",
        altered(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.COMPLEX64)),
        LOAD,
    ),
    File(
        "an input with 10,000 dimensions", altered(lambda m: set_dimension(m, *[1] * 10_000)), "more than 64 dimensions"
    ),
    File("an input of 2^60 columns", altered(lambda m: set_dimension(m, 1, HUGE)), LOAD),
    File("an input of 2^32 × 2^32", altered(lambda m: set_dimension(m, 1 << 32, 1 << 32)), LOAD),
    File(
        "an input of 2^40 columns, which nothing looks at",
        lambda: build([node("Neg", "x", "y")], X | {"z": (FLOAT, [1, 1 << 40])}, Y),
        "more elements than",
    ),
    File("an input of -5 columns", altered(lambda m: set_dimension(m, 1, -5)), SERVED),
    File("an input of no columns", altered(lambda m: set_dimension(m, 1, 0)), LOAD),
    File("maps", with_maps, "which cannot be served"),
    File("a sequence", models.sequence, "which cannot be served"),
    File("no inputs", models.constant, "has no inputs"),
]


# --- Tensors that lie -----------------------------------------------------------------------------------------------


def weight(**parts: Any) -> Content:
    """x + w, with another tensor as w."""

    def change(made: onnx.ModelProto) -> None:
        made.graph.initializer[0].CopyFrom(TensorProto(**({"name": "w", "data_type": FLOAT} | parts)))

    return altered(change)


def sparse(values: TensorProto, indices: TensorProto, *dims: int) -> Content:
    def change(made: onnx.ModelProto) -> None:
        made.graph.ClearField("initializer")
        made.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=dims))

    return altered(change)


def tensor(values: Any, kind: Any = np.float32, name: str = "w") -> TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


LYING_FILES = [
    File("data shorter than its shape", weight(dims=[4], raw_data=bytes(15)), LOAD),
    File("data longer than its shape", weight(dims=[4], raw_data=bytes(17)), LOAD),
    File("no data for its shape", weight(dims=[4]), LOAD),
    File("no data for 2^60 elements", weight(dims=[HUGE]), LOAD),
    File("a shape whose product is 0 in 64 bits", weight(dims=[1 << 32, 1 << 32], raw_data=b""), LOAD),
    File("a shape whose product is 4 in 64 bits", weight(dims=[(1 << 62) + 1, 4], raw_data=bytes(16)), LOAD),
    File("a shape whose bytes are 0 in 64 bits", weight(dims=[1 << 62], raw_data=b""), LOAD),
    File("a negative size", weight(dims=[-4], raw_data=bytes(16)), LOAD),
    File("two negative sizes", weight(dims=[-2, -2], raw_data=bytes(16)), LOAD),
    File("10,000 dimensions", weight(dims=[1] * 10_000, raw_data=bytes(4)), SERVED),
    File("raw and typed data", weight(dims=[4], raw_data=bytes(16), float_data=[1, 2, 3, 4]), SERVED),
    File("typed data of another type", weight(dims=[4], int64_data=[1, 2, 3, 4]), LOAD),
    File("too little typed data", weight(dims=[4], float_data=[1, 2, 3]), LOAD),
    File("strings in raw data", weight(dims=[4], data_type=STRING, raw_data=bytes(16)), LOAD),
    File("a tensor of no type", weight(dims=[4], data_type=0, raw_data=bytes(16)), LOAD),
    File("a tensor of type 99", weight(dims=[4], data_type=99, raw_data=bytes(16)), LOAD),
    *(
        File(f"a tensor of {name}", weight(dims=[4], data_type=kind, raw_data=bytes(4 * width)), LOAD)
        for name, kind, width in (
            ("BFLOAT16", TensorProto.BFLOAT16, 2),
            ("COMPLEX128", TensorProto.COMPLEX128, 16),
            ("INT4", TensorProto.INT4, 1),
            ("FLOAT8", TensorProto.FLOAT8E4M3FN, 1),
        )
    ),
    File(
        "a tensor in segments",
        weight(dims=[4], raw_data=bytes(16), segment=TensorProto.Segment(begin=0, end=HUGE)),
        SERVED,
    ),
    File("a tensor twice", altered(lambda m: m.graph.initializer.append(tensor([1, 2, 3, 4]))), SERVED),
    File("a tensor without a name", weight(name="", dims=[4], raw_data=bytes(16)), LOAD),
    File(
        "a tensor with the name of an input",
        altered(lambda m: m.graph.initializer.append(tensor([[1, 2, 3, 4]], name="x"))),
        "has no inputs",
    ),
    File("a sparse tensor of 2^60", sparse(tensor([1]), tensor([0], np.int64, ""), HUGE), LOAD),
    File("a sparse tensor with an index beyond its end", sparse(tensor([1]), tensor([9], np.int64, ""), 4), LOAD),
    File("a sparse tensor with a negative index", sparse(tensor([1]), tensor([-9], np.int64, ""), 4), LOAD),
    File(
        "a sparse tensor with more indices than values",
        sparse(tensor([1]), tensor([0, 1, 2, 3], np.int64, ""), 4),
        LOAD,
    ),
    File(
        "a sparse tensor whose shape overflows", sparse(tensor([1]), tensor([0], np.int64, ""), 1 << 32, 1 << 32), LOAD
    ),
]

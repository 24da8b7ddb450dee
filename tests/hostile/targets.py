# ruff: noqa: PT017 - what is caught here is expected, and held against what may be said
"""What is fuzzed: functions that take any octets, and may do nothing with them but what their caller expects.

Each target is made by a function that imports what it needs, so that a coverage-guided fuzzer can instrument it, and
returns (the function, octets to begin with).
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Target = tuple[Callable[[bytes], None], list[bytes]]


_folders: list[tempfile.TemporaryDirectory[str]] = []  # they go with the process


def _folder() -> Path:
    _folders.append(tempfile.TemporaryDirectory(prefix="fuzz-"))
    return Path(_folders[-1].name)


class _Client:
    """Nobody hears the answer."""

    transport = object()
    gone = False
    deadline = math.inf

    def respond(self, status: int, body: bytes, fields: bytes = b"") -> None: ...

    def respond_problem(self, problem: Any) -> None: ...

    def reply(self, parts: Any) -> None: ...

    def fail(self, problem: Any) -> None: ...


def _signatures() -> list[Any]:
    """Of several kinds of models: fixed rows, every datatype, varying dimensions, no shape at all, texts."""
    from holdfast_bundle.manifest import DATATYPES, Tensor
    from holdfast_serving.signature import Signature

    output = (Tensor("y", "FP32", (-1,)),)
    return [
        Signature((Tensor("X", "FP32", (-1, 4)),), output),
        Signature(
            tuple(Tensor(name, name, (-1, 2)) for name in sorted(DATATYPES)), (*output, Tensor("h", "FP16", (-1,)))
        ),
        Signature((Tensor("X", "FP32", (-1, -1)), Tensor("n", "INT64", ())), output),
        Signature((Tensor("X", "BYTES", (-1,)),), output),
        Signature((Tensor("X", "FP64", ()),), output),
    ]


def _check(signature: Any, call: Any) -> None:
    """A call that was taken can be fed to the model."""
    from holdfast_serving.inference import to_array

    for tensor, data, shape in zip(signature.inputs, call.inputs, call.shapes, strict=True):
        array = to_array(tensor, data, shape)
        assert array.shape == tuple(shape)
        assert array.ndim == len(tensor.shape) or not tensor.shape


def v2_json() -> Target:
    """The body of a request in JSON; the first octet chooses the model."""
    from holdfast_serving.codec import RestCodec
    from holdfast_serving.problems import Problem

    models = [(signature, RestCodec(signature, "m", "1")) for signature in _signatures()]

    def run(data: bytes) -> None:
        signature, codec = models[data[0] % len(models)] if data else models[0]
        try:
            call = codec.decode(data[1:], _Client())
        except Problem as problem:
            assert 400 <= problem.status < 500
            assert len(problem.message) < 2000
        else:
            _check(signature, call)

    row = {"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2, None, -1e3]}
    text = {"name": "X", "datatype": "BYTES", "shape": [2], "data": ["a", "\u00e9"]}
    nested = {"name": "X", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4]], "parameters": {"a": 1}}
    number = {"name": "n", "datatype": "INT64", "shape": [], "data": [1]}
    options = {"id": "1", "parameters": {"binary_data_output": False}, "outputs": [{"name": "y", "parameters": {}}]}
    return run, [
        b"\0" + json.dumps({"inputs": [row], **options}).encode(),
        b"\2" + json.dumps({"inputs": [nested, number]}).encode(),
        b"\3" + json.dumps({"inputs": [text]}).encode(),
        b"\4" + json.dumps({"inputs": [{**row, "datatype": "FP64", "shape": [2, 2, 1]}]}).encode(),
    ]


def v2_binary() -> Target:
    """A body with binary tensors: an octet for the model, two for the length of the JSON, the rest."""
    from holdfast_serving.codec import RestCodec
    from holdfast_serving.problems import Problem

    models = [(signature, RestCodec(signature, "m", "1")) for signature in _signatures()]

    def run(data: bytes) -> None:
        if len(data) < 3:
            return
        signature, codec = models[data[0] % len(models)]
        try:
            call = codec.decode(data[3:], _Client(), int.from_bytes(data[1:3], "big"))
        except Problem as problem:
            assert 400 <= problem.status < 500
        else:
            _check(signature, call)

    def sample(model: int, content: bytes, *inputs: dict[str, Any]) -> bytes:
        text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        return bytes([model]) + len(text).to_bytes(2, "big") + text + content

    row = {"name": "X", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    text = {"name": "X", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}}
    return run, [
        sample(0, struct.pack("<4f", 1, 2, 3, 4), row),
        sample(3, b"\1\0\0\0a\1\0\0\0b", text),
        b"\0\0\0" + bytes(16),
        b"\3\0\0" + b"text",
    ]


def v2_grpc() -> Target:
    """A ModelInferRequest; the first octet chooses the model."""
    from holdfast_serving.grpc.codec import GrpcCodec
    from holdfast_serving.problems import Problem

    models = [(signature, GrpcCodec(signature, "m", "1")) for signature in _signatures()]

    def run(data: bytes) -> None:
        signature, codec = models[data[0] % len(models)] if data else models[0]
        large = b"\xfa\x7f\x80\x80\x08" + bytes(1 << 17) if data[:1] > b"\xf0" else b""  # which is read in another way
        try:
            call = codec.decode(data[1:] + large, _Client())
        except Problem as problem:
            assert 400 <= problem.status < 500
        else:
            _check(signature, call)

    from tests.hostile.calls import ROW, asked, tensor
    from tests.hostile.wirefmt import field

    return run, [
        b"\0" + asked(tensor(), raw=(ROW,), model=b"m"),
        b"\0" + asked(tensor(contents=field(6, ROW)), model=b"m", more=field(6, field(1, b"y"))),
        b"\3" + asked(tensor(datatype=b"BYTES", shape=(1,), contents=field(8, b"a")), model=b"m"),
        b"\3" + asked(tensor(datatype=b"BYTES", shape=(1,)), raw=(b"\1\0\0\0a",), model=b"m"),
    ]


def http() -> Target:
    """What a client sends to the REST port, in pieces of the size that the first octet says."""
    from holdfast_serving.connection import Connection, Port
    from holdfast_serving.limits import Limits
    from holdfast_serving.routes import Endpoint, Routes

    handled: list[int] = []

    def echo(connection: Connection, body: bytes | bytearray) -> None:
        handled.append(len(body))
        connection.respond(200, bytes(body))

    paths = {"/echo": {"POST": Endpoint(echo)}, "/": {"GET": Endpoint(echo)}}
    port = Port(Routes(paths), Limits(body_bytes=1000, buffered_bytes=4000))
    port.loop = asyncio.new_event_loop()
    port.heads = {status: b"HTTP/1.1 %d X\r\n" % status for status in range(100, 600)}

    def run(data: bytes) -> None:
        if not data:
            return
        connection = Connection(port)
        transport = _Transport()
        connection.connection_made(transport)  # type: ignore[arg-type]
        size = data[0] or 1000
        for start in range(1, len(data), size):
            if not transport.closing:
                connection.data_received(data[start : start + size])
            while connection._backlog and not connection._busy:
                connection._next()
        connection.connection_lost(None)
        del connection
        assert port.reserve(0)
        assert port._buffered == 0, port._buffered
        assert all(length <= 1000 for length in handled)
        handled.clear()

    post = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345"
    chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n"
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    expect = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}"
    return run, [
        b"\0" + post + chunked,
        b"\x07" + chunked,
        b"\x20" + upgrade + post,
        b"\0" + expect + b"HEAD / HTTP/1.0\r\n\r\n",
    ]


class _Transport:
    """Where answers go."""

    closing = False

    def write(self, data: bytes) -> None: ...

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def hpack() -> Target:
    """Header blocks of one connection, each behind its length."""
    from holdfast_serving.grpc import hpack as module

    def run(data: bytes) -> None:
        decoder = module.Decoder()
        while data:
            block, data = data[1 : 1 + data[0]], data[1 + data[0] :]
            try:
                decoder.decode(block)
            except module.HpackError:
                return
            assert decoder._size <= module.CAPACITY

    fields = module.encode([(b":method", b"POST"), (b"a", b"b")])
    return run, [
        bytes([len(fields)]) + fields,
        b"\x04\x82\x86\x84\xbe",
        b"\x03\x3f\xe1\x1f",
        b"\x08\x40\x01a\x83\x1c\x64\x5f\xbe",
    ]


def http2() -> Target:
    """What a client sends to the gRPC port, in pieces of the size that the first octet says."""
    from tests.unit.serving.http2_client import PREFACE, frame, message
    from tests.unit.serving.test_grpc_transport import HEAD, PATIENT, World

    from holdfast_serving.grpc.connection import Connection

    loop = asyncio.new_event_loop()

    def run(data: bytes) -> None:
        if not data:
            return
        world = World(PATIENT)
        world.port.now = 1.0
        world.port.loop = loop
        connection = Connection(world.port)
        size, content = data[0] or 1000, PREFACE + data[1:]
        for start in range(0, len(content), size):
            connection.http2.receive(content[start : start + size])
        engine = connection.http2
        assert len(engine.streams) <= 128
        assert sum(map(len, engine.out)) <= 20 * len(content) + 1000
        engine.lost()
        assert (engine.streams, engine.waiting, world.reserved) == ({}, {}, 0)

    whole = frame(1, 4, 1, HEAD) + frame(0, 1, 1, message(b"x" * 9))
    pieces = frame(1, 0, 1, HEAD) + frame(9, 4, 1) + frame(0, 0, 1, message(b"abc")) + frame(3, 0, 1, bytes(4))
    about = frame(4, 0, 0, b"\0\4\0\0\0\1") + whole + frame(8, 0, 1, b"\0\0\1\0") + frame(6, 0, 0, bytes(8))
    return run, [b"\0" + whole, b"\x05" + pieces, b"\0" + about + frame(7, 0, 0, bytes(8))]


def onnx_walker() -> Target:
    """A model file. Whatever protobuf finds in it of data elsewhere must have been refused."""
    from tests.unit.bundle.test_onnx_safety import PLACES, external, inline, must_be_refused

    from holdfast_bundle.errors import BundleError
    from holdfast_bundle.onnx_safety import check_external_data

    folder = _folder()
    (folder / "weights.bin").write_bytes(bytes(16))

    def run(data: bytes) -> None:
        (folder / "model.onnx").write_bytes(data)
        try:
            check_external_data(folder / "model.onnx", folder)
        except BundleError as error:
            assert error.reason == "Invalid"
            return
        assert not must_be_refused(data)

    return run, [
        content.SerializeToString()
        for place in PLACES.values()
        for content in (place(external()), place(external("../secret")), place(inline()))
    ]


def manifest() -> Target:
    """A manifest: what is taken can be written again, and is the same."""
    from holdfast_bundle import manifest as module
    from holdfast_bundle.errors import BundleError

    def run(data: bytes) -> None:
        try:
            found = module.parse(data)
        except BundleError as error:
            assert error.reason == "Invalid"
            assert len(error.message) < 6000
            return
        assert module.parse(module.serialize(found)) == found
        assert not any(name.startswith("/") or ".." in name.split("/") for name in found.files)

    tensor = module.Tensor("x", "FP32", (-1, 4))
    whole = module.Manifest(
        "m",
        "f",
        17,
        (tensor,),
        (tensor,),
        {"accuracy": "0.9"},
        {"a": {"b": [1]}},
        {"model.onnx": module.File("0" * 64, 5)},
    )
    return run, [module.serialize(whole)]


def profile() -> Target:
    """A profile: whatever is wrong with it is said, and the rest is used."""
    from tests.unit.serving.test_profile import SIGNATURE, WHOLE

    from holdfast_serving import profile as module

    folder = _folder()

    def run(data: bytes) -> None:
        (folder / "profile.json").write_bytes(data)
        found = module.read(folder, SIGNATURE)
        assert found is not None
        for feature in found.features:
            assert len(feature.bins.names) == len(feature.bins.shares)

    return run, [json.dumps(WHOLE).encode()]


def golden() -> Target:
    """Golden requests."""
    from tests.hostile.files import classifier

    from holdfast_bundle.errors import BundleError
    from holdfast_serving import golden as module
    from holdfast_serving import session
    from holdfast_serving.codec import RestCodec

    folder = _folder()
    (folder / "model.onnx").write_bytes(classifier())
    model = session.load(folder / "model.onnx", 1)
    codec = RestCodec(model.signature, "m", "1")

    def run(data: bytes) -> None:
        (folder / "golden.json").write_bytes(data)
        try:
            module.check(model, codec, folder)
        except BundleError as error:
            assert error.reason == "Invalid"

    request = {
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [1], "data": [2]},
            {"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [0.0, 0.1, 0.9]},
        ],
    }
    return run, [json.dumps({"tolerance": {"relative": 1, "absolute": 1}, "requests": [request]}).encode()]


def lease() -> Target:
    """A lease: signed if the first octet is even, else the envelope as it is."""
    from tests.unit.serving.leases import KEY, envelope

    from holdfast_serving.lease import Reader, Refused

    key = KEY.public_key().public_bytes_raw()

    def run(data: bytes) -> None:
        reader = Reader([key], "wine", "1", "instance", secured=False)
        content = data[1:]
        try:
            taken = reader.read(envelope(content, KEY) if data and not data[0] % 2 else content, 1000.0)
        except Refused:
            return
        assert 0 <= taken.weight <= 1
        assert 0 < taken.target.port < 1 << 16
        assert 0 <= taken.seconds <= 15

    document = {
        "sequence": 1, "issuedAt": 1000, "seconds": 15, "model": "wine", "revision": "1", "instance": "instance",
        "mode": "share",
        "target": {"revision": "2", "address": "10.0.0.1:8080", "tlsName": None, "readySeconds": 1},
        "hedgeMilliseconds": 5, "weight": 0.5, "syntheticPerSecond": 1,
    }  # fmt: skip
    return run, [b"\0" + json.dumps(document).encode(), b"\1" + envelope(document, KEY)]


def feedback() -> Target:
    """What a client says of answers; `@` stands for a receipt that was issued, `#` for one of another model."""
    from holdfast_serving.feedback import Feedback
    from holdfast_serving.json_body import parse
    from holdfast_serving.problems import Problem
    from holdfast_serving.receipts import KEY, Keys, Receipts

    folder = _folder()
    (folder / KEY).write_text("k" * 64)
    keys = Keys(folder)
    receipts = Receipts(keys, "wine")
    other = Receipts(keys, "beer").issue("1", [1]).encode()
    taking = Feedback(receipts, "wine", "1", 1_000_000, certified=False)

    def run(data: bytes) -> None:
        issued = receipts.issue("1", [1, 0.5, "a", None]).encode()
        try:
            rows, refused, _ = taking.take(parse(data.replace(b"@", issued).replace(b"#", other)))
        except Problem as problem:
            assert 400 <= problem.status < 500
            return
        assert 0 <= rows <= 3 * data.count(b"@")
        assert all(item["reason"] for item in refused)

    item = {"receipt": "@", "labels": [1, 0.25, "a", None]}
    return run, [
        json.dumps({"feedback": [item, item, {"receipt": "#", "labels": [1]}]}).encode(),
        json.dumps({"feedback": [{"receipt": "a.b", "labels": []}, {**item, "labels": [2, 1e308, "", "x"]}]}).encode(),
    ]


def answer() -> Target:
    """An answer of another revision: two octets for the length of its JSON, the rest."""
    from holdfast_bundle.manifest import Tensor
    from holdfast_serving.lease import Target as Place
    from holdfast_serving.signature import Signature
    from holdfast_serving.v2_client import Client, InvalidAnswer

    outputs = (Tensor("y", "FP32", (-1, 2)), Tensor("t", "BYTES", (-1,)))
    signature = Signature((Tensor("x", "FP32", (-1, 4)),), outputs)
    client = Client(signature, "m", Place("2", "10.0.0.1", 8080, None, 0.0), rows=True)

    def run(data: bytes) -> None:
        fields = {b"inference-header-content-length": b"%d" % int.from_bytes(data[:2], "big")}
        try:
            arrays, _ = client.read(fields | {b"server-timing": b"infer;dur=1.5"}, data[2:], 1)
        except InvalidAnswer:
            return
        assert [len(array) for array in arrays] == [1, 1]

    items = [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
        {"name": "t", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
    ]
    text = json.dumps({"model_name": "m", "model_version": "2", "outputs": items}).encode()
    return run, [len(text).to_bytes(2, "big") + text + bytes(8) + b"\1\0\0\0a"]


def uri() -> Target:
    """A model's URI."""
    from holdfast_bundle.errors import BundleError
    from holdfast_bundle.uris import local_path, parse

    def run(data: bytes) -> None:
        text = data.decode(errors="surrogateescape")
        try:
            found = parse(text)
            if found.scheme == "pvc":
                path = local_path(found, Path("/mnt/claims"))
                assert path.is_relative_to("/mnt/claims")
                assert ".." not in path.parts
        except BundleError:
            return

    seeds = (
        "pvc://claim/a/b.onnx",
        "https://[::1]:8443/a%2e?b=c",
        "s3://bucket/a",
        "oci://host:5000/a/b@sha256:0",
        "az://a/b",
    )
    return run, [seed.encode() for seed in seeds]


def coding() -> Target:
    """A compressed body: an octet chooses how."""
    from holdfast_serving.coding import _inflate
    from holdfast_serving.problems import Problem

    def run(data: bytes) -> None:
        made = _inflate(31 if data[:1] == b"\1" else 15, data[1:], 1000)
        assert made is None or isinstance(made, Problem) or len(made) <= 1000

    import gzip
    import zlib

    return run, [b"\1" + gzip.compress(b"a" * 100, mtime=0), b"\0" + zlib.compress(b"a" * 5000)]


TARGETS: dict[str, Callable[[], Target]] = {
    made.__name__: made
    for made in (
        v2_json, v2_binary, v2_grpc, http, hpack, http2, onnx_walker, manifest, profile, golden, lease, feedback,
        answer, uri, coding,
    )
}  # fmt: skip

FINDINGS: dict[str, Sequence[bytes]] = {
    # Half a character where any JSON may be: it could be read, and not be written again.
    "manifest": [
        b'{"schemaVersion":1,"name":"m","framework":"f","opset":1,"files":{"model.onnx":{"sha256":"%b","size":1}},"inputs":'
        b'[{"name":"x","datatype":"FP32","shape":[1]}],"outputs":[{"name":"y","datatype":"FP32","shape":[1]}],"metrics":{},'
        b'"lineage":{"a":"\\ud800"}}' % (b"0" * 64)
    ],
    "v2_json": [b'\x02{"inputs":[{"name":"X","datatype":"FP32","data":[1]},{"name":"n"}]}'],  # no shape: an exception
}
"""What once went wrong, by target."""

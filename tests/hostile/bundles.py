"""Bundles and claims that would have the server read what is not theirs.

Each lies on a claim beside a file with a secret. `plan` writes the bundle into a folder of the claim.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from tests.hostile.files import HUGE, SERVED, plain
from tests.unit.serving.models import FLOAT
from tests.unit.serving.server import write_bundle

from holdfast_bundle import manifest

MARKER = b"marker-6a1f0c2e"
"""Sixteen bytes that nothing may read or repeat; also a tensor of four floats."""

OUTSIDE = "outside the bundle"
NOT_THERE = "not in the bundle"
TENSORS = {
    "inputs": [manifest.Tensor("x", "FP32", (-1, 4))],
    "outputs": [manifest.Tensor("y", "FP32", (-1, 4))],
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder on a claim.

    Attributes:
        plan: writes it into (folder of the bundle, file with the secret).
        verdict: `SERVED`, or a pattern that the refusal must match.
        path: what the URI names below the claim.
    """

    name: str
    plan: Callable[[Path, Path], object]
    verdict: str
    path: str = "bundle"


def outside_tensor(**entries: str) -> TensorProto:
    made = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        made.external_data.add(key=key, value=value)
    return made


def seal(folder: Path, model: onnx.ModelProto | bytes, **changes: Any) -> None:
    write_bundle(folder, model if isinstance(model, bytes) else model.SerializeToString(), **(TENSORS | changes))


def adder(tensor: TensorProto) -> onnx.ModelProto:
    """x + w with this w."""
    made = onnx.load_from_string(plain())
    made.graph.initializer[0].CopyFrom(tensor)
    return made


def asks(**entries: str) -> Callable[[Path, Path], None]:
    """A bundle with 16 bytes of weights, whose model wants these external data."""

    def plan(folder: Path, secret: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_bytes(bytes(16))
        filled = {key: value.replace("{secret}", str(secret)) for key, value in entries.items()}
        seal(folder, adder(outside_tensor(**filled)))

    return plan


def hidden(place: Callable[[onnx.ModelProto, TensorProto], object]) -> Callable[[Path, Path], None]:
    """A model that works, and has a tensor of the secret somewhere."""

    def plan(folder: Path, secret: Path) -> None:
        made = onnx.load_from_string(plain())
        place(made, outside_tensor(location="../secret"))
        seal(folder, made)

    return plan


def _inline(kind: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.zeros(4, kind), "v")


def _constant(**attribute: Any) -> onnx.NodeProto:
    made = onnx.NodeProto(op_type="Constant", output=["unused"])
    made.attribute.append(onnx.AttributeProto(name="value", **attribute))
    return made


def _graph(tensor: TensorProto) -> onnx.GraphProto:
    return onnx.GraphProto(name="inner", initializer=[tensor])


PLACES: dict[str, Callable[[onnx.ModelProto, TensorProto], object]] = {
    "an initializer": lambda m, t: m.graph.initializer.append(t),
    "the values of a sparse initializer": lambda m, t: m.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=t, indices=_inline(np.int64), dims=[4])
    ),
    "the indices of a sparse initializer": lambda m, t: m.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=_inline(), indices=t, dims=[4])
    ),
    "a Constant": lambda m, t: m.graph.node.append(_constant(type=onnx.AttributeProto.TENSOR, t=t)),
    "a sparse Constant": lambda m, t: m.graph.node.append(
        _constant(
            type=onnx.AttributeProto.SPARSE_TENSOR,
            sparse_tensor=onnx.SparseTensorProto(values=t, indices=_inline(np.int64), dims=[4]),
        )
    ),
    "an attribute that says it is a number": lambda m, t: m.graph.node.append(
        _constant(type=onnx.AttributeProto.INT, t=t)
    ),
    "a list of tensors": lambda m, t: m.graph.node.append(_constant(tensors=[t])),
    "a subgraph": lambda m, t: m.graph.node.append(_constant(g=_graph(t))),
    "a list of subgraphs": lambda m, t: m.graph.node.append(_constant(graphs=[_graph(t)])),
    "a function": lambda m, t: m.functions.append(onnx.FunctionProto(name="f", domain="d", node=[_constant(t=t)])),
    "an attribute of a function": lambda m, t: m.functions.append(
        onnx.FunctionProto(name="f", domain="d", attribute_proto=[onnx.AttributeProto(name="a", t=t)])
    ),
    "training": lambda m, t: m.training_info.append(onnx.TrainingInfoProto(algorithm=_graph(t))),
}


def linked(link: Callable[[Path, Path], object], name: str = "weights.bin") -> Callable[[Path, Path], None]:
    """A bundle whose weights are a link; sealed with what the link leads to."""

    def plan(folder: Path, secret: Path) -> None:
        (folder / name).parent.mkdir(parents=True)
        link(folder / name, secret)
        seal(folder, adder(outside_tensor(location=name)))

    return plan


def folder_link(folder: Path, secret: Path) -> None:
    folder.mkdir()
    (folder / "sub").symlink_to(secret.parent)
    seal(folder, adder(outside_tensor(location="sub/secret")))
    _list(folder, "sub/secret", MARKER)


def special(make: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    """Weights that are no file; the manifest says they are one."""

    def plan(folder: Path, secret: Path) -> None:
        folder.mkdir()
        seal(folder, adder(outside_tensor(location="weights.bin")))
        make(folder / "weights.bin")
        _list(folder, "weights.bin", bytes(16))

    return plan


def _bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's whole path must be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def _list(folder: Path, name: str, content: bytes) -> None:
    """Put a file into the manifest by hand."""
    import hashlib

    document = json.loads((folder / "manifest.json").read_bytes())
    document["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / "manifest.json").write_text(json.dumps(document))


def manifested(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], None]:
    """A good bundle with another manifest."""

    def plan(folder: Path, secret: Path) -> None:
        seal(folder, plain())
        document = json.loads((folder / "manifest.json").read_bytes())
        changed = change(document)
        text = changed if isinstance(changed, str) else json.dumps(document)
        (folder / "manifest.json").write_text(text)

    return plan


def config_map(folder: Path, secret: Path) -> None:
    """As the kubelet writes a ConfigMap: every name is a link into a folder that is a link itself."""
    whole = folder / "..2026_11_25_12_00_00.1"
    whole.mkdir(parents=True)
    (whole / "weights.bin").write_bytes(bytes(16))
    seal(whole, adder(outside_tensor(location="weights.bin")))
    (folder / "..data").symlink_to(whole.name)
    for file in whole.iterdir():
        (folder / file.name).symlink_to(f"..data/{file.name}")


def bare(make: Callable[[Path, Path], object]) -> Callable[[Path, Path], None]:
    """Something at the place of a bare model: (path, secret)."""

    def plan(folder: Path, secret: Path) -> None:
        folder.mkdir()
        make(folder / "model.onnx", secret)

    return plan


def _sizes(document: dict[str, Any], size: Any) -> None:
    document["files"]["model.onnx"]["size"] = size


def _more(document: dict[str, Any], name: str) -> None:
    document["files"][name] = dict(document["files"]["model.onnx"])


BUNDLES = [
    *(
        Bundle(f"weights at {location!r}", asks(location=location), OUTSIDE)
        for location in (
            "../secret",
            "{secret}",
            "/proc/self/environ",
            "/dev/zero",
            "sub/../../secret",
            "./../secret",
            "..",
            ".",
            "",
            "weights.bin/../../secret",
            "//proc/self/environ",
            "..\\secret",
            "C:\\secret",
            "file:///etc/passwd",
            "*/_ORT_MEM_ADDR_/*",
            "weights.bin\x00.txt",
            "weights.bin\n",
            "~/\x1b[2J",
            "\u2025/secret\u202e",
        )
    ),
    *(
        Bundle(f"weights at {location!r}", asks(location=location), NOT_THERE)
        for location in ("%2e%2e/secret", "~/secret", "$HOME/secret", "．．/secret", "none", "Weights.bin", "x" * 300)
    ),
    Bundle("a place of 5,000 letters", asks(location="x" * 5000), "more than 4096"),
    *(
        Bundle(
            f"weights from {offset} of length {length}",
            asks(location="weights.bin", offset=offset, length=length),
            "no proper offset|more of 'weights.bin' than there is",
        )
        for offset, length in (
            ("-1", "16"),
            ("0", "-16"),
            ("1", "16"),
            ("0", "17"),
            (str(HUGE), str(HUGE)),
            (str(1 << 64), "16"),
            ("0", str(1 << 63)),
            ("0x0", "16"),
            ("1e1", "1"),
            (" 0", "16"),
            ("٠", "16"),
            ("", ""),
        )
    ),
    Bundle("weights of fewer bytes than their shape", asks(location="weights.bin", length="4"), "cannot be loaded"),
    Bundle(
        "unknown keys", asks(location="weights.bin", __class__="x", checksum="y", name="../secret"), "cannot be loaded"
    ),
    Bundle("no place at all", asks(offset="0"), "no place"),
    Bundle("weights in the model's own file", asks(location="model.onnx", length="16"), SERVED),
    *(Bundle(f"the secret in {name}", hidden(place), OUTSIDE) for name, place in PLACES.items()),
    Bundle(
        "weights that link to the secret",
        linked(lambda path, secret: path.symlink_to(secret)),
        "leads out of its claim",
    ),
    Bundle(
        "weights that link upwards to the secret",
        linked(lambda path, secret: path.symlink_to("../../secret")),
        "leads out of its claim",
    ),
    Bundle("weights below a link to the secret's folder", folder_link, "leads out of its claim"),
    Bundle(
        "weights that link to /proc/self/environ",
        special(lambda path: path.symlink_to("/proc/self/environ")),
        "leads out of its claim",
    ),
    Bundle(
        "weights that link to /dev/zero", special(lambda path: path.symlink_to("/dev/zero")), "leads out of its claim"
    ),
    Bundle("weights that link to themselves", special(lambda path: path.symlink_to(path.name)), "link to itself"),
    Bundle("weights that are a pipe", special(os.mkfifo), "is not a file"),
    Bundle("weights that are a socket", special(_bind), "is not a file"),
    Bundle("weights that are a folder", special(lambda path: path.mkdir()), "is not a file"),
    Bundle("a ConfigMap", config_map, SERVED),
    Bundle(
        "a link inside the claim",
        linked(lambda path, secret: (path.with_name("real").write_bytes(bytes(16)), path.symlink_to("real"))),
        SERVED,
    ),
    Bundle(
        "a model that links to the secret",
        bare(lambda path, secret: path.symlink_to(secret)),
        "leads out of its claim",
        "bundle/model.onnx",
    ),
    Bundle(
        "a model that links to /dev/zero",
        bare(lambda path, secret: path.symlink_to("/dev/zero")),
        "leads out of its claim",
        "bundle/model.onnx",
    ),
    Bundle("a model that is a pipe", bare(lambda path, secret: os.mkfifo(path)), "no such file", "bundle/model.onnx"),
    Bundle("a model above its claim", bare(lambda path, secret: None), "must not contain", "../models2/model.onnx"),
    Bundle(
        "a model above its claim, encoded", bare(lambda path, secret: None), "must not contain", "%2e%2e/secret.onnx"
    ),
    *(
        Bundle(f"a manifest that lists {name!r}", manifested(partial(_more, name=name)), "manifest.json names")
        for name in (
            "../secret",
            "/etc/passwd",
            "a/../../secret",
            "",
            ".",
            "a//b",
            "..\\secret",
            "a\x00b",
            "manifest.json",
            "\u202e",
        )
    ),
    *(
        Bundle(f"a manifest that says {size!r} bytes", manifested(partial(_sizes, size=size)), "manifest.json|has ")
        for size in (-1, 0, 1 << 62, 1 << 70, 1.5, "9", None, True, [])
    ),
    Bundle(
        "a manifest with a key twice",
        manifested(lambda d: json.dumps(d).replace('"name"', '"name": "a", "name"', 1)),
        "key twice",
    ),
    Bundle("a manifest 100,000 deep", manifested(lambda d: "[" * 100_000 + "]" * 100_000), "nested too deeply"),
    Bundle("a manifest with NaN", manifested(lambda d: json.dumps(d | {"opset": float("nan")})), "not JSON"),
    Bundle(
        "a manifest with a number of 10^6 digits",
        manifested(lambda d: json.dumps(d).replace('"opset": 17', '"opset": ' + "9" * 1_000_000)),
        "not JSON",
    ),
    Bundle(
        "a manifest with half a character", manifested(lambda d: json.dumps(d | {"name": "\ud800"})), "half a character"
    ),
    Bundle("a manifest with a byte order mark", manifested(lambda d: "\ufeff" + json.dumps(d)), "not JSON"),
    Bundle(
        "a manifest of 5 MiB",
        manifested(lambda d: json.dumps(d) + " " * (5 << 20)),
        "more than the 4194304 bytes|larger",
    ),
    Bundle(
        "a manifest of 10,000 files",
        manifested(lambda d: [_more(d, f"f{n}") for n in range(10_000)]),
        "more than 1000 files",
    ),
    Bundle("a manifest with a shape of 0", manifested(lambda d: d["inputs"][0].update(shape=[0])), "no shape"),
    Bundle(
        "a manifest with a shape of 10^5 dimensions",
        manifested(lambda d: d["inputs"][0].update(shape=[1] * 100_000)),
        "in another way",
    ),
    Bundle(
        "golden requests 100,000 deep",
        lambda folder, secret: (
            folder.mkdir(),
            (folder / "golden.json").write_text("[" * 100_000),
            seal(folder, plain()),
        ),
        "golden.json",
    ),
    Bundle(
        "golden requests with 10^6 tensors",
        lambda folder, secret: (
            folder.mkdir(),
            (folder / "golden.json").write_text(
                json.dumps(
                    {
                        "tolerance": {"relative": 0, "absolute": 0},
                        "requests": [{"inputs": [{}] * 1_000_000, "outputs": []}],
                    }
                )
            ),
            seal(folder, plain()),
        ),
        "golden request 1",
    ),
    Bundle(
        "golden requests that want 2^60 numbers",
        lambda folder, secret: (
            folder.mkdir(),
            (folder / "golden.json").write_text(
                json.dumps(
                    {
                        "tolerance": {"relative": 0, "absolute": 0},
                        "requests": [
                            {
                                "inputs": [{"name": "x", "datatype": "FP32", "shape": [HUGE, 4], "data": []}],
                                "outputs": [],
                            }
                        ],
                    }
                )
            ),
            seal(folder, plain()),
        ),
        "golden request 1",
    ),
]

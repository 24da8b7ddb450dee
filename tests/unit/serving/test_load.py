"""Models that are good, bad and hostile, on their way into the server."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from tests.unit.bundle.loopback import LOOPBACK, Origin, answer, redirect, serve
from tests.unit.serving import models
from tests.unit.serving.server import ROOTS, Process, Server, claim, digest_of, request, until, write_bundle

from holdfast_bundle import manifest, progress
from holdfast_bundle.cache import Cache
from holdfast_bundle.errors import BundleError
from holdfast_bundle.onnx_safety import check_external_data
from holdfast_bundle.web import Web
from holdfast_serving import load as loading
from holdfast_serving.probe import probe
from holdfast_serving.resolve import resolve
from holdfast_serving.settings import Settings


def outcome_of(folder: Path, uri: str, web: Web | None = None) -> tuple[int, dict[str, Any]]:
    """What the helper says of a model; it may leave nothing behind."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    settings = Settings(model_uri=uri, claims=folder / "claims", scratch=scratch)
    done = resolve(settings, web) if web else resolve(settings)
    assert list(scratch.iterdir()) == []
    return done


def golden(rows: list[list[float]]) -> dict[str, Any]:
    """Golden requests for the iris model, one per row, with the runtime's own answers."""
    runtime = onnxruntime.InferenceSession(models.iris())
    requests = []
    for row in rows:
        label, probabilities = runtime.run(None, {"X": np.array([row], np.float32)})
        outputs = [
            {"name": "label", "datatype": "INT64", "shape": [1], "data": label.tolist()},
            {"name": "probabilities", "datatype": "FP32", "shape": [1, 3], "data": probabilities.ravel().tolist()},
        ]
        requests.append({**request(X=("FP32", [1, 4], list(row))), "outputs": outputs})
    return {"requests": requests, "tolerance": {"relative": 1e-4, "absolute": 1e-5}}


ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]]


def test_a_bare_model_is_resolved_to_the_digest_of_its_bytes(tmp_path: Path) -> None:
    (claim(tmp_path) / "wine.onnx").write_bytes(models.iris())
    assert outcome_of(tmp_path, "pvc://models/wine.onnx") == (
        0,
        {"result": "Resolved", "digest": digest_of(models.iris()), "sizeBytes": len(models.iris()), "format": "ONNX"},
    )


def test_a_bundle_is_resolved_to_the_digest_of_its_manifest(tmp_path: Path) -> None:
    folder = claim(tmp_path) / "wine"
    digest = write_bundle(folder, models.iris(), golden(ROWS))
    code, message = outcome_of(tmp_path, "pvc://models/wine")
    assert (code, message["digest"], message["format"]) == (0, digest, "Bundle")
    assert message["sizeBytes"] == sum(file.stat().st_size for file in folder.iterdir())


def test_external_data_comes_with_its_bundle(tmp_path: Path) -> None:
    folder = claim(tmp_path) / "big"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    content = models.with_external_data(folder, "weights.bin")
    tensors = {
        "inputs": [manifest.Tensor("x", "FP32", (-1, 4))],
        "outputs": [manifest.Tensor("y", "FP32", (-1, 4))],
    }
    digest = write_bundle(folder, content, **tensors)
    assert outcome_of(tmp_path, "pvc://models/big")[1]["digest"] == digest
    fetched = loading.fetch("pvc://models/big", tmp_path / "here", digest, claims=tmp_path / "claims")
    loaded = loading.load(fetched, "big", "1", 1)
    (output,) = loaded.model.run({"x": np.zeros((2, 4), np.float32)})
    assert output.tolist() == [[0, 1, 2, 3]] * 2


def alter(name: str, content: bytes | None) -> Callable[[Path], None]:
    """Change a file of a sealed bundle, or take it away."""

    def change(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return change


def outside(location: str) -> Callable[[Path], None]:
    """A bundle whose model wants its weights from `location`."""

    def change(folder: Path) -> None:
        (folder.parent / "secret").write_bytes(bytes(16))
        tensors = {
            "inputs": [manifest.Tensor("x", "FP32", (-1, 4))],
            "outputs": [manifest.Tensor("y", "FP32", (-1, 4))],
        }
        write_bundle(folder, models.with_external_data(folder, location), **tensors)

    return change


BROKEN_BUNDLES: list[tuple[str, Callable[[Path], None], str, str]] = [
    ("an altered model", alter("model.onnx", b"other"), "DigestMismatch", "model.onnx has "),
    ("a model altered in one bit", lambda folder: flip(folder / "model.onnx", 100), "DigestMismatch", "model.onnx is "),
    ("no model", alter("model.onnx", None), "ModelInvalid", "manifest.json lists model.onnx, which is not there"),
    ("no golden requests, though listed", alter("golden.json", None), "ModelInvalid", "lists golden.json"),
    ("no manifest", alter("manifest.json", None), "ModelNotFound", "a model is a folder with manifest.json"),
    ("a manifest of another kind", alter("manifest.json", b"{}"), "ModelInvalid", "schemaVersion"),
    ("a manifest that is cut", alter("manifest.json", b'{"schemaVersion": 1, "na'), "ModelInvalid", "not JSON"),
    ("weights above the bundle", outside("../secret"), "ModelInvalid", "outside the bundle: '../secret'"),
    ("weights at an absolute path", outside("/etc/passwd"), "ModelInvalid", "outside the bundle: '/etc/passwd'"),
    ("weights that are not there", outside("weights.bin"), "ModelInvalid", "not in the bundle: 'weights.bin'"),
]  # fmt: skip


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "reason", "words"), [case[1:] for case in BROKEN_BUNDLES], ids=[case[0] for case in BROKEN_BUNDLES]
)
def test_a_bundle_that_is_not_whole_is_refused(
    tmp_path: Path, change: Callable[[Path], None], reason: str, words: str
) -> None:
    folder = claim(tmp_path) / "wine"
    write_bundle(folder, models.iris(), golden(ROWS))
    change(folder)
    code, message = outcome_of(tmp_path, "pvc://models/wine")
    assert message["reason"] == reason, message
    assert words in message["message"]
    assert "pvc://models/wine" in message["message"]
    assert str(tmp_path) not in message["message"]
    assert code == (1 if reason == "ModelNotFound" else 3)


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to], ids=["symlink", "hardlink"])
def test_a_link_in_the_pod_s_own_copy_is_refused(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    folder = tmp_path / "bundle"
    folder.mkdir()
    models.with_external_data(folder, "weights.bin")
    link(folder / "weights.bin", tmp_path / "secret")
    with pytest.raises(BundleError, match="not a plain file of the bundle"):
        check_external_data(folder / "model.onnx", folder)


COLUMN: dict[str, tuple[int, Sequence[Any]]] = {"x": (models.FLOAT, [None, 1])}
ANSWER: dict[str, tuple[int, Sequence[Any]]] = {"y": (models.FLOAT, [None, 1])}


@functools.cache
def external_only() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return models.with_external_data(Path(folder), "weights.bin")


def single(operator: str, inputs: str) -> Callable[[], bytes]:
    """A model of one node that gives `y`."""
    return lambda: models.build([models.node(operator, inputs, "y")], COLUMN, ANSWER)


BAD_FILES: list[tuple[str, Callable[[], bytes], str]] = [
    ("nothing", lambda: b"", "is empty"),
    ("a web page", lambda: b"<!doctype html><title>Sign in</title>", "not an ONNX model"),
    ("a zip", lambda: b"PK\x03\x04" + bytes(100), "not an ONNX model"),
    ("a pickle", lambda: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94", "not an ONNX model"),
    ("text", lambda: b"hello\n" * 100, "not an ONNX model"),
    ("half a model", lambda: models.iris()[: len(models.iris()) // 2], "not an ONNX model"),
    ("an ONNX file without sense", lambda: b"\x08\x0a\x3a\x02\x0a\x00", "cannot be loaded"),
    ("an operator of nobody", single("Brew", "x"), "cannot be loaded"),
    ("a circle", single("Add", "x y"), "cannot be loaded"),
    ("maps", models.iris_with_maps, "which cannot be served (scikit-learn models: convert with zipmap off)"),
    ("a sequence", models.sequence, "'y' is a seq(tensor(float)), which cannot be served"),
    ("no inputs", models.constant, "the model has no inputs"),
    ("data elsewhere", external_only, "not in the bundle: 'weights.bin'"),
    ("more memory than there is", models.greedy, "more memory than there is"),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES])
def test_a_file_that_cannot_be_served_is_refused(tmp_path: Path, content: Callable[[], bytes], words: str) -> None:
    (claim(tmp_path) / "wine.onnx").write_bytes(content())
    code, message = outcome_of(tmp_path, "pvc://models/wine.onnx")
    assert (code, message["reason"]) == (3, "ModelInvalid"), message
    assert words in message["message"]
    assert str(tmp_path) not in message["message"]


def test_damage_never_ends_in_anything_but_an_answer(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    path = claim(tmp_path) / "wine.onnx"
    for _ in range(12):
        content = bytearray(models.colours())
        for position in random.integers(0, len(content), 3):
            content[position] = random.integers(0, 256)
        path.write_bytes(content)
        code, message = outcome_of(tmp_path, "pvc://models/wine.onnx")
        assert (code, message.get("reason")) in ((0, None), (3, "ModelInvalid"))


def test_a_model_that_never_ends_costs_its_time_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(models.endless())
    with pytest.raises(BundleError, match="takes more than 2 s") as caught:
        probe(tmp_path / "model.onnx", seconds=2)
    assert caught.value.reason == "Invalid"


def test_a_model_beyond_the_pod_s_memory_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(models.greedy(384 << 20))
    probe(tmp_path / "model.onnx", memory=1 << 30)
    with pytest.raises(BundleError, match="more memory than there is") as caught:
        probe(tmp_path / "model.onnx", memory=64 << 20)
    assert caught.value.reason == "Invalid"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serve() as running:
        yield running


def test_models_come_over_http_too(tmp_path: Path, origin: Origin) -> None:
    folder = tmp_path / "wine"
    digest = write_bundle(folder, models.iris(), golden(ROWS))
    origin.pages |= {f"/wine/{file.name}": answer(file.read_bytes()) for file in folder.iterdir()}
    origin.pages["/wine.onnx"] = answer(models.iris())
    assert outcome_of(tmp_path, origin.url("/wine"), LOOPBACK)[1]["digest"] == digest
    assert outcome_of(tmp_path, origin.url("/wine.onnx"), LOOPBACK)[1]["digest"] == digest_of(models.iris())


@pytest.mark.parametrize(
    ("page", "code", "reason"),
    [
        (answer(b"", "404 Not Found"), 1, "ModelNotFound"),
        (answer(b"", "403 Forbidden"), 1, "ModelAccessDenied"),
        (answer(b"", "503 Busy"), 1, "ModelUnreachable"),
        (redirect("http://169.254.169.254/wine.onnx"), 3, "AddressRefused"),
        (answer(b"<html>"), 3, "ModelInvalid"),
    ],
)
def test_what_a_web_server_can_do_wrong_has_its_reason(
    tmp_path: Path, origin: Origin, page: bytes, code: int, reason: str
) -> None:
    origin.pages["/wine.onnx"] = page
    got, message = outcome_of(tmp_path, origin.url("/wine.onnx"), LOOPBACK)
    assert (got, message["reason"]) == (code, reason), message


def fetched(tmp_path: Path, content: bytes, golden_requests: Any = None, **changes: Any) -> loading.Fetched:
    folder = tmp_path / "bundle"
    digest = write_bundle(folder, content, golden_requests, **changes)
    return loading.Fetched(folder, folder / "model.onnx", digest, manifest.read(folder), 0, {})


def test_golden_requests_that_agree_let_the_model_pass(tmp_path: Path) -> None:
    loaded = loading.load(fetched(tmp_path, models.iris(), golden(ROWS)), "wine", "1", 1)
    assert loaded.apart is None
    assert loaded.metadata("wine", "1", 256)["outputs"][1]["shape"] == [-1, 3]


def test_golden_requests_that_disagree_keep_the_model_out(tmp_path: Path) -> None:
    for change in ({"data": [7]}, {"shape": [1, 1]}, {"name": "other"}):
        document = golden(ROWS)
        document["requests"][1]["outputs"][0] |= change
        with pytest.raises(BundleError, match="golden request 2 of 3") as caught:
            loading.load(fetched(tmp_path, models.iris(), document), "wine", "1", 1)
        assert caught.value.reason == "Invalid"


def test_small_differences_in_golden_answers_are_within_the_tolerance(tmp_path: Path) -> None:
    document = golden(ROWS)
    data = document["requests"][0]["outputs"][1]["data"]
    data[0] += 5e-5
    loading.load(fetched(tmp_path, models.iris(), document), "wine", "1", 1)
    data[0] += 5e-3
    with pytest.raises(BundleError, match="another answer in 'probabilities'"):
        loading.load(fetched(tmp_path, models.iris(), document), "wine", "1", 1)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"requests": [], "tolerance": {}},
        {"requests": [{}], "tolerance": {"relative": 0, "absolute": 0}},
        {"requests": [{"inputs": []}], "tolerance": {"relative": 0, "absolute": 0}},
        {"requests": [request(X=("FP32", [1, 4], [1.0, 2.0, 3.0, 4.0]))], "tolerance": {"relative": 0, "absolute": 0}},
    ],
)
def test_golden_requests_of_another_form_keep_the_model_out(tmp_path: Path, document: Any) -> None:
    with pytest.raises(BundleError) as caught:
        loading.load(fetched(tmp_path, models.iris(), document), "wine", "1", 1)
    assert caught.value.reason == "Invalid"


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [manifest.Tensor("Y", "FP32", (-1, 4))]},
        {"inputs": [manifest.Tensor("X", "FP64", (-1, 4))]},
        {"inputs": [manifest.Tensor("X", "FP32", (-1, 5))]},
        {"inputs": [manifest.Tensor("X", "FP32", (-1, 4)), manifest.Tensor("Y", "FP32", (-1, 4))]},
        {"outputs": [manifest.Tensor("label", "INT64", (-1,))]},
    ],
)
def test_a_manifest_that_describes_another_model_keeps_it_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json") as caught:
        loading.load(fetched(tmp_path, models.iris(), **changes), "wine", "1", 1)
    assert caught.value.reason == "Invalid"


def test_serve_ends_with_the_reason_as_its_last_word(tmp_path: Path) -> None:
    (claim(tmp_path) / "wine.onnx").write_bytes(models.iris())
    asked = "sha256:" + "0" * 64
    cases = [
        ("pvc://models/wine.onnx", asked, 3, "DigestMismatch", digest_of(models.iris())),
        ("pvc://models/none.onnx", asked, 1, "ModelNotFound", "pvc://models/none.onnx"),
        ("http://127.0.0.1:1/wine.onnx", asked, 3, "AddressRefused", "127.0.0.1"),
        ("ftp://bucket/wine", asked, 3, "ModelInvalid", "pvc://CLAIM/PATH"),
        ("pvc://models/wine.onnx", "sha256:short", 3, "ModelInvalid", "a digest is"),
    ]
    for uri, digest, code, reason, words in cases:
        with Server(tmp_path, uri, digest) as server:
            assert server.wait() == code, server.log
            assert server.last_word["reason"] == reason
            assert words in server.last_word["message"]
            assert "Traceback" not in server.log
            assert list(server.scratch.iterdir()) == []
        if reason == "DigestMismatch":
            assert asked in server.last_word["message"]


def test_resolve_is_a_process_with_the_same_words(tmp_path: Path) -> None:
    (claim(tmp_path) / "wine.onnx").write_bytes(models.iris())
    with Process("resolve", tmp_path, {"HOLDFAST_MODEL_URI": "pvc://models/wine.onnx"}) as helper:
        assert helper.wait() == 0, helper.log
        assert helper.last_word["digest"] == "sha256:" + hashlib.sha256(models.iris()).hexdigest()
    with Process("resolve", tmp_path, {}) as helper:
        assert helper.wait() == 2
        assert "HOLDFAST_MODEL_URI is not set" in helper.log


def test_a_server_that_is_still_loading_lives_but_is_not_ready_and_can_be_stopped(tmp_path: Path) -> None:
    (claim(tmp_path) / "model.onnx").write_bytes(models.endless())
    with Server(tmp_path, "pvc://models/model.onnx", digest_of(models.endless())) as server:
        until(lambda: bool(children(server.process.pid)), "the probe")
        (child,) = children(server.process.pid)
        assert server.manage("/livez").status_code == 200
        assert server.manage("/readyz").status_code == 503
        assert server.manage("/metrics").status_code == 200
        assert server.get("/v2").status_code == 200
        assert server.get("/v2/health/live").status_code == 200
        for path in ("/v2/health/ready", "/v2/models/wine", "/v2/models/wine/ready"):
            assert server.get(path).status_code == 503
        refused = server.infer(request(x=("FP32", [1, 1], [1.0])))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert server.outcomes()["rejected"] == 1
        server.terminate()
        assert server.wait() == 0
        assert list(server.scratch.iterdir()) == []
        until(lambda: not os.path.exists(f"/proc/{child}"), "the end of the probe")


def test_a_probe_whose_server_was_gone_before_it_began_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(models.endless())
    stranger = 1 if os.getpid() != 1 else 2
    done = subprocess.run(
        [sys.executable, "-m", "holdfast_serving.probe", tmp_path / "model.onnx", str(1 << 30), "60", str(stranger)],
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(ROOTS)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 1


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def test_a_pod_that_is_not_ready_says_what_it_waits_for(tmp_path: Path) -> None:
    """Here: for a lock of the cache, which the test holds."""
    content = models.iris()
    claim(tmp_path)
    (tmp_path / "claims" / "cache").mkdir()
    held = Cache("cache", tmp_path / "claims")._alone(digest_of(content))
    with held, Server(tmp_path, "pvc://models/later.onnx", digest_of(content), HOLDFAST_CACHE_CLAIM="cache") as server:
        answer = server.manage("/readyz")
        assert (answer.status_code, answer.text) == (503, "starts")


def test_a_helper_says_how_far_it_is_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    (claim(tmp_path) / "endless.onnx").write_bytes(models.endless())
    with Process("resolve", tmp_path, {"HOLDFAST_MODEL_URI": "pvc://models/endless.onnx"}) as helper:
        until(lambda: "listening: management" in helper.log, "its port")
        port = re.search(r"listening: management (\d+)", helper.log)
        assert port, helper.log
        url = f"http://127.0.0.1:{port[1]}/readyz"
        until(lambda: "(100 %)" in httpx.get(url, timeout=60).text, "its word")
        assert httpx.get(url, timeout=60).status_code == 503
        helper.process.terminate()
        assert helper.wait() == 128 + signal.SIGTERM


def test_a_fetch_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TELL_SECONDS", 0.0)
    content = models.iris()
    (claim(tmp_path) / "iris.onnx").write_bytes(content)
    told: list[str] = []
    loading.fetch("pvc://models/iris.onnx", tmp_path / "m", None, claims=tmp_path / "claims", tell=told.append)
    assert told == [f"fetched {progress.amount(len(content), len(content))}"]
    assert told[0].endswith("(100 %)")

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.bundle.loopback import LOOPBACK, Origin, answer, make_certificate, redirect, serve

from holdfast_bundle import manifest
from holdfast_bundle.addresses import Reach
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import claim_path, fetch_file, fetch_model


@pytest.fixture(scope="module")
def running() -> Iterator[Origin]:
    with serve() as origin:
        yield origin


@pytest.fixture
def origin(running: Origin) -> Origin:
    running.pages.clear()
    running.seen.clear()
    return running


def bundle_pages(folder: str, model: bytes = b"model", golden: bytes = b"{}") -> dict[str, bytes]:
    """Manifest and files of a small bundle by request target, not yet as HTTP answers."""
    files = {"model.onnx": model, "extra/golden.json": golden}
    document = {
        "schemaVersion": 1,
        "name": "wine",
        "framework": "scikit-learn",
        "opset": 21,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
        "metrics": {},
        "lineage": {},
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()
        },
    }
    return {f"{folder}/manifest.json": manifest.canonical_json(document)} | {
        f"{folder}/{name}": data for name, data in files.items()
    }


def refusal(url: str, folder: Path, **options: Any) -> BundleError:
    """The error that fetching `url` ends in; nothing may be left in `folder`."""
    with pytest.raises(BundleError) as caught:
        fetch_file(url, folder / "got", **({"web": LOOPBACK} | options))
    assert list(folder.iterdir()) == []
    return caught.value


def test_a_file_arrives_whole_with_progress(origin: Origin, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    origin.pages["/wine.onnx?version=3"] = answer(content)
    steps: list[tuple[int, int | None]] = []
    size = fetch_file(
        origin.url("/wine.onnx?version=3"),
        tmp_path / "a" / "model.onnx",
        progress=lambda *step: steps.append(step),
        web=LOOPBACK,
    )
    assert (tmp_path / "a" / "model.onnx").read_bytes() == content
    assert size == len(content)
    assert steps == sorted(steps)
    assert steps[-1] == (len(content), len(content))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model.onnx"]


def test_a_request_names_the_host_and_carries_no_credentials(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.3:1")
    origin.pages["/f"] = answer(b"x")
    fetch_file(origin.url("/f", "localhost"), tmp_path / "f", web=LOOPBACK_NAMES)
    head = origin.seen[0].decode().lower()
    assert f"host: localhost:{origin.port}" in head
    assert "authorization" not in head
    assert "cookie" not in head


LOOPBACK_NAMES = dataclasses.replace(LOOPBACK, policy=lambda _: Reach.PRIVATE)


def test_an_answer_without_length_or_in_chunks_is_taken(origin: Origin, tmp_path: Path) -> None:
    origin.pages["/close"] = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
    origin.pages["/chunks"] = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nuntil\r\n4\r\n the\r\n0\r\n\r\n"
    )
    fetch_file(origin.url("/close"), tmp_path / "close", web=LOOPBACK)
    fetch_file(origin.url("/chunks"), tmp_path / "chunks", web=LOOPBACK)
    assert (tmp_path / "close").read_bytes() == b"until the end"
    assert (tmp_path / "chunks").read_bytes() == b"until the"


@pytest.mark.parametrize(
    ("page", "reason", "words"),
    [
        (answer(b"", "404 Not Found"), "NotFound", "answered 404"),
        (answer(b"", "410 Gone"), "NotFound", "answered 410"),
        (answer(b"", "401 Unauthorized"), "AccessDenied", "answered 401"),
        (answer(b"", "403 Forbidden"), "AccessDenied", "answered 403"),
        (answer(b"", "429 Too Many Requests"), "Unreachable", "answered 429"),
        (answer(b"", "500 Oops"), "Unreachable", "answered 500"),
        (answer(b"x", "206 Partial Content"), "Unreachable", "answered 206"),
        (answer(b"x", "200 OK", "Content-Encoding: gzip"), "Invalid", "encoded"),
        (answer(b"short", length=10), "Unreachable", "5 of 10 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "Unreachable", "connection failed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab", "Unreachable", "connection failed"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "Unreachable", "connection failed"),
        (b"", "Unreachable", "connection failed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n", "Unreachable", "connection failed"),
        (answer(b"x" * 1001), "Invalid", "more than the 1000 bytes"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 1001, "Invalid", "more than the 1000 bytes"),
        (answer(b"", "302 Found"), "Unreachable", "without Location"),
        (redirect("ftp://127.0.0.1/x"), "AddressRefused", "not an http(s) URI"),
        (redirect("file:///etc/passwd"), "AddressRefused", "not an http(s) URI"),
        (redirect("pvc://models/x"), "AddressRefused", "not an http(s) URI"),
        (redirect("http://me:secret@127.0.0.1/x"), "AddressRefused", "not an http(s) URI"),
        (redirect("http://127.0.0.3/x"), "AddressRefused", "loopback"),
        (redirect("http://169.254.169.254/latest/meta-data"), "AddressRefused", "metadata"),
        (redirect("http://[::ffff:169.254.169.254]/latest"), "AddressRefused", "metadata"),
        (redirect("//2852039166/latest"), "AddressRefused", "metadata"),
        (redirect("/f"), "Unreachable", "redirects more than 5 times"),
    ],
)
def test_a_bad_answer_gets_a_reason_and_leaves_nothing(
    origin: Origin, tmp_path: Path, page: bytes, reason: str, words: str
) -> None:
    origin.pages["/f"] = page
    error = refusal(origin.url("/f"), tmp_path, limit=1000)
    assert (error.reason, words in error.message) == (reason, True), error.message
    assert "secret" not in error.message


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0.0.0.0"]
)
def test_in_production_no_spelling_of_loopback_is_connected_to(origin: Origin, tmp_path: Path, host: str) -> None:
    with pytest.raises(BundleError) as caught:
        fetch_file(origin.url("/f", host), tmp_path / "f")
    assert caught.value.reason == "AddressRefused"
    assert origin.seen == []


def test_one_refused_address_of_a_name_refuses_the_name(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(*_: object, **__: object) -> list[Any]:
        return [(2, 1, 6, "", (address, origin.port)) for address in ("127.0.0.1", "169.254.169.254")]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    assert refusal(origin.url("/f", "store"), tmp_path).reason == "AddressRefused"
    assert origin.seen == []


def test_a_second_dns_answer_has_no_say(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        if host == "store":
            asked.append(host)
            address = "127.0.0.1" if len(asked) == 1 else "127.0.0.3"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    origin.pages["/f"] = answer(b"x")
    assert fetch_file(origin.url("/f", "store"), tmp_path / "f", web=LOOPBACK) == 1
    assert asked == ["store"]
    assert f"Host: store:{origin.port}".encode() in origin.seen[0]


def test_redirects_inside_one_world_are_followed(origin: Origin, tmp_path: Path) -> None:
    origin.pages["/in"] = redirect("/a%20b?x=1#part", "307 Temporary Redirect")
    origin.pages["/a%20b?x=1"] = redirect(origin.url("/public", "127.0.0.2"), "301 Moved Permanently")
    origin.pages["/public"] = redirect(origin.url("/" + "y" * 2000, "127.0.0.2"), "308 Permanent Redirect")
    origin.pages["/" + "y" * 2000] = answer(b"x")
    assert fetch_file(origin.url("/in"), tmp_path / "f", web=LOOPBACK) == 1


def test_a_public_host_cannot_point_at_a_private_one(origin: Origin, tmp_path: Path) -> None:
    origin.pages["/out"] = redirect(origin.url("/secret"))
    origin.pages["/secret"] = answer(b"x")
    error = refusal(origin.url("/out", "127.0.0.2"), tmp_path)
    assert error.reason == "AddressRefused"
    assert "redirects to 127.0.0.1, a private host" in error.message
    assert len(origin.seen) == 1


def test_a_dead_port_and_an_unknown_name_are_unreachable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "cannot connect" in refusal(f"http://127.0.0.1:{port}/f", tmp_path).message
    error = refusal("http://no-such-host.invalid/f", tmp_path)
    assert error.reason == "Unreachable"
    assert "no-such-host.invalid" in error.message


def test_a_silent_server_is_left_after_the_idle_time(origin: Origin, tmp_path: Path) -> None:
    gate = threading.Event()
    origin.pages["/silent"] = gate
    error = refusal(origin.url("/silent"), tmp_path, web=dataclasses.replace(LOOPBACK, idle_seconds=0.2))
    gate.set()
    assert error.reason == "Unreachable"
    assert "no answer in time" in error.message


@pytest.mark.parametrize("head", [b"", b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_trickling_server_is_cut_off_after_the_total_time(tmp_path: Path, head: bytes) -> None:
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(head)
            try:
                while not stop.wait(0.02):
                    connection.sendall(b"x")
            except OSError:
                pass

    thread = threading.Thread(target=trickle)
    thread.start()
    web = dataclasses.replace(LOOPBACK, total_seconds=0.4)
    try:
        error = refusal(f"http://127.0.0.1:{listener.getsockname()[1]}/f", tmp_path, web=web)
    finally:
        stop.set()
        thread.join()
        listener.close()
    assert error.reason == "Unreachable"
    assert "not finished after 0.4 s" in error.message


def trusting(certificate: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=certificate.decode())


def test_tls_is_verified_against_the_name_in_the_uri(tmp_path: Path) -> None:
    private, certificate = make_certificate("127.0.0.1")
    (tmp_path / "pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    folder = tmp_path / "out"
    folder.mkdir()
    trusted = dataclasses.replace(LOOPBACK, tls=trusting(certificate))
    with serve(context) as origin:
        origin.pages["/f"] = answer(b"over TLS")
        origin.pages["/down"] = redirect(origin.url("/f"))
        assert fetch_file(origin.url("/f", scheme="https"), tmp_path / "f", web=trusted) == 8
        assert "not trusted" in refusal(origin.url("/f", scheme="https"), folder).message
        other_name = refusal(origin.url("/f", "127.0.0.2", "https"), folder, web=trusted)
        assert (other_name.reason, "not trusted" in other_name.message) == ("Unreachable", True)
        assert "from https to http" in refusal(origin.url("/down", scheme="https"), folder, web=trusted).message
        assert refusal(origin.url("/f"), folder).reason == "Unreachable"


def test_a_bundle_arrives_with_every_file_that_it_lists(origin: Origin, tmp_path: Path) -> None:
    pages = bundle_pages("/wine")
    origin.pages.update({target: answer(data) for target, data in pages.items()})
    steps: list[tuple[int, int | None]] = []
    path = fetch_model(origin.url("/wine/"), tmp_path / "m", progress=lambda *step: steps.append(step), web=LOOPBACK)
    assert path == tmp_path / "m"
    arrived = {f"/{file.relative_to(tmp_path / 'm')}": file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert arrived == {target.removeprefix("/wine"): data for target, data in pages.items()}
    assert steps == sorted(steps)
    assert steps[-1] == (7, 7)


def test_a_single_file_is_not_read_from_a_registry(tmp_path: Path) -> None:
    assert refusal("oci://host/wine", tmp_path).reason == "Invalid"


def test_a_bare_model_is_told_by_its_name(origin: Origin, tmp_path: Path) -> None:
    origin.pages["/wine.onnx"] = answer(b"model")
    path = fetch_model(origin.url("/wine.onnx"), tmp_path / "m", web=LOOPBACK)
    assert path == tmp_path / "m" / "model.onnx"
    assert [file.name for file in (tmp_path / "m").iterdir()] == ["model.onnx"]


def test_a_uri_that_is_neither_says_what_a_model_is(origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest.json: the server answered 404; a model is a folder") as caught:
        fetch_model(origin.url("/wine"), tmp_path / "m", web=LOOPBACK)
    assert caught.value.reason == "NotFound"


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"/wine/model.onnx": None}, "Invalid", "lists model.onnx, which is not there"),
        ({"/wine/model.onnx": b"mode"}, "DigestMismatch", "model.onnx has 4 bytes, manifest.json says 5"),
        ({"/wine/model.onnx": b"longer"}, "DigestMismatch", "more than the 5 bytes"),
        ({"/wine/manifest.json": b"<html>"}, "Invalid", "not JSON"),
    ],
)
def test_a_broken_bundle_is_refused(
    origin: Origin, tmp_path: Path, change: dict[str, bytes | None], reason: str, words: str
) -> None:
    pages = bundle_pages("/wine") | change
    origin.pages.update({target: answer(data) for target, data in pages.items() if data is not None})
    with pytest.raises(BundleError) as caught:
        fetch_model(origin.url("/wine"), tmp_path / "m", web=LOOPBACK)
    assert (caught.value.reason, words in caught.value.message) == (reason, True), caught.value.message


@pytest.mark.parametrize("name", ["../escape", "/etc/escape", "a/../../escape", "a\\..\\escape", "", "."])
def test_a_manifest_cannot_name_a_place_outside_the_folder(origin: Origin, tmp_path: Path, name: str) -> None:
    document = json.loads(bundle_pages("")["/manifest.json"])
    document["files"][name] = {"sha256": "0" * 64, "size": 1}
    origin.pages["/wine/manifest.json"] = answer(manifest.canonical_json(document))
    with pytest.raises(BundleError) as caught:
        fetch_model(origin.url("/wine"), tmp_path / "m", web=LOOPBACK)
    assert caught.value.reason == "Invalid"
    assert len(origin.seen) == 1


def test_a_manifest_whose_names_clash_is_refused(origin: Origin, tmp_path: Path) -> None:
    document = json.loads(bundle_pages("")["/manifest.json"])
    sha = hashlib.sha256(b"x").hexdigest()
    document["files"] |= {"a": {"sha256": sha, "size": 1}, "a/b": {"sha256": sha, "size": 1}}
    origin.pages |= {target: answer(data) for target, data in bundle_pages("/wine").items()}
    origin.pages |= {"/wine/manifest.json": answer(manifest.canonical_json(document))}
    origin.pages |= {"/wine/a": answer(b"x"), "/wine/a/b": answer(b"x")}
    with pytest.raises(BundleError, match="name cannot be used") as caught:
        fetch_model(origin.url("/wine"), tmp_path / "m", web=LOOPBACK)
    assert caught.value.reason == "Invalid"


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    folder = tmp_path / "claims" / "models"
    folder.mkdir(parents=True)
    return folder


def test_files_and_folders_of_a_claim_are_copied(claim: Path, tmp_path: Path) -> None:
    for target, data in bundle_pages("wine").items():
        (claim / target).parent.mkdir(parents=True, exist_ok=True)
        (claim / target).write_bytes(data)
    (claim / "link").symlink_to("wine")
    for number, uri in enumerate(("pvc://models/wine", "pvc://models/link")):
        path = fetch_model(uri, tmp_path / str(number), claims=claim.parent)
        assert path == tmp_path / str(number)
        assert (path / "extra" / "golden.json").read_bytes() == b"{}"
    bare = fetch_model("pvc://models/wine/model.onnx", tmp_path / "bare", claims=claim.parent)
    assert bare.read_bytes() == b"model"


def test_a_claim_gives_no_way_out_of_itself(claim: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (claim / "absolute").symlink_to(tmp_path / "secret")
    (claim / "relative").symlink_to("../../secret")
    (claim / "folder").symlink_to(tmp_path)
    (claim / "itself").symlink_to("itself")
    os.mkfifo(claim / "fifo")
    (claim / "device").symlink_to("/dev/zero")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("absolute", "relative", "folder/secret", "itself", "fifo", "device", "."):
        error = refusal(f"pvc://models/{name}", out, claims=claim.parent)
        assert error.reason == "Invalid", name


def test_what_is_not_on_a_claim_is_not_found(claim: Path, tmp_path: Path) -> None:
    (claim / "file").write_text("x")
    for uri in ("pvc://models/none", "pvc://models/file/below", "pvc://other/file", "pvc://models/empty-folder"):
        (claim / "empty-folder").mkdir(exist_ok=True)
        with pytest.raises(BundleError) as caught:
            fetch_model(uri, tmp_path / "m", claims=claim.parent)
        assert caught.value.reason == "NotFound", uri
        assert str(tmp_path) not in caught.value.message
    assert claim_path("pvc://models/file", claim.parent) == claim / "file"


def test_what_only_some_uris_need_is_not_imported_for_others(claim: Path) -> None:
    (claim / "wine.onnx").write_bytes(b"model")
    program = (
        "import sys; from pathlib import Path; from holdfast_bundle.fetch import fetch_model; "
        "fetch_model('pvc://models/wine.onnx', Path(sys.argv[1], 'm'), claims=Path(sys.argv[1])); "
        "print({'obstore', 'holdfast_bundle.stores', 'holdfast_bundle.oci'} & set(sys.modules))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[3] / "model-bundle")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(claim.parent)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"

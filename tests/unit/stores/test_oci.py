"""Models as artifacts in a real registry: open, with a password, and with tokens."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.bundle.loopback import LOOPBACK, Origin, make_certificate, serve
from tests.unit.bundle.loopback import answer as http_answer
from tests.unit.bundle.test_fetch import bundle_pages
from tests.unit.stores import servers
from tests.unit.stores.conftest import CANARIES
from tests.unit.stores.servers import Registry, secret

from holdfast_bundle.credentials import Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_model
from holdfast_bundle.verify import verify
from holdfast_bundle.web import Web

PART = 64 << 10


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with servers.registry(tmp_path_factory.mktemp("plain"), "none") as made:
        yield made


@pytest.fixture(scope="session", params=["basic", "token"])
def guarded(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Registry]:
    with servers.registry(tmp_path_factory.mktemp(request.param), request.param) as made:
        yield made


def files(model: bytes = b"model") -> dict[str, bytes]:
    return {target.removeprefix("/"): content for target, content in bundle_pages("", model).items()}


def login(registry: Registry, folder: Path, password: str = servers.PASSWORD, entry: Any = None) -> Credentials:
    """A Secret as `kubectl create secret docker-registry` makes it, and the registry's authority."""
    auth = base64.b64encode(f"{servers.USER}:{password}".encode()).decode()
    config = json.dumps({"auths": {registry.host: entry or {"auth": auth}, "other.example.com": {"auth": "x"}}})
    return secret(folder / "secret", "pull", __dockerconfigjson=config, ca__crt=registry.authority)


def trusting(registry: Registry, folder: Path) -> Credentials:
    return secret(folder / "secret", "pull", ca__crt=registry.authority)


def refusal(uri: str, folder: Path, credentials: Credentials, web: Web = LOOPBACK) -> BundleError:
    with pytest.raises(BundleError) as caught:
        fetch_model(uri, folder / "model", web=web, credentials=credentials)
    assert not any(canary in caught.value.message for canary in CANARIES)
    assert uri in caught.value.message
    return caught.value


def test_a_bundle_comes_by_tag_and_by_digest(plain: Registry, tmp_path: Path) -> None:
    digest = plain.push("team/wine", "3", files(os.urandom(9 * PART + 5)))
    web = dataclasses.replace(LOOPBACK, part_bytes=PART)
    for number, reference in enumerate((":3", f"@{digest}")):
        path = fetch_model(
            f"oci://{plain.host}/team/wine{reference}",
            tmp_path / str(number),
            web=web,
            credentials=trusting(plain, tmp_path),
        )
        verify(path, None)


def test_a_single_model_is_told_by_its_title(plain: Registry, tmp_path: Path) -> None:
    plain.push("bare", "latest", {"README.md": b"text", "wine.onnx": b"model"})
    path = fetch_model(f"oci://{plain.host}/bare", tmp_path / "m", web=LOOPBACK, credentials=trusting(plain, tmp_path))
    assert (path.name, path.read_bytes()) == ("model.onnx", b"model")


@pytest.mark.parametrize("written", ["auth", "username"])
def test_a_registry_that_asks_who_we_are_is_told(guarded: Registry, tmp_path: Path, written: str) -> None:
    guarded.push("team/wine", "3", files())
    entry = {"username": servers.USER, "password": servers.PASSWORD} if written == "username" else {}
    given = len(guarded.tokens)
    path = fetch_model(
        f"oci://{guarded.host}/team/wine:3",
        tmp_path / "m",
        web=LOOPBACK,
        credentials=login(guarded, tmp_path, entry=entry),
    )
    verify(path, None)
    assert guarded.tokens[given:] in ([], ["repository:team/wine:pull"])  # one token for all files


def test_who_is_not_known_is_refused_and_the_secret_is_named(guarded: Registry, tmp_path: Path) -> None:
    guarded.push("team/wine", "3", files())
    uri = f"oci://{guarded.host}/team/wine:3"
    error = refusal(uri, tmp_path, login(guarded, tmp_path, "canary-but-wrong"))
    assert (error.reason, "(keys of Secret pull)" in error.message) == ("AccessDenied", True)
    assert refusal(uri, tmp_path, trusting(guarded, tmp_path)).reason == "AccessDenied"
    broken = secret(tmp_path / "secret", "pull", __dockerconfigjson="[canary]", ca__crt=guarded.authority)
    with pytest.raises(BundleError, match=r"key \.dockerconfigjson of Secret pull cannot be used") as caught:
        fetch_model(uri, tmp_path / "m", web=LOOPBACK, credentials=broken)
    assert caught.value.reason == "SecretInvalid"


def test_what_is_not_there_is_not_found(plain: Registry, tmp_path: Path) -> None:
    for uri in (f"oci://{plain.host}/none:1", f"oci://{plain.host}/none@sha256:{'0' * 64}"):
        assert refusal(uri, tmp_path, trusting(plain, tmp_path)).reason == "NotFound"


def test_an_authority_that_nobody_named_is_not_trusted(plain: Registry, tmp_path: Path) -> None:
    error = refusal(f"oci://{plain.host}/bare", tmp_path, Credentials())
    assert (error.reason, "not trusted" in error.message) == ("Unreachable", True)


@pytest.mark.parametrize(
    ("pushed", "words"),
    [
        ({"a.txt": b"text"}, "is no model"),
        ({"a.onnx": b"1", "b.onnx": b"2"}, "is no model"),
        ({"manifest.json": files()["manifest.json"], "model.onnx": b"model"}, "lists extra/golden.json, which is not"),
    ],
)
def test_an_artifact_that_is_no_model_is_refused_in_words(
    plain: Registry, tmp_path: Path, pushed: dict[str, bytes], words: str
) -> None:
    plain.push("odd", "1", pushed)
    error = refusal(f"oci://{plain.host}/odd:1", tmp_path, trusting(plain, tmp_path))
    assert (error.reason, words in error.message) == ("Invalid", True), error.message


def test_an_artifact_whose_layer_is_not_what_the_bundle_lists_is_refused_before_it_comes(
    plain: Registry, tmp_path: Path
) -> None:
    plain.push("altered", "1", files() | {"model.onnx": b"other"})
    error = refusal(f"oci://{plain.host}/altered:1", tmp_path, trusting(plain, tmp_path))
    assert (error.reason, "model.onnx is sha256:" in error.message) == ("DigestMismatch", True)


def test_an_index_and_a_packed_folder_are_refused_in_words(plain: Registry, tmp_path: Path) -> None:
    digest = plain.push("many", "one", files())
    kind = "application/vnd.oci.image.manifest.v1+json"
    size = len(plain.client.get(f"/v2/many/manifests/{digest}", headers={"Accept": kind}).content)
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": kind, "digest": digest, "size": size}],
    }
    plain.put_manifest("many", "index", index)
    assert "index of several" in refusal(f"oci://{plain.host}/many:index", tmp_path, trusting(plain, tmp_path)).message
    packed = {"org.opencontainers.image.title": "wine", "io.deis.oras.content.unpack": "true"}
    layer = {"mediaType": "application/gzip", "digest": plain.upload("many", b"x"), "size": 1, "annotations": packed}
    plain.push("many", "packed", {}, layers=[layer])
    assert "packed folder" in refusal(f"oci://{plain.host}/many:packed", tmp_path, trusting(plain, tmp_path)).message


MANIFEST = "/v2/wine/manifests/latest"


@contextlib.contextmanager
def rogue(folder: Path, host: str) -> Iterator[tuple[Origin, str, Credentials]]:
    """A registry that answers what it likes; the URI of its artifact, and its authority."""
    both, certificate = make_certificate(host)
    (folder / "pem").write_bytes(both)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem")
    with serve(context) as origin:
        yield origin, f"oci://{host}:{origin.port}/wine", secret(folder / "secret", ca__crt=certificate.decode())


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"layers": [1]}',
        b'{"layers": [{"annotations": {"org.opencontainers.image.title": 1}, "digest": "x", "size": 1}]}',
        b'{"layers": [{"annotations": {"org.opencontainers.image.title": "a.onnx"}, "digest": "md5:1", "size": 1}]}',
        b'{"layers": [{"annotations": {"org.opencontainers.image.title": "a.onnx"}}]}',
        b'{"layers": ' + b"[" * 100_000,
        b"x" * (5 << 20),
    ],
)
def test_a_registry_that_answers_rubbish_is_refused_in_words(tmp_path: Path, answer: bytes) -> None:
    with rogue(tmp_path, "127.0.0.1") as (origin, uri, credentials):
        origin.pages[MANIFEST] = http_answer(answer)
        assert refusal(uri, tmp_path, credentials).reason == "Invalid"


@pytest.mark.parametrize(
    ("challenge", "reason"),
    [
        ("Negotiate", "AccessDenied"),
        ("Bearer", "Unreachable"),
        ('Bearer realm="http://127.0.0.1:1/token"', "AddressRefused"),
        ('Bearer realm="https://169.254.169.254/token"', "AddressRefused"),
        ('Bearer realm="https://user:pw@127.0.0.1/token"', "Unreachable"),
    ],
)
def test_a_registry_cannot_send_us_anywhere_for_a_token(tmp_path: Path, challenge: str, reason: str) -> None:
    with rogue(tmp_path, "127.0.0.1") as (origin, uri, credentials):
        origin.pages[MANIFEST] = http_answer(b"", "401 Unauthorized", f"WWW-Authenticate: {challenge}")
        assert refusal(uri, tmp_path, credentials).reason == reason


def test_a_public_registry_cannot_name_a_private_token_service(tmp_path: Path) -> None:
    with rogue(tmp_path, "127.0.0.2") as (origin, uri, credentials):
        challenge = f'WWW-Authenticate: Bearer realm="https://127.0.0.1:{origin.port}/token"'
        origin.pages[MANIFEST] = http_answer(b"", "401 Unauthorized", challenge)
        assert refusal(uri, tmp_path, credentials).reason == "AddressRefused"
        assert len(origin.seen) == 1


def test_in_production_a_registry_in_the_pod_is_not_asked(plain: Registry, tmp_path: Path) -> None:
    assert refusal(f"oci://{plain.host}/bare", tmp_path, trusting(plain, tmp_path), Web()).reason == "AddressRefused"

"""Models from what stands for Google's and Microsoft's stores, and the identities that their clouds give pods."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.unit.bundle.loopback import LOOPBACK
from tests.unit.stores.conftest import CANARIES, PART, upload
from tests.unit.stores.servers import Azure, Google, secret

from holdfast_bundle import credentials as credentials_module
from holdfast_bundle import stores
from holdfast_bundle.credentials import Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_model
from holdfast_bundle.stores import Bucket
from holdfast_bundle.uris import parse
from holdfast_bundle.verify import verify

IN_PARTS = dataclasses.replace(LOOPBACK, part_bytes=PART)


def refusal(uri: str, folder: Path, credentials: Credentials) -> BundleError:
    with pytest.raises(BundleError) as caught:
        fetch_model(uri, folder / "model", web=LOOPBACK, credentials=credentials)
    assert not any(canary in caught.value.message for canary in CANARIES)
    return caught.value


def test_a_bundle_comes_from_google(google: Google, tmp_path: Path) -> None:
    upload(google.put, "/wine/3", os.urandom(5 * PART + 7))
    credentials = secret(tmp_path / "secret", **{"service-account__json": google.key})
    verify(fetch_model("gs://models/wine/3", tmp_path / "model", web=IN_PARTS, credentials=credentials), None)
    assert refusal("gs://models/none.onnx", tmp_path, credentials).reason == "NotFound"


@pytest.mark.parametrize("key", ["", "[1]", "{}", '{"type": "external_account"}', '{"private_key": "canary"}'])
def test_a_key_of_google_that_is_none_is_refused(tmp_path: Path, key: str) -> None:
    credentials = secret(tmp_path / "secret", **{"service-account__json": key or "canary"})
    error = refusal("gs://models/wine", tmp_path, credentials)
    assert (error.reason, "Secret models-read" in error.message) == ("SecretInvalid", True)


def azure_secret(folder: Path, azure: Azure, **changed: str) -> Credentials:
    keys = {"AZURE_STORAGE_ACCOUNT": azure.account, "AZURE_STORAGE_KEY": azure.key}
    keys |= {"AZURE_STORAGE_ENDPOINT": azure.endpoint}
    return secret(folder / "secret", **{key: value for key, value in (keys | changed).items() if value})


def test_a_bundle_comes_from_azure(azure: Azure, tmp_path: Path) -> None:
    credentials = azure_secret(tmp_path, azure)
    verify(fetch_model("az://models/wine/3", tmp_path / "model", web=IN_PARTS, credentials=credentials), None)
    assert refusal("az://models/none.onnx", tmp_path, credentials).reason == "NotFound"


def test_azure_refuses_another_key(azure: Azure, tmp_path: Path) -> None:
    wrong = base64.b64encode(b"canary-but-wrong").decode()
    error = refusal("az://models/wine/3", tmp_path, azure_secret(tmp_path, azure, AZURE_STORAGE_KEY=wrong))
    assert (error.reason, "(keys of Secret models-read)" in error.message) == ("AccessDenied", True)
    error = refusal("az://models/wine/3", tmp_path, azure_secret(tmp_path, azure, AZURE_STORAGE_ACCOUNT=""))
    assert (error.reason, "AZURE_STORAGE_ACCOUNT" in error.message) == ("SecretNotFound", True)
    error = refusal("az://models/wine/3", tmp_path, azure_secret(tmp_path, azure, AZURE_STORAGE_KEY="no base64"))
    assert error.reason == "SecretInvalid"


# --- Identities of the platform -------------------------------------------------------------------------------------


@contextlib.contextmanager
def token_service(answer: str) -> Iterator[tuple[str, list[str]]]:
    """What gives tokens; its URL, and the requests that it saw."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(f"{self.command} {self.path}\n{self.headers}{body.decode()}")
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_google_gives_a_pod_a_token_if_it_was_told_to_be_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    with token_service('{"access_token": "canary", "expires_in": 3600}') as (url, seen):
        monkeypatch.setattr(stores, "_METADATA", parse(f"{url}/token"))
        somebody, nobody = Credentials(service_account="wine"), Credentials()
        request = Bucket(parse("gs://models/wine"), LOOPBACK, somebody).file("a b.onnx").request()
        assert (str(request.uri), request.authorization) == (
            "https://storage.googleapis.com/models/wine/a%20b.onnx",
            "Bearer canary",
        )
        assert "Metadata-Flavor: Google" in seen[0]
        assert Bucket(parse("gs://models/wine"), LOOPBACK, nobody).file("a").request().authorization is None
        assert len(seen) == 1


def test_a_token_is_used_until_it_is_about_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, asked in ((3600, 1), (0, 3)):
        with token_service(f'{{"access_token": "canary", "expires_in": {seconds}}}') as (url, seen):
            monkeypatch.setattr(stores, "_METADATA", parse(f"{url}/token"))
            place = Bucket(parse("gs://models/wine"), LOOPBACK, Credentials(service_account="wine"))
            for name in "abc":
                place.file(name).request()
            assert len(seen) == asked


def test_azure_gives_a_token_for_that_of_the_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("canary-of-kubernetes")
    monkeypatch.setattr(credentials_module, "_TOKENS", f"{tmp_path}/")
    platform = {
        "AZURE_CLIENT_ID": "client",
        "AZURE_TENANT_ID": "tenant",
        "AZURE_FEDERATED_TOKEN_FILE": f"{tmp_path}/token",
    }
    named = secret(tmp_path / "secret", AZURE_STORAGE_ACCOUNT="wines")
    with token_service('{"access_token": "canary", "expires_in": 3600}') as (url, seen):
        monkeypatch.setattr(stores, "_AUTHORITIES", (url,))
        pod = dataclasses.replace(named, platform={**platform, "AZURE_AUTHORITY_HOST": f"{url}/"})
        request = Bucket(parse("az://models/wine.onnx"), LOOPBACK, pod).file().request()
        assert str(request.uri) == "https://wines.blob.core.windows.net/models/wine.onnx"
        assert (request.authorization, "x-ms-version" in request.headers) == ("Bearer canary", True)
        assert seen[0].startswith("POST /tenant/oauth2/v2.0/token")
        assert "client_assertion=canary-of-kubernetes" in seen[0]
        elsewhere = dataclasses.replace(pod, platform={**platform, "AZURE_AUTHORITY_HOST": "https://evil.example.com"})
        with pytest.raises(BundleError) as caught:
            Bucket(parse("az://models/wine.onnx"), LOOPBACK, elsewhere).file().request()
        assert caught.value.reason == "AddressRefused"
        own = secret(tmp_path / "secret", AZURE_STORAGE_ACCOUNT="wines", AZURE_STORAGE_ENDPOINT=url)
        own = dataclasses.replace(own, platform=pod.platform)
        assert Bucket(parse("az://models/wine.onnx"), LOOPBACK, own).file().request().authorization is None


@pytest.mark.parametrize(
    "platform",
    [
        {"AWS_ROLE_ARN": "arn:aws:iam::1:role/x", "AWS_WEB_IDENTITY_TOKEN_FILE": "/mnt/secrets/storage/password"},
        {"AWS_ROLE_ARN": "a", "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/../../../etc/passwd"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://evil.example.com/v1/credentials"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.169.254/latest/meta-data"},
    ],
)
def test_a_variable_that_does_not_lead_to_the_platform_is_not_followed(platform: dict[str, str]) -> None:
    with pytest.raises(BundleError) as caught:
        Bucket(parse("s3://models/wine"), LOOPBACK, Credentials(platform=platform)).file("a")
    assert caught.value.reason == "AddressRefused"

"""Real stores on loopback: an S3 server, a registry, emulators of Google's and Microsoft's stores."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import httpx
import obstore
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from obstore.store import S3Store
from tests.unit.bundle.loopback import make_certificate

from holdfast_bundle.credentials import Credentials, basic
from holdfast_devcluster import binaries, nodejs, packages, ports

KEY_ID = "canary-key-id"
KEY = "canary/secret+key"
REGION = "eu-test-1"


def free_port() -> int:
    return ports.free()[0]


@contextlib.contextmanager
def running(
    command: list[str],
    port: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = 60,
) -> Iterator[None]:
    """A server that listens on the port, after so many seconds at most."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        end = time.monotonic() + seconds
        while True:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(2)  # azurite waits for clients that keep their connections
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class S3:
    """A server that checks signatures, with a bucket `models`."""

    url: str
    region: str = REGION

    def put(self, key: str, content: bytes) -> None:
        """Write an object into the bucket, as any client does."""
        config = {"endpoint": self.url, "region": REGION, "access_key_id": KEY_ID, "secret_access_key": KEY}
        obstore.put(S3Store("models", config=config, client_options={"allow_http": True}), key, content)


@contextlib.contextmanager
def s3(folder: Path, port: int = 0) -> Iterator[S3]:
    """A server on `folder`, which may have been another one's before."""
    program = binaries.find("versitygw")["versitygw"].path
    data, sidecar = folder / "data", folder / "sidecar"
    for path in (data / "models", sidecar):
        path.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [str(program), "--access", KEY_ID, "--secret", KEY, "--region", REGION, "--port", f"127.0.0.1:{port}"]
    with running([*command, "posix", "--sidecar", str(sidecar), str(data)], port, folder / "log"):
        yield S3(f"http://127.0.0.1:{port}")


def secret(folder: Path, name: str = "models-read", **keys: str) -> Credentials:
    """A Secret as the kubelet mounts it: each key a link to a file in a folder that is swapped as a whole.

    Its keys are written with `__` for what no name can hold here: `ca__crt` is ca.crt.
    """
    version = folder / f"..{time.time_ns()}"
    version.mkdir(parents=True)
    fresh = folder / "..data_tmp"
    fresh.symlink_to(version.name)
    fresh.rename(folder / "..data")
    for old in folder.iterdir():
        if not old.name.startswith(".."):
            old.unlink()
    for key, value in keys.items():
        file = key.replace("__", ".")
        (version / file).write_text(value)
        (folder / file).symlink_to(f"..data/{file}")
    return Credentials(secret=name, folder=folder)


USER, PASSWORD = "reader", "canary-password"
_HTPASSWD = "$2b$04$3YmFZTr6sX/FJKCOSPN.YOddQL9OpTm3e4Vimn0cFHlAm89YXRN5K"
"""The password's bcrypt hash, as `htpasswd -nbB` makes it."""


@dataclass(frozen=True)
class Registry:
    """A registry with TLS. What it asks for depends on its `auth`.

    Attributes:
        host: with the port.
        authority: the certificate to trust, PEM.
        tokens: how many tokens its token service has given.
    """

    host: str
    authority: str
    client: httpx.Client
    tokens: list[str]

    def push(self, repository: str, tag: str, files: Mapping[str, bytes], **changes: Any) -> str:
        """Files as an artifact, one layer each, as `oras push` does it; the digest of its manifest."""
        layers = [
            {
                "mediaType": "application/octet-stream",
                "digest": self.upload(repository, content),
                "size": len(content),
                "annotations": {"org.opencontainers.image.title": name},
            }
            for name, content in files.items()
        ]
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "digest": self.upload(repository, b"{}"),
                "size": 2,
            },
            "layers": layers,
        }
        return self.put_manifest(repository, tag, document | changes)

    def put_manifest(self, repository: str, tag: str, document: Mapping[str, Any]) -> str:
        raw = json.dumps(document).encode()
        answer = self.client.put(
            f"/v2/{repository}/manifests/{tag}", content=raw, headers={"Content-Type": document["mediaType"]}
        )
        answer.raise_for_status()
        return f"sha256:{hashlib.sha256(raw).hexdigest()}"

    def upload(self, repository: str, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        place = self.client.post(f"/v2/{repository}/blobs/uploads/")
        place.raise_for_status()
        url = httpx.URL(place.headers["Location"]).copy_merge_params({"digest": digest})
        self.client.put(url, content=content).raise_for_status()
        return digest


@contextlib.contextmanager
def registry(folder: Path, auth: Literal["none", "basic", "token"]) -> Iterator[Registry]:
    packages.require(["docker-registry"], print)
    program = shutil.which("docker-registry")
    assert program
    folder.mkdir(parents=True, exist_ok=True)
    both, certificate = make_certificate("127.0.0.1")
    (folder / "tls.pem").write_bytes(both)
    (folder / "ca.pem").write_bytes(certificate)
    port, tokens = free_port(), list[str]()
    config: dict[str, Any] = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {
            "addr": f"127.0.0.1:{port}",
            "secret": "of uploads",
            "tls": {"certificate": str(folder / "tls.pem"), "key": str(folder / "tls.pem")},
        },
    }
    context = ssl.create_default_context(cadata=certificate.decode())
    with contextlib.ExitStack() as stack:
        login: Any = None
        if auth == "basic":
            (folder / "htpasswd").write_text(f"{USER}:{_HTPASSWD}\n")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
            login = (USER, PASSWORD)
        if auth == "token":
            realm = stack.enter_context(token_service(folder, tokens))
            bundle = str(folder / "ca.pem")
            config["auth"] = {
                "token": {"realm": realm, "service": "registry", "issuer": "tests", "rootcertbundle": bundle}
            }
            login = _TokenLogin(context)
        (folder / "config.json").write_text(json.dumps(config))  # JSON is YAML
        stack.enter_context(running([program, "serve", str(folder / "config.json")], port, folder / "log"))
        host = f"127.0.0.1:{port}"
        client = stack.enter_context(httpx.Client(base_url=f"https://{host}", verify=context, auth=login))
        yield Registry(host, certificate.decode(), client, tokens)


@contextlib.contextmanager
def token_service(folder: Path, tokens: list[str]) -> Iterator[str]:
    """What a registry sends clients to: it knows one user, and signs what that one may do. Its URL."""
    key = serialization.load_pem_private_key((folder / "tls.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]

    def part(content: Any) -> bytes:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    def token(scope: str) -> str:
        _, name, actions = scope.split(":")
        now = int(time.time())
        claims = {"iss": "tests", "sub": USER, "aud": "registry", "iat": now, "nbf": now - 5, "exp": now + 300}
        claims["jti"] = secrets.token_hex(8)
        granted = {"access": [{"type": "repository", "name": name, "actions": actions.split(",")}]}
        signed = part({"typ": "JWT", "alg": "ES256", "x5c": chain}) + b"." + part(claims | granted)
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return (signed + b"." + part(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == basic(USER, PASSWORD)
            scope = parse_qs(urlsplit(self.path).query)["scope"][0]
            body = json.dumps({"token": token(scope), "expires_in": 300}).encode() if known else b"{}"
            if known:
                tokens.append(scope)
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/token"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _TokenLogin(httpx.Auth):
    """To push: as every client does it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        answer = yield request
        if answer.status_code != 401:
            return
        said = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers["WWW-Authenticate"]))
        asked = {"service": said["service"], "scope": said["scope"]}
        token = httpx.get(said["realm"], params=asked, auth=(USER, PASSWORD), verify=self._context).json()["token"]
        request.headers["Authorization"] = f"Bearer {token}"
        yield request


@dataclass(frozen=True)
class Google:
    """Stands for Google's store, with a bucket `models`. It takes any signature."""

    url: str
    key: str
    """A service account's key that leads here, as JSON."""
    client: httpx.Client

    def put(self, name: str, content: bytes) -> None:
        asked = {"uploadType": "media", "name": name.lstrip("/")}
        self.client.post("/upload/storage/v1/b/models/o", params=asked, content=content).raise_for_status()


@contextlib.contextmanager
def google(folder: Path) -> Iterator[Google]:
    program = binaries.find("fake-gcs-server")["fake-gcs-server"].path
    port = free_port()
    host = f"127.0.0.1:{port}"
    command = [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", host]
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "reader@canary.iam.gserviceaccount.com",
        "private_key_id": "canary",
        "private_key": private.decode(),
        "gcs_base_url": f"http://{host}",
    }
    with (
        running([*command, "-backend", "memory"], port, folder / "log"),
        httpx.Client(base_url=f"http://{host}") as client,
    ):
        client.post("/storage/v1/b", json={"name": "models"}).raise_for_status()
        yield Google(f"http://{host}", json.dumps(account), client)


@dataclass(frozen=True)
class Azure:
    """Stands for Azure's store, and checks signatures. It has a container `models`."""

    endpoint: str
    account: str
    key: str


@contextlib.contextmanager
def azure(folder: Path) -> Iterator[Azure]:
    account, key = "canaryaccount", base64.b64encode(b"canary" * 8).decode()
    port = free_port()
    command = [*nodejs.azurite(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    environment = {**os.environ, "AZURITE_ACCOUNTS": f"{account}:{key}"}
    with running([*command, "--skipApiVersionCheck"], port, folder / "log", environment):
        yield Azure(f"http://127.0.0.1:{port}/{account}", account, key)


def make_container(azure: Azure) -> None:
    """`models`, by a signature of the account: obstore makes none."""
    ends = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    parts = {"ss": "b", "srt": "sco", "sp": "rwc", "se": ends, "sv": "2022-11-02"}
    signed = "\n".join([azure.account, parts["sp"], "b", "sco", "", ends, "", "", parts["sv"], "", ""])
    mac = hmac.new(base64.b64decode(azure.key), signed.encode(), hashlib.sha256).digest()
    query = {**parts, "restype": "container", "sig": base64.b64encode(mac).decode()}
    httpx.put(f"{azure.endpoint}/models", params=query).raise_for_status()

"""TLS on the model's port, with real certificates and clients: what is offered, refused, and changed while it runs."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.unit.serving import grpc_client, models
from tests.unit.serving.authority import CLIENT, Authority, Identity, Secret, trust
from tests.unit.serving.server import REVISION, Process, Server, Wire, digest_of, http, request, serving, until

from holdfast_serving.certificates import Certificates
from holdfast_serving.connection import Port
from holdfast_serving.limits import Limits
from holdfast_serving.routes import Routes

BODY = request(X=("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2]))
POST = http("POST", "/v2/models/wine/infer", json.dumps(BODY).encode())


@dataclass(frozen=True)
class Site:
    """A server with TLS, its Secret and who issued it."""

    server: Server
    secret: Secret
    authority: Authority

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.port}"

    @contextmanager
    def grpc(
        self, identity: Identity | None = None, authority: Authority | None = None
    ) -> Iterator[grpc_client.Client]:
        """A gRPC client that trusts the authority, and shows an identity."""
        credentials = grpc.ssl_channel_credentials(
            (authority or self.authority).certificate,
            identity.key if identity else None,
            identity.certificate if identity else None,
        )
        with grpc.secure_channel(f"127.0.0.1:{self.server.grpc_port}", credentials) as channel:
            yield grpc_client.Client(channel)

    def infer(self, context: ssl.SSLContext) -> httpx.Response:
        with httpx.Client(verify=context, timeout=60) as client:
            return client.post(f"{self.url}{self.server.infer_path}", json=BODY)

    def connect(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        # A connection that ends without TLS's own goodbye is an error for this client.
        return context.wrap_socket(self.server.connect(), server_hostname="127.0.0.1", suppress_ragged_eofs=False)

    def certificate(self) -> bytes:
        """What a new connection is shown."""
        with self.connect(trust(self.authority)) as sock:
            shown = sock.getpeercert(True)
            assert shown is not None
            return ssl.DER_cert_to_PEM_cert(shown).encode()

    def handshakes(self, outcome: str) -> float:
        return self.server.metric("holdfast_tls_handshakes_total", outcome=outcome)

    def reloads(self, outcome: str) -> float:
        return self.server.metric("holdfast_tls_reloads_total", outcome=outcome)


@contextmanager
def secured(folder: Path, *arguments: str, client_auth: str = "None") -> Iterator[Site]:
    authority = Authority()
    secret = Secret(folder / "tls" / "wine-tls")
    secret.put_identity(authority.issue(), authority)
    with serving(
        folder, models.iris(), "--tls", str(secret.folder.parent), *arguments,
        HOLDFAST_TLS_SECRET="wine-tls", HOLDFAST_TLS_CLIENT_AUTH=client_auth,
    ) as server:  # fmt: skip
        yield Site(server, secret, authority)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with secured(tmp_path_factory.mktemp("tls")) as running:
        yield running


@pytest.fixture
def client(site: Site) -> Iterator[Wire]:
    with site.connect(trust(site.authority)) as sock:
        yield Wire(sock)


# --- What is offered ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_model_answers_over_tls(site: Site, version: ssl.TLSVersion) -> None:
    context = trust(site.authority)
    context.minimum_version = context.maximum_version = version
    answer = site.infer(context)
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == [0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_and_weak_ciphers_are_refused(site: Site) -> None:
    for version, ciphers in ((ssl.TLSVersion.TLSv1_1, "ALL"), (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA")):
        context = trust(site.authority)
        context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
        with pytest.raises(ssl.SSLError, match="ALERT"):
            site.connect(context)


def test_the_protocol_is_agreed_on(site: Site) -> None:
    context = trust(site.authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with site.connect(context) as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"


def test_a_client_that_does_not_trust_the_authority_is_counted(site: Site) -> None:
    before = site.handshakes("refused_by_client")
    with pytest.raises(httpx.ConnectError):
        site.infer(trust(Authority("another")))
    until(lambda: site.handshakes("refused_by_client") == before + 1, "the count")


def test_plain_http_is_told_to_use_tls(site: Site) -> None:
    before = site.handshakes("plain_http")
    answer = httpx.post(f"http://127.0.0.1:{site.server.port}/v2/models/wine/infer", json=BODY, timeout=60)
    assert answer.status_code == 400
    assert "https://" in answer.json()["error"]
    assert site.handshakes("plain_http") == before + 1


def test_the_management_port_stays_plain(site: Site) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert site.server.manage(path).status_code == 200


def test_rubbish_ends_the_connection_and_nothing_else(site: Site) -> None:
    """Also a handshake that goes wrong somewhere in the middle, and one that stops there."""
    picked = random.Random(7)
    hello = _hello(trust(site.authority))
    samples = [bytes(picked.randbytes(picked.randrange(1, 400))) for _ in range(60)]
    for _ in range(120):
        broken = bytearray(hello)
        broken[picked.randrange(5, len(hello))] ^= 1 << picked.randrange(8)
        samples.append(bytes(broken))
    left = []
    for sample in samples:
        sock = site.server.connect()
        sock.sendall(sample)
        left.append(sock)
    assert site.infer(trust(site.authority)).status_code == 200
    for sock in left:
        sock.close()
    assert site.server.process.poll() is None
    assert "Traceback" not in site.server.log


def _hello(context: ssl.SSLContext) -> bytes:
    """What a client begins with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_record_that_was_tampered_with_ends_the_connection(site: Site) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust(site.authority).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    before = site.server.outcomes()
    with site.server.connect() as sock:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(1 << 16))
        sock.sendall(outgoing.read())
        client.write(POST)
        record = bytearray(outgoing.read())
        record[-3] ^= 1
        sock.sendall(record)
        incoming.write(b"".join(iter(lambda: sock.recv(1 << 16), b"")))
    with pytest.raises(ssl.SSLError, match="ALERT_BAD_RECORD_MAC"):
        client.read()
    assert site.server.outcomes() == before


def test_a_client_that_stops_in_its_handshake_is_sent_away_in_time(tmp_path: Path) -> None:
    secret = Secret(tmp_path / "wine-tls")
    authority = Authority()
    secret.put_identity(authority.issue())
    hello = _hello(trust(authority))

    async def main() -> None:
        port = Port(Routes({}), Limits(head_seconds=0.3))
        listener = socket.create_server(("127.0.0.1", 0))
        await port.listen(listener, Certificates(secret.folder, client_auth=ssl.CERT_NONE))
        for sent in (b"", hello[:50], hello):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(sent)
            began = time.monotonic()
            await asyncio.wait_for(reader.read(), 60)
            assert time.monotonic() - began > 0.2
            writer.close()
        while port.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        port.stop()

    uvloop.run(main())


# --- The same HTTP as without ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 50, len(POST) - 1])
def test_it_does_not_matter_in_which_records_a_request_comes(client: Wire, size: int) -> None:
    for start in range(0, len(POST), size):
        client.send(POST[start : start + size])
    reply = client.reply()
    assert reply is not None
    assert reply.status == 200


def test_requests_sent_at_once_are_answered_in_order(client: Wire) -> None:
    client.send(POST * 50 + http("GET", "/v2/health/live"))
    for _ in range(50):
        reply = client.reply()
        assert reply is not None
        assert reply.json["outputs"][0]["data"] == [0]
    reply = client.reply()
    assert reply is not None
    assert reply.json == {"live": True}


def test_large_requests_and_answers_pass_whole_to_a_client_that_reads_slowly(client: Wire) -> None:
    rows = 250_000
    body = json.dumps(request(X=("FP32", [rows, 4], [5.1, 3.5, 1.4, 0.2] * rows))).encode()
    assert len(body) > 4 << 20
    client.send(http("POST", "/v2/models/wine/infer", body))
    time.sleep(0.5)
    reply = client.reply()
    assert reply is not None
    assert len(reply.body) > 1 << 20
    assert reply.json["outputs"][0]["data"] == [0] * rows


def test_the_server_says_goodbye_before_it_closes(client: Wire) -> None:
    client.send(http("GET", "/v2/health/live", b"", "Connection: close"))
    reply = client.reply()
    assert reply is not None
    assert client.reply() is None  # not an SSLEOFError


def test_a_refused_request_is_answered_before_the_connection_ends(client: Wire) -> None:
    client.send(http("POST", "/v2/models/wine/infer", b"", "Content-Length: 99999999999"))
    reply = client.reply()
    assert reply is not None
    assert reply.status in {400, 413}
    client.send(bytes(1 << 20))
    assert client.reply() is None


# --- gRPC -----------------------------------------------------------------------------------------------------------

ROW = ("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2])


def test_a_model_answers_grpc_over_tls(site: Site) -> None:
    with site.grpc() as client:
        assert client.infer(X=ROW)["label"].tolist() == [0]
        rows = 200_000
        answer = client.infer(raw=True, X=("FP32", [rows, 4], [5.1, 3.5, 1.4, 0.2] * rows))
        assert answer["label"].tolist() == [0] * rows


def test_grpc_without_tls_and_for_those_who_do_not_trust_us_does_not_work(site: Site) -> None:
    before = site.handshakes("plain_http"), site.handshakes("abandoned")
    with grpc_client.client(site.server) as plain, pytest.raises(grpc.RpcError) as refused:
        plain.call("ServerLive")
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    with site.grpc(authority=Authority("another")) as client, pytest.raises(grpc.RpcError) as refused:
        client.call("ServerLive")
    assert "CERTIFICATE_VERIFY_FAILED" in refused.value.details()
    assert site.handshakes("plain_http") > before[0]
    until(lambda: site.handshakes("abandoned") > before[1], "the count")


def test_grpc_has_another_name_in_alpn(site: Site) -> None:
    context = trust(site.authority)
    context.set_alpn_protocols(["http/1.1", "h2"])
    with (
        socket.create_connection(("127.0.0.1", site.server.grpc_port)) as sock,
        context.wrap_socket(sock, server_hostname="127.0.0.1") as secured,
    ):
        assert secured.selected_alpn_protocol() == "h2"


# --- Certificates that change ---------------------------------------------------------------------------------------


class Load(threading.Thread):
    """Asks without a pause, on one connection or on a new one each time."""

    def __init__(self, site: Site, keep: bool) -> None:
        super().__init__()
        self.site = site
        self.keep = keep
        self.done = threading.Event()
        self.answered = 0
        self.lost: list[str] = []

    def run(self) -> None:
        context = trust(self.site.authority)
        try:
            while not self.done.is_set():
                with self.site.connect(context) as sock:
                    wire = Wire(sock)
                    self.ask(wire)
                    while self.keep and not self.done.is_set():
                        self.ask(wire)
        except Exception as error:
            self.lost.append(repr(error))

    def ask(self, wire: Wire) -> None:
        wire.send(POST)
        reply = wire.reply()
        if reply is None or reply.status != 200:
            self.lost.append(str(reply and reply.status))
        else:
            self.answered += 1


class GrpcLoad(Load):
    """The same over gRPC."""

    def run(self) -> None:
        try:
            while not self.done.is_set():
                with self.site.grpc() as client:
                    self.call(client)
                    while self.keep and not self.done.is_set():
                        self.call(client)
        except Exception as error:
            self.lost.append(repr(error))

    def call(self, client: grpc_client.Client) -> None:
        assert client.infer(X=ROW)["label"].tolist() == [0]
        self.answered += 1


def test_a_new_certificate_is_used_without_a_lost_request(tmp_path: Path) -> None:
    with secured(tmp_path) as site:
        clients = [kind(site, keep) for kind in (Load, GrpcLoad) for keep in (True, True, False, False)]
        for client in clients:
            client.start()
        for days in (20, 21, 22):
            identity = site.authority.issue(days=days)
            loaded = site.reloads("loaded")
            site.secret.put_identity(identity, site.authority)
            until(lambda now=loaded: site.reloads("loaded") == now + 1, "the reload")  # type: ignore[misc]
            assert site.certificate() == identity.certificate
            ends = site.server.metric("holdfast_tls_certificate_expiry_timestamp_seconds")
            assert ends == identity.ends.timestamp()
        until(lambda: all(client.answered > 50 for client in clients), "load")
        for client in clients:
            client.done.set()
        for client in clients:
            client.join()
        assert [client.lost for client in clients] == [[]] * len(clients)
        assert site.reloads("refused") == 0


def rsa_identity(authority: Authority) -> Identity:
    return authority.issue(key=rsa.generate_private_key(65537, 2048))


def test_another_kind_of_key_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    with secured(tmp_path) as site:
        identity = rsa_identity(site.authority)
        site.secret.put_identity(identity)
        until(lambda: site.reloads("loaded") == 1, "the reload")
        # It would still prefer the old one, if the server had both.
        assert site.certificate() == identity.certificate


BROKEN: dict[str, tuple[Callable[[Authority], dict[str, bytes]], str]] = {
    "another key": (
        lambda a: {"tls_crt": a.issue().certificate, "tls_key": a.issue().key},
        "tls.key is not the key of the certificate",
    ),
    "no certificate": (
        lambda a: {"tls_crt": b"rubbish", "tls_key": a.issue().key},
        "tls.crt holds no PEM certificate",
    ),
    "half a certificate": (
        lambda a: {"tls_crt": a.issue().certificate[:300], "tls_key": a.issue().key},
        "tls.crt holds no PEM certificate",
    ),
    "no key": (
        lambda a: {"tls_crt": a.issue().certificate, "tls_key": b""},
        "tls.crt or tls.key is no good",
    ),
    "key missing": (lambda a: {"tls_crt": a.issue().certificate}, "has no key tls.key"),
    "encrypted key": (
        lambda a: {"tls_crt": (i := a.issue(password=b"secret")).certificate, "tls_key": i.key},
        "tls.key is encrypted",
    ),
    "expired": (
        lambda a: {"tls_crt": (i := a.issue(days=-1)).certificate, "tls_key": i.key},
        "has expired",
    ),
}


def test_a_broken_new_certificate_leaves_the_old_one_and_is_said(tmp_path: Path) -> None:
    with secured(tmp_path) as site:
        before = site.certificate()
        for count, (name, (files, words)) in enumerate(BROKEN.items(), 1):
            site.secret.put(**files(site.authority))
            until(lambda now=count: site.reloads("refused") == now, name)  # type: ignore[misc]
            until(lambda now=words: now in site.server.log.splitlines()[-1], name)  # type: ignore[misc]
            assert site.server.metric("holdfast_tls_last_reload_successful") == 0
            assert site.certificate() == before
        mended = site.authority.issue()
        site.secret.put_identity(mended)
        until(lambda: site.server.metric("holdfast_tls_last_reload_successful") == 1, "the mended one")
        assert site.certificate() == mended.certificate
        assert "PRIVATE KEY" not in site.server.log


def test_files_that_change_while_they_are_read_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_serving.certificates._LOOK_SECONDS", 0.001)
    authority = Authority()
    identities = [authority.issue(days=days) for days in range(10, 20)]
    secret = Secret(tmp_path / "wine-tls")
    secret.put_identity(identities[0], authority)

    certificates: Certificates

    def told(name: str) -> float:
        samples = [sample for family in certificates.collect() for sample in family.samples]
        return {sample.labels.get("outcome", sample.name): sample.value for sample in samples}[name]

    def change() -> None:
        end = time.monotonic() + 2
        while time.monotonic() < end or told("loaded") <= 20:
            for identity in identities:
                secret.put_identity(identity, authority)
        expiry = "holdfast_tls_certificate_expiry_timestamp_seconds"
        until(lambda: told(expiry) == identities[-1].ends.timestamp(), "the last one")

    async def main() -> None:
        nonlocal certificates
        certificates = Certificates(secret.folder, client_auth=ssl.CERT_REQUIRED)
        certificates.watch()
        await asyncio.to_thread(change)
        certificates.stop()

    asyncio.run(main())
    assert told("refused") == 0


# --- Clients that must show a certificate ---------------------------------------------------------------------------


def test_only_clients_of_the_authority_are_served(tmp_path: Path) -> None:
    with secured(tmp_path, client_auth="Required") as site:
        mine = site.authority.issue("client", CLIENT)
        assert site.infer(trust(site.authority, mine, tmp_path)).status_code == 200
        others = {
            "no_certificate": None,
            "bad_certificate": Authority("another").issue("client", CLIENT),
        }
        for outcome, identity in others.items():
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError), match=r"alert|CERTIFICATE"):
                site.infer(trust(site.authority, identity, tmp_path))
            until(lambda now=outcome: site.handshakes(now) == 1, outcome)  # type: ignore[misc]
        for identity in (site.authority.issue("client", CLIENT, days=-1), site.authority.issue("server")):
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                site.infer(trust(site.authority, identity, tmp_path))
        assert site.handshakes("bad_certificate") == 3
        with site.grpc(mine) as client:
            assert client.infer(X=ROW)["label"].tolist() == [0]
        with site.grpc() as client, pytest.raises(grpc.RpcError):
            client.infer(X=ROW)
        assert site.handshakes("no_certificate") >= 2
        assert site.server.outcomes()["ok"] == 2


def test_another_authority_for_clients_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    with secured(tmp_path, client_auth="Required") as site:
        other = Authority("another")
        old, new = site.authority.issue("client", CLIENT), other.issue("client", CLIENT)
        site.secret.put_identity(site.authority.issue(), other)
        until(lambda: site.reloads("loaded") == 1, "the reload")
        assert site.infer(trust(site.authority, new, tmp_path)).status_code == 200
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            site.infer(trust(site.authority, old, tmp_path))


# --- The start ------------------------------------------------------------------------------------------------------

UNUSABLE: dict[str, tuple[Callable[[Authority], dict[str, bytes]], str, str, str]] = {
    "no Secret": (lambda a: {}, "None", "SecretNotFound", "Secret wine-tls does not exist"),
    "key missing": (BROKEN["key missing"][0], "None", "SecretNotFound", "Secret wine-tls has no key tls.key"),
    "authority missing": (
        lambda a: {"tls_crt": (i := a.issue()).certificate, "tls_key": i.key},
        "Required",
        "SecretNotFound",
        "Secret wine-tls has no key ca.crt, which clientAuth Required needs",
    ),
    "no authority": (
        lambda a: {"tls_crt": (i := a.issue()).certificate, "tls_key": i.key, "ca_crt": b""},
        "Required",
        "SecretInvalid",
        "Secret wine-tls: ca.crt is no good",
    ),
    "another key": (BROKEN["another key"][0], "None", "SecretInvalid", "Secret wine-tls: tls.key is not the key"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_server_without_a_usable_certificate_does_not_start_and_says_why(tmp_path: Path, name: str) -> None:
    files, client_auth, reason, words = UNUSABLE[name]
    secret = Secret(tmp_path / "tls" / "wine-tls")
    secret.put(**files(Authority()))
    environment = {
        "HOLDFAST_MODEL_NAME": "wine",
        "HOLDFAST_MODEL_URI": "pvc://models/model.onnx",
        "HOLDFAST_MODEL_DIGEST": digest_of(b""),
        "HOLDFAST_REVISION": REVISION,
        "HOLDFAST_TLS_SECRET": "wine-tls",
        "HOLDFAST_TLS_CLIENT_AUTH": client_auth,
    }
    with Process("serve", tmp_path, environment, "--tls", str(tmp_path / "tls")) as process:
        assert process.wait() == 1
        assert process.last_word["reason"] == reason
        assert process.last_word["message"].startswith(words)


def test_an_expired_certificate_is_better_than_none_and_is_said(tmp_path: Path) -> None:
    authority = Authority()
    secret = Secret(tmp_path / "tls" / "wine-tls")
    secret.put_identity(authority.issue(days=-1))
    with serving(tmp_path, models.iris(), "--tls", str(secret.folder.parent), HOLDFAST_TLS_SECRET="wine-tls") as server:
        assert "the certificate has expired" in server.log
        site = Site(server, secret, authority)
        with pytest.raises(httpx.ConnectError, match="expired"):
            site.infer(trust(authority))


# --- The end --------------------------------------------------------------------------------------------------------


def test_a_drain_loses_no_handshake_and_no_answer(tmp_path: Path) -> None:
    with secured(tmp_path, "--drain-seconds", "3") as site:
        context = trust(site.authority)
        with site.connect(context) as kept, site.server.connect() as half:
            wire = Wire(kept)
            wire.send(POST)
            assert wire.reply() is not None
            site.server.terminate()
            until(lambda: "draining" in site.server.log, "the drain")
            time.sleep(0.3)
            # A connection that was made before, and whose handshake begins only now.
            half.settimeout(60)
            with context.wrap_socket(half, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as sock:
                for connection in (wire, Wire(sock)):
                    connection.send(POST)
                    reply = connection.reply()
                    assert reply is not None
                    assert (reply.status, reply.fields["connection"]) == (200, "close")
                    assert connection.reply() is None
        assert site.server.wait() == 0, site.server.log


def test_a_client_that_goes_away_in_the_middle_leaves_nothing_behind(site: Site) -> None:
    context = trust(site.authority)
    for _ in range(50):
        sock = site.connect(context)
        sock.sendall(POST[:-5])
        socket.socket.close(sock)
    assert site.infer(context).status_code == 200
    until(lambda: site.server.metric("holdfast_inference_in_flight") == 0, "no request is left")

"""Between pods with TLS requests go over TLS, to pods that show a certificate of the right origin and name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.unit.serving import models
from tests.unit.serving.authority import CLIENT, SERVER, Authority, Identity, Secret, trust
from tests.unit.serving.leases import TARGET, Operator
from tests.unit.serving.server import REVISION, Server, request, serving
from tests.unit.serving.test_router import KEYS, address, sums

BODY = request(X=("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2]))


@contextmanager
def secured(
    folder: Path,
    authority: Authority,
    identity: Identity | None = None,
    *,
    client_auth: str = "None",
    with_authority: bool = True,
    content: bytes | None = None,
    **more: str,
) -> Iterator[Server]:
    """A server with a certificate of this authority; its Secret is `folder/tls/wine-tls`."""
    secret = Secret(folder / "tls" / "wine-tls")
    secret.put_identity(identity or authority.issue(), authority if with_authority else None)
    with serving(
        folder, content or models.iris(), "--tls", str(secret.folder.parent), HOLDFAST_TLS_SECRET="wine-tls",
        HOLDFAST_TLS_CLIENT_AUTH=client_auth, **more,
    ) as server:  # fmt: skip
        yield server


def answering(server: Server, authority: Authority, folder: Path) -> str:
    """The revision that answers a client with a certificate of the authority."""
    with httpx.Client(verify=trust(authority, authority.issue("somebody", CLIENT), folder), timeout=60) as client:
        answer = client.post(f"https://127.0.0.1:{server.port}{server.infer_path}", json=BODY)
    assert answer.status_code == 200
    revision: str = answer.json()["model_version"]
    return revision


def test_a_request_goes_on_over_tls(tmp_path: Path) -> None:
    authority = Authority()
    with (
        secured(tmp_path / "ours", authority, **KEYS) as server,
        secured(tmp_path / "theirs", authority, HOLDFAST_REVISION=TARGET) as target,
    ):
        operator = Operator(server, address(target))
        operator.target["tlsName"] = "wine"
        operator.grant("all")
        for _ in range(3):
            assert answering(server, authority, tmp_path) == TARGET
        assert operator.outcomes() == {"ok": 3}
        assert target.metric("holdfast_tls_handshakes_total", outcome="ok") == 1  # one connection for all
        operator.target["tlsName"] = None  # in clear
        operator.grant("all")
        assert answering(server, authority, tmp_path) == REVISION
        assert operator.outcomes() == {"ok": 3, "refused": 1}


@pytest.mark.parametrize(
    ("of_same_authority", "name", "tls_name"), [(False, "wine", "wine"), (True, "beer", "wine"), (True, "wine", "beer")]
)
def test_a_target_that_cannot_show_who_it_is_gets_no_request(
    tmp_path: Path, of_same_authority: bool, name: str, tls_name: str
) -> None:
    authority = Authority()
    theirs = authority if of_same_authority else Authority("another")
    with (
        secured(tmp_path / "ours", authority, **KEYS) as server,
        secured(tmp_path / "theirs", theirs, theirs.issue(name), HOLDFAST_REVISION=TARGET) as target,
    ):
        operator = Operator(server, address(target))
        operator.target["tlsName"] = tls_name
        operator.grant("all")
        assert answering(server, authority, tmp_path) == REVISION
        assert operator.outcomes() == {"connect": 1}
        assert target.metric("holdfast_inference_requests_total", outcome="ok") == 0


def test_without_an_authority_the_same_certificate_is_needed(tmp_path: Path) -> None:
    authority = Authority()
    same = authority.issue()
    with (
        secured(tmp_path / "ours", authority, same, with_authority=False, **KEYS) as server,
        secured(tmp_path / "twin", authority, same, with_authority=False, HOLDFAST_REVISION=TARGET) as twin,
        secured(tmp_path / "other", authority, with_authority=False, HOLDFAST_REVISION=TARGET) as other,
    ):
        for target, revision in ((twin, TARGET), (other, REVISION)):
            operator = Operator(server, address(target))
            operator.target["tlsName"] = "wine"
            operator.grant("all")
            assert answering(server, authority, tmp_path) == revision
        assert operator.outcomes() == {"connect": 1}


@pytest.mark.parametrize(("usage", "answers"), [((SERVER, CLIENT), TARGET), (SERVER, REVISION)])
def test_where_clients_need_certificates_a_pod_shows_its_own(tmp_path: Path, usage: Any, answers: str) -> None:
    authority = Authority()
    identity, required = authority.issue("wine", usage), {"client_auth": "Required"}
    with (
        secured(tmp_path / "ours", authority, identity, **required, **KEYS) as server,
        secured(tmp_path / "theirs", authority, identity, **required, HOLDFAST_REVISION=TARGET) as target,
    ):
        operator = Operator(server, address(target))
        operator.target["tlsName"] = "wine"
        operator.grant("all")
        assert answering(server, authority, tmp_path) == answers


def test_a_large_request_arrives_whole_over_tls(tmp_path: Path) -> None:
    authority = Authority()
    rows = 500
    body = request(x=("FP32", [rows, 1024], [row % 7 for row in range(rows) for _ in range(1024)]))
    with (
        secured(tmp_path / "ours", authority, content=sums(), **KEYS) as server,
        secured(tmp_path / "theirs", authority, content=sums(), HOLDFAST_REVISION=TARGET) as target,
    ):
        operator = Operator(server, address(target))
        operator.target["tlsName"] = "wine"
        operator.grant("all")
        with httpx.Client(verify=trust(authority), timeout=60) as client:
            said = client.post(f"https://127.0.0.1:{server.port}{server.infer_path}", json=body).json()
        assert said["model_version"] == TARGET
        assert said["outputs"][0]["data"] == [row % 7 * 1024 for row in range(rows)]

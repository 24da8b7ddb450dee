"""A lease is taken once, by the process it was made out to, soon after it was written; anything else is refused."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.serving import models
from tests.unit.serving.leases import KEY, OTHER_KEY, TARGET, Operator, envelope, public
from tests.unit.serving.server import REVISION, Process, Server, claim, digest_of, serving

from holdfast_serving.lease import GARBLED, UNSIGNED, Reader, Refused

KEYS = {"HOLDFAST_ROUTER_PUBLIC_KEYS": public(KEY)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("leases"), models.iris(), **KEYS) as server:
        yield server


@pytest.fixture(scope="module")
def operator(server: Server) -> Operator:
    return Operator(server, "127.0.0.1:1")


def set_to(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(members)


def in_target(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["target"].update(members)


REFUSALS: dict[str, tuple[Callable[[dict[str, Any]], object], int, str, str]] = {
    "another model": (set_to(model="iris"), 403, "foreign", "another model"),
    "another revision": (set_to(revision=TARGET), 403, "foreign", "another revision"),
    "another process": (set_to(instance="pod-0123456789abcdef"), 403, "foreign", "another instance"),
    "long ago": (lambda d: d.update(issuedAt=time.time() - 40), 403, "expired", "40 s ago"),
    "in the future": (lambda d: d.update(issuedAt=time.time() + 40), 403, "expired", "40 s ahead"),
    "an older one": (set_to(sequence=1), 409, "older", "its sequence number is 1"),
    "a life too long": (set_to(seconds=16), 400, "garbled", "seconds must be a number from 0 to 15"),
    "a life without end": (set_to(seconds=None), 400, "garbled", "seconds"),
    "an unknown mode": (set_to(mode="mirror"), 400, "garbled", "mode must be one of share, all, shadow"),
    "no weight": (lambda d: d.pop("weight"), 400, "garbled", "weight"),
    "a weight too much": (set_to(weight=1.01), 400, "garbled", "weight must be a number from 0 to 1"),
    "a weight below none": (set_to(weight=-0.01), 400, "garbled", "weight"),
    "a weight of nonsense": (set_to(weight=True), 400, "garbled", "weight"),
    "an unknown member": (set_to(onlyOnSundays=True), 400, "garbled", "exactly these members"),
    "a member of another mode": (set_to(closeConnections=True), 400, "garbled", "exactly these members"),
    "a sequence of nonsense": (set_to(sequence="9"), 400, "garbled", "sequence"),
    "a fraction of a sequence": (set_to(sequence=1e18), 400, "garbled", "sequence"),
    "no rate": (lambda d: d.pop("syntheticPerSecond"), 400, "garbled", "syntheticPerSecond"),
    "a rate too much": (set_to(syntheticPerSecond=101), 400, "garbled", "syntheticPerSecond must be a number"),
    "a rate of nonsense": (set_to(syntheticPerSecond=None), 400, "garbled", "syntheticPerSecond"),
    "a rate where nothing is shared": (set_to(mode="golden"), 400, "garbled", "exactly these members"),
    "no hedge": (set_to(hedgeMilliseconds=0), 400, "garbled", "hedgeMilliseconds"),
    "itself": (in_target(revision=REVISION), 400, "garbled", "its target is this pod's own revision"),
    "a target with a path": (in_target(revision="a/../b"), 400, "garbled", "target.revision"),
    "a target with a line": (in_target(revision="a\r\nx: y"), 400, "garbled", "target.revision"),
    "an address without port": (in_target(address="candidate"), 400, "garbled", "target.address"),
    "an address with a line": (in_target(address="a\r\nx: y:80"), 400, "garbled", "target.address"),
    "an address with a user": (in_target(address="me@candidate:80"), 400, "garbled", "target.address"),
    "an address with a port too far": (in_target(address="candidate:65536"), 400, "garbled", "target.address"),
    "TLS, and no certificates": (in_target(tlsName="wine"), 400, "garbled", "no certificates to check it by"),
    "a name of nonsense": (in_target(tlsName="*"), 400, "garbled", "target.tlsName"),
    "a target of nonsense": (set_to(target=[]), 400, "garbled", "target has exactly these members"),
}  # fmt: skip


def refused(operator: Operator, answer: httpx.Response, before: dict[str, int], status: int, outcome: str) -> str:
    """The words, once everything else about a refusal is as it should be."""
    assert answer.status_code == status, answer.text
    found = operator.read()
    assert found["leases"] == before | {outcome: before[outcome] + 1}
    assert operator.server.metric("holdfast_router_leases_total", outcome=outcome) == before[outcome] + 1
    words: str = answer.json()["error"]
    return words


@pytest.mark.parametrize("name", REFUSALS)
def test_a_lease_that_is_not_in_order_is_refused_in_words(operator: Operator, name: str) -> None:
    change, status, outcome, words = REFUSALS[name]
    before = operator.grant(weight=0.25, seconds=15)
    document = json.loads(json.dumps(operator.document()))
    change(document)
    answer = operator.put(envelope(document, KEY))
    assert words in refused(operator, answer, before["leases"], status, outcome)
    assert operator.read()["lease"]["weight"] == 0.25  # the one before goes on
    assert operator.read()["lease"]["sequence"] == before["lease"]["sequence"]


@pytest.mark.parametrize("mode", ["share", "all", "shadow", "golden"])
def test_each_mode_is_told(operator: Operator, mode: str) -> None:
    assert operator.grant(mode)["lease"]["mode"] == mode


def test_a_lease_is_good_for_one_use(operator: Operator) -> None:
    body = envelope(operator.document(), KEY)
    assert operator.put(body).status_code == 200
    before = operator.read()["leases"]
    assert "has been here" in refused(operator, operator.put(body), before, 409, "replayed")


def test_a_lease_that_was_held_back_is_refused_when_a_later_one_was_taken(operator: Operator) -> None:
    held_back = envelope(operator.document(), KEY)
    before = operator.grant()["leases"]
    refused(operator, operator.put(held_back), before, 409, "older")


def broken(document: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> bytes:
    made = json.loads(envelope(document, KEY))
    change(made)
    return json.dumps(made).encode()


def flipped(text: str) -> str:
    content = bytearray(base64.b64decode(text))
    content[len(content) // 2] ^= 1
    return base64.b64encode(content).decode()


ENVELOPES: dict[str, tuple[Callable[[dict[str, Any]], bytes], int, str]] = {
    "no signature": (lambda d: envelope(d), 403, "unsigned"),
    "a stranger's signature": (lambda d: envelope(d, OTHER_KEY), 403, "unsigned"),
    "a bit of the payload": (lambda d: broken(d, lambda e: e.update(payload=flipped(e["payload"]))), 403, "unsigned"),
    "a bit of the signature": (
        lambda d: broken(d, lambda e: e["signatures"][0].update(sig=flipped(e["signatures"][0]["sig"]))),
        403, "unsigned",
    ),
    "half a signature": (
        lambda d: broken(d, lambda e: e["signatures"][0].update(sig=e["signatures"][0]["sig"][:44])), 403, "unsigned",
    ),
    "another type": (lambda d: broken(d, lambda e: e.update(payloadType="application/json")), 400, "garbled"),
    "no base64": (lambda d: broken(d, lambda e: e.update(payload="{}")), 400, "garbled"),
    "a payload of nothing": (lambda d: broken(d, lambda e: e.update(payload=None)), 400, "garbled"),
    "three signatures": (lambda d: broken(d, lambda e: e.update(signatures=e["signatures"] * 3)), 400, "garbled"),
    "signatures of nonsense": (lambda d: broken(d, lambda e: e.update(signatures=["x"])), 400, "garbled"),
    "no JSON": (lambda d: b"{", 400, "garbled"),
    "a list": (lambda d: b"[]", 400, "garbled"),
    "a signed list": (lambda d: envelope([], KEY), 400, "garbled"),
    "signed rubbish": (lambda d: envelope(b"\xff\x00", KEY), 400, "garbled"),
    "no envelope": (lambda d: json.dumps(d).encode(), 400, "garbled"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_that_is_not_in_order_is_refused(operator: Operator, name: str) -> None:
    make, status, outcome = ENVELOPES[name]
    before = operator.grant()
    refused(operator, operator.put(make(operator.document())), before["leases"], status, outcome)


def test_a_lease_of_a_megabyte_is_not_even_read(operator: Operator) -> None:
    before = operator.grant()["leases"]
    body = broken(operator.document(), lambda e: e.update(signatures=e["signatures"] * 1000))
    assert operator.put(body).status_code == 413
    assert operator.read()["leases"] == before


def test_while_keys_are_changed_both_are_good(tmp_path: Path) -> None:
    keys = f"{public(OTHER_KEY)} {public(KEY)}"
    with serving(tmp_path, models.iris(), HOLDFAST_ROUTER_PUBLIC_KEYS=keys) as server:
        operator = Operator(server, "127.0.0.1:1")
        assert operator.put(envelope(operator.document(), OTHER_KEY)).status_code == 200
        assert operator.put(envelope(operator.document(), KEY)).status_code == 200
        both = json.loads(envelope(operator.document(), OTHER_KEY, KEY))
        both["signatures"][0]["sig"] = flipped(both["signatures"][0]["sig"])
        assert operator.put(json.dumps(both).encode()).status_code == 200


def test_without_a_key_no_lease_is_taken_and_a_pod_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris()) as server:
        found = server.manage("/router").json()
        assert found["takesLeases"] is False
        url = f"{server.management_url}/router/lease"
        answer = httpx.put(url, content=envelope({"sequence": 1}, KEY), timeout=60)
        assert answer.status_code == 403
        assert "HOLDFAST_ROUTER_PUBLIC_KEYS" in answer.json()["error"]
        assert server.manage("/router").json()["leases"]["no_key"] == 1
        assert httpx.get(url, timeout=60).status_code == 405


def test_before_the_model_is_there_no_lease_is_taken(tmp_path: Path) -> None:
    content = models.iris()
    (claim(tmp_path) / "model.onnx").write_bytes(content)
    with Server(tmp_path, "pvc://models/model.onnx", digest_of(content), **KEYS) as server:
        answer = httpx.put(f"{server.management_url}/router/lease", content=b"{}", timeout=60)
        assert answer.status_code == 503
        assert server.manage("/router").json()["leases"]["not_ready"] == 1


@pytest.mark.parametrize("keys", ["x", "AAAA", f"{public(KEY)} {public(KEY)[:-4]}"])
def test_a_key_that_is_none_stops_the_server_with_words(tmp_path: Path, keys: str) -> None:
    environment = {
        "HOLDFAST_MODEL_NAME": "wine", "HOLDFAST_MODEL_URI": "pvc://models/model.onnx", "HOLDFAST_MODEL_DIGEST": "x",
        "HOLDFAST_REVISION": REVISION, "HOLDFAST_ROUTER_PUBLIC_KEYS": keys,
    }  # fmt: skip
    with Process("serve", tmp_path, environment) as process:
        assert process.wait() == 2
    assert "in HOLDFAST_ROUTER_PUBLIC_KEYS is not 32 bytes in base64" in process.log
    assert keys not in process.log


def test_a_server_that_started_again_knows_no_old_lease(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), **KEYS) as server:
        operator = Operator(server, "127.0.0.1:1")
        recorded = envelope(operator.document(seconds=15), KEY)
    with serving(tmp_path, models.iris(), **KEYS) as server:
        answer = httpx.put(f"{server.management_url}/router/lease", content=recorded, timeout=60)
        assert (answer.status_code, "another instance" in answer.text) == (403, True)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_refused_and_nothing_worse(body: bytes) -> None:
    reader = Reader([KEY.public_key().public_bytes_raw()], "wine", REVISION, "me", secured=False)
    with pytest.raises(Refused) as refusal:
        reader.read(body, time.time())
    assert refusal.value.outcome in (GARBLED, UNSIGNED)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_signed_is_taken_or_refused(data: st.DataObject) -> None:
    reader = Reader([KEY.public_key().public_bytes_raw()], "wine", REVISION, "me", secured=False)
    document: dict[str, Any] = {
        "sequence": 1, "issuedAt": 1000, "seconds": 15, "model": "wine", "revision": REVISION, "instance": "me",
        "mode": "shadow", "weight": 1, "tolerance": {"relative": 0, "absolute": 0}, "hedgeMilliseconds": 1,
        "target": {"revision": TARGET, "address": "[::1]:80", "tlsName": None, "readySeconds": 0},
    }  # fmt: skip
    assert reader.read(envelope(document, KEY), 1000).target.host == "::1"
    document["sequence"] = 2
    document[data.draw(st.sampled_from(sorted(document)))] = data.draw(_JSON)
    with suppress(Refused):
        reader.read(envelope(document, KEY), 1000)

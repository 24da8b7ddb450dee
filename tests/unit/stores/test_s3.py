"""Models from an S3 server that checks signatures."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import pytest
from tests.unit.bundle.loopback import LOOPBACK
from tests.unit.bundle.ranges import shop
from tests.unit.stores import servers
from tests.unit.stores.conftest import CANARIES, Put, upload
from tests.unit.stores.servers import S3, secret

from holdfast_bundle import manifest
from holdfast_bundle.credentials import Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_model
from holdfast_bundle.verify import verify
from holdfast_bundle.web import Web

PART = 64 << 10


def reader(folder: Path, s3: S3, **changed: str) -> Credentials:
    """A Secret with the server's own keys, or what `changed` makes of them."""
    keys = {"AWS_ENDPOINT_URL": s3.url, "AWS_REGION": s3.region}
    keys |= {"AWS_ACCESS_KEY_ID": servers.KEY_ID, "AWS_SECRET_ACCESS_KEY": servers.KEY}
    return secret(folder / "secret", **{key: value for key, value in (keys | changed).items() if value})


def refusal(uri: str, folder: Path, credentials: Credentials, web: Web = LOOPBACK) -> BundleError:
    with pytest.raises(BundleError) as caught:
        fetch_model(uri, folder / "model", web=web, credentials=credentials)
    assert not any(canary in caught.value.message for canary in CANARIES)
    return caught.value


def test_a_bundle_comes_whole(s3: S3, put: Put, tmp_path: Path) -> None:
    upload(put, "/wine/3", os.urandom(10 * PART + 7))
    web = dataclasses.replace(LOOPBACK, part_bytes=PART)
    path = fetch_model("s3://models/wine/3", tmp_path / "model", web=web, credentials=reader(tmp_path, s3))
    assert verify(path, None) == manifest.digest_file(path / "manifest.json")


def test_a_key_is_taken_as_it_is_written(s3: S3, put: Put, tmp_path: Path) -> None:
    put("a+b/50%25_für&alle=1/wine.onnx", b"odd")
    path = fetch_model(
        "s3://models/a+b/50%25_für&alle=1/wine.onnx", tmp_path / "m", web=LOOPBACK, credentials=reader(tmp_path, s3)
    )
    assert path.read_bytes() == b"odd"


def test_a_wrong_key_is_refused_and_a_mended_one_is_read_at_the_next_fetch(s3: S3, put: Put, tmp_path: Path) -> None:
    put("mended.onnx", b"model")
    wrong = reader(tmp_path, s3, AWS_SECRET_ACCESS_KEY="canary-but-wrong")
    error = refusal("s3://models/mended.onnx", tmp_path, wrong)
    assert error.reason == "AccessDenied"
    assert error.message == "s3://models/mended.onnx: the server answered 403 (keys of Secret models-read)"
    reader(tmp_path, s3)  # the kubelet swaps the files; the pod's idea of them is the same
    assert fetch_model("s3://models/mended.onnx", tmp_path / "m", web=LOOPBACK, credentials=wrong).is_file()


def test_what_is_not_there_is_not_found(s3: S3, put: Put, tmp_path: Path) -> None:
    credentials = reader(tmp_path, s3)
    error = refusal("s3://models/none", tmp_path, credentials)
    assert (error.reason, "s3://models/none/manifest.json" in error.message) == ("NotFound", True)
    assert refusal("s3://no-such-bucket/none.onnx", tmp_path, credentials).reason == "NotFound"


def test_without_a_secret_a_store_is_asked_by_nobody(s3: S3, put: Put, tmp_path: Path) -> None:
    put("private.onnx", b"model")
    keyless = reader(tmp_path, s3, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert refusal("s3://models/private.onnx", tmp_path, keyless).reason == "AccessDenied"


def test_a_secret_that_lacks_something_is_named(s3: S3, tmp_path: Path) -> None:
    missing = Credentials(secret="models-read", folder=tmp_path / "nowhere")
    error = refusal("s3://models/wine", tmp_path, missing)
    assert (error.reason, "Secret models-read does not exist" in error.message) == ("SecretNotFound", True)
    half = reader(tmp_path, s3, AWS_SECRET_ACCESS_KEY="")
    error = refusal("s3://models/wine", tmp_path, half)
    assert (error.reason, "has no key AWS_SECRET_ACCESS_KEY" in error.message) == ("SecretNotFound", True)
    for key, value in {
        "AWS_REGION": "eu.evil/#",
        "AWS_ENDPOINT_URL": "file:///etc",
        "ca__crt": "no certificate",
    }.items():
        error = refusal("s3://models/wine", tmp_path, reader(tmp_path, s3, **{key: value}))
        assert (error.reason, key.replace("__", ".") in error.message) == ("SecretInvalid", True)
        assert value not in error.message


def test_in_production_a_secret_cannot_lead_into_the_pod(s3: S3, tmp_path: Path) -> None:
    error = refusal("s3://models/wine", tmp_path, reader(tmp_path, s3), Web())
    assert error.reason == "AddressRefused"


def test_nothing_secret_travels_along_a_redirect_and_no_refused_address_is_followed(s3: S3, tmp_path: Path) -> None:
    with shop(b"elsewhere") as origin:
        credentials = reader(tmp_path, s3, AWS_ENDPOINT_URL=f"http://127.0.0.1:{origin.port}")
        origin.location = origin.url("/elsewhere")
        fetch_model("s3://models/wine.onnx", tmp_path / "m", web=LOOPBACK, credentials=credentials)
        assert ["X-Amz-Signature" in head for head in origin.heads] == [True, False]
        assert servers.KEY not in "".join(origin.heads)
        origin.location = "http://169.254.169.254/latest/meta-data"
        assert refusal("s3://models/wine.onnx", tmp_path, credentials).reason == "AddressRefused"


def test_an_object_that_is_overwritten_meanwhile_is_not_mixed(s3: S3, put: Put, tmp_path: Path) -> None:
    put("moving.onnx", os.urandom(40 * PART))
    web = dataclasses.replace(LOOPBACK, part_bytes=PART, connections=2)
    changed: list[None] = []

    def change(*_: object) -> None:
        if not changed:
            changed.append(put("moving.onnx", os.urandom(40 * PART)))

    with pytest.raises(BundleError, match="changed while it was fetched"):
        fetch_model(
            "s3://models/moving.onnx", tmp_path / "m", web=web, credentials=reader(tmp_path, s3), progress=change
        )


def test_a_server_that_is_killed_and_comes_back_is_gone_on_with(tmp_path: Path) -> None:
    content = os.urandom(60 * PART + 3)
    web = dataclasses.replace(LOOPBACK, part_bytes=PART, connections=2)
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        server = first.enter_context(servers.s3(tmp_path / "server"))
        port = int(server.url.rpartition(":")[2])
        server.put("model.onnx", content)
        received: list[int] = []

        def restart(now: int, _: int | None) -> None:
            if not received and now > len(content) // 3:
                received.append(now)
                first.close()
                second.enter_context(servers.s3(tmp_path / "server", port))

        path = fetch_model(
            "s3://models/model.onnx", tmp_path / "m", web=web, credentials=reader(tmp_path, server), progress=restart
        )
        assert received
        assert path.read_bytes() == content

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast_bundle.errors import BundleError
from holdfast_bundle.uris import USABLE, Uri, local_path, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pvc://models/wine/3", Uri("pvc", "models", 0, "/wine/3")),
        ("pvc://models", Uri("pvc", "models", 0, "")),
        ("pvc://models/50%25.onnx", Uri("pvc", "models", 0, "/50%25.onnx")),
        ("http://store/wine.onnx", Uri("http", "store", 80, "/wine.onnx")),
        (
            "https://Store.example.com:8443/a%20b?v=1",
            Uri("https", "store.example.com", 8443, "/a%20b", "v=1"),
        ),
        ("http://[fd00::1]:9000/wine", Uri("http", "fd00::1", 9000, "/wine")),
        ("http://10.0.0.7", Uri("http", "10.0.0.7", 80, "")),
        ("s3://my.models/wine/50%25+off/", Uri("s3", "my.models", 0, "/wine/50%25+off")),
        ("gs://models_of_mine/wine.onnx", Uri("gs", "models_of_mine", 0, "/wine.onnx")),
        ("az://models", Uri("az", "models", 0, "")),
        ("oci://Registry.example.com/team/wine", Uri("oci", "registry.example.com", 443, "/team/wine")),
        ("oci://registry:5000/wine:v3.1_x", Uri("oci", "registry", 5000, "/wine:v3.1_x")),
        (f"oci://[fd00::1]/wine@sha256:{'0a' * 32}", Uri("oci", "fd00::1", 443, f"/wine@sha256:{'0a' * 32}")),
    ],
)
def test_a_uri_is_taken_apart(text: str, expected: Uri) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1 to 1024 characters"),
        ("pvc://models/" + "x" * 1024, "1 to 1024 characters"),
        ("ftp://bucket/wine", USABLE),
        ("file:///etc/passwd", USABLE),
        ("wine.onnx", USABLE),
        ("HTTP://store/wine", USABLE),
        ("http://me:secret@store/wine", "user name or password"),
        ("http://me@store/wine", "user name or password"),
        ("http://store/wine#part", "fragment"),
        ("http://store/wi ne", "blanks"),
        ("http://store/wine\r\nX: 1", "blanks"),
        ("http://store\\@other/wine", "backslashes"),
        ("http:///wine", "host name"),
        ("http://-store/wine", "host name"),
        ("http://[::1%25eth0]/wine", "host name"),
        ("http://[::1/wine", "not a URI"),
        ("http://store:99999/wine", "not a URI"),
        ("http://store:0/wine", "port 0"),
        ("pvc:///wine", "claim's name"),
        ("pvc://Models/wine", "claim's name"),
        ("pvc://../wine", "claim's name"),
        ("pvc://models/wine?version=3", "query"),
        ("pvc://models/../other", "'..'"),
        ("http://store/a/../b", "'..'"),
        ("http://store/a/%2e%2e/b", "'..'"),
        ("http://store/a/%252e%252E/b", "'..'"),
        ("http://store/a/..%2fb", "'..'"),
        ("http://store/a/..%5cb", "'..'"),
        ("s3://Models/wine", "name of a bucket"),
        ("gs://m/wine", "name of a bucket"),
        ("az:///wine", "name of a container"),
        ("s3://models/wine?versionId=3", "no query"),
        ("s3://models/a//b", "empty or '.' segment"),
        ("s3://models/a/../b", "'..'"),
        ("s3://key:secret@models/wine", "user name or password"),
        ("oci://registry", "an artifact is named"),
        ("oci://registry/Wine", "an artifact is named"),
        ("oci://registry/wine:", "an artifact is named"),
        ("oci://registry/wine@sha256:12", "an artifact is named"),
        ("oci://registry/wine?tag=3", "an artifact is named"),
        ("oci:///wine", "host name"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_in_words(text: str, complaint: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(text)
    assert caught.value.reason == "Invalid"
    assert complaint in caught.value.message
    assert "secret" not in caught.value.message


def test_a_message_shows_a_uri_without_its_query_and_its_usual_port() -> None:
    assert str(parse("https://store:443/wine?token=abc")) == "https://store/wine"
    assert str(parse("http://[fd00::1]:81/wine")) == "http://[fd00::1]:81/wine"
    assert str(parse("pvc://models/wine")) == "pvc://models/wine"


def test_a_file_of_a_folder_keeps_host_and_query() -> None:
    folder = parse("https://store/wine%203/?version=7")
    assert folder.name == "wine 3"
    assert folder.join("sub folder/m.onnx").target == "/wine%203/sub%20folder/m.onnx?version=7"
    assert str(parse("pvc://models").join("a%b")) == "pvc://models/a%b"


def test_a_claim_is_found_where_pods_mount_it() -> None:
    assert local_path("pvc://models/wine/3") == Path("/mnt/claims/models/wine/3")
    assert local_path("pvc://models", claims=Path("/elsewhere")) == Path("/elsewhere/models")
    with pytest.raises(BundleError, match="not on a claim"):
        local_path("http://store/wine")

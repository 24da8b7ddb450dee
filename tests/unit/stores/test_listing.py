"""What a store, a claim or a web server says it holds, and writing to a store."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import obstore
import pytest
from obstore.store import S3Store
from tests.unit.bundle.loopback import LOOPBACK, answer, serve
from tests.unit.stores import servers
from tests.unit.stores.conftest import CANARIES, Put
from tests.unit.stores.servers import S3, secret
from tests.unit.stores.test_google_and_azure import azure_secret, token_service
from tests.unit.stores.test_s3 import reader

from holdfast_bundle import amazon, signatures, stores
from holdfast_bundle import credentials as credentials_module
from holdfast_bundle import listing as listing_module
from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_file, fetch_files
from holdfast_bundle.listing import Listing, listing
from holdfast_bundle.stores import Bucket
from holdfast_bundle.uris import parse
from holdfast_bundle.web import Web


@pytest.fixture(params=["s3", "gs", "az"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Credentials]:
    """Each kind of store: the URI of a bucket, and keys to it."""
    match request.param:
        case "s3":
            return "s3://models", reader(tmp_path, request.getfixturevalue("s3"))
        case "gs":
            key = request.getfixturevalue("google").key
            return "gs://models", secret(tmp_path / "secret", **{"service-account__json": key})
        case _:
            return "az://models", azure_secret(tmp_path, request.getfixturevalue("azure"))


def listed(uri: str, credentials: Credentials = NOBODY, claims: Path = Path("/nowhere")) -> Listing:
    return listing(parse(uri), web=LOOPBACK, claims=claims, credentials=credentials)


def names(found: Listing) -> list[str]:
    return [entry.name for entry in found.entries]


def refusal(uri: str, credentials: Credentials = NOBODY, **options: Any) -> BundleError:
    with pytest.raises(BundleError) as caught:
        listed(uri, credentials, **options)
    assert not any(canary in caught.value.message for canary in CANARIES)
    return caught.value


def write(bucket: str, credentials: Credentials, folder: Path, **files: bytes) -> None:
    place = Bucket(parse(bucket), LOOPBACK, credentials)
    for name, content in files.items():
        (folder / "content").write_bytes(content)
        place.put(name.replace("__", "/").replace("_csv", ".csv"), folder / "content")


@pytest.mark.parametrize("name", ["plain", "year=2026"])
def test_a_folder_is_listed_with_sizes_and_other_stamps_for_other_contents(
    store: tuple[str, Credentials], tmp_path: Path, name: str
) -> None:
    bucket, credentials = store
    folder = f"{bucket}/{tmp_path.name}/{name}"
    write(folder, credentials, tmp_path, a_csv=b"1", inner__b_csv=b"22", _SUCCESS=b"")
    write(f"{folder}-other", credentials, tmp_path, c_csv=b"3")
    first = listed(folder, credentials)
    assert (first.single, names(first)) == (False, ["_SUCCESS", "a.csv", "inner/b.csv"])
    assert [entry.size for entry in first.entries] == [0, 1, 2]
    assert listed(f"{folder}/", credentials) == first
    write(folder, credentials, tmp_path, a_csv=b"2")
    second = listed(folder, credentials)
    assert [a == b for a, b in zip(first.entries, second.entries, strict=True)] == [True, False, True]
    fetch_file(f"{folder}/inner/b.csv", tmp_path / "back", web=LOOPBACK, credentials=credentials)
    assert (tmp_path / "back").read_bytes() == b"22"


def test_an_object_is_listed_as_one_file(store: tuple[str, Credentials], tmp_path: Path) -> None:
    bucket, credentials = store
    write(f"{bucket}/{tmp_path.name}", credentials, tmp_path, a_csv=b"123")
    found = listed(f"{bucket}/{tmp_path.name}/a.csv", credentials)
    assert (found.single, names(found), found.entries[0].size) == (True, ["a.csv"], 3)
    assert found.entries[0].stamp


def test_what_is_not_there_and_what_is_refused_is_said(store: tuple[str, Credentials], tmp_path: Path) -> None:
    bucket, credentials = store
    error = refusal(f"{bucket}/{tmp_path.name}/none", credentials)
    assert (error.reason, f"{bucket}/{tmp_path.name}/none" in error.message) == ("NotFound", True)


def test_wrong_keys_are_refused_by_the_name_of_their_secret(s3: S3, tmp_path: Path) -> None:
    wrong = reader(tmp_path, s3, AWS_SECRET_ACCESS_KEY="canary-but-wrong")
    error = refusal("s3://models/some/folder", wrong)
    assert (error.reason, "(keys of Secret models-read)" in error.message) == ("AccessDenied", True)
    with pytest.raises(BundleError) as caught:
        write("s3://models/some", wrong, tmp_path, a_csv=b"1")
    assert caught.value.reason == "AccessDenied"


def test_more_than_a_page_is_listed_whole(s3: S3, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        put(f"{tmp_path.name}/{number}.csv", b"x")
    dialect = dataclasses.replace(stores._AMAZON, query=stores._AMAZON.query | {"max-keys": "3"})
    monkeypatch.setattr(stores, "_AMAZON", dialect)
    assert names(listed(f"s3://models/{tmp_path.name}", reader(tmp_path, s3))) == [f"{n}.csv" for n in range(7)]
    monkeypatch.setattr(listing_module, "MAX_FILES", 6)
    assert "more than 6 files" in refusal(f"s3://models/{tmp_path.name}", reader(tmp_path, s3)).message


def test_a_signature_is_the_one_that_amazon_documents() -> None:
    url = signatures.amazon(
        "https://examplebucket.s3.amazonaws.com/test.txt",
        {},
        ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        "",
        "us-east-1",
        datetime(2013, 5, 24, tzinfo=UTC),
        seconds=86400,
    )
    # AWS General Reference, "Authenticating Requests: Using Query Parameters".
    assert url.endswith("X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


def sts(key: str = servers.KEY, ends: str = "2099-01-01T00:00:00Z") -> str:
    """The service's answer."""
    return f"""<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
      <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{servers.KEY_ID}</AccessKeyId>
      <SecretAccessKey>{key}</SecretAccessKey><SessionToken>canary-session</SessionToken>
      <Expiration>{ends}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
    </AssumeRoleWithWebIdentityResponse>"""


LIST = b"<x><Contents><Key>data/a.csv</Key><Size>1</Size><ETag>1</ETag></Contents></x>"


@pytest.mark.parametrize(("answer", "asked"), [(sts(), 1), (sts(ends="2020-01-01T00:00:00Z"), 2)])
def test_a_role_of_the_pod_lists_with_keys_that_it_gets_for_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, asked: int
) -> None:
    (tmp_path / "token").write_text("canary-of-kubernetes\n")
    monkeypatch.setattr(credentials_module, "_TOKENS", f"{tmp_path}/")
    platform = {"AWS_ROLE_ARN": "arn:aws:iam::1:role/x", "AWS_WEB_IDENTITY_TOKEN_FILE": f"{tmp_path}/token"}
    with serve() as origin, shelf(origin, LIST) as _, token_service(answer) as (url, seen):
        monkeypatch.setattr(amazon, "STS", f"{url}/{{region}}/{{domain}}")
        named = secret(tmp_path / "secret", AWS_ENDPOINT_URL=origin.url(""), AWS_REGION="eu-test-1")
        bucket = Bucket(parse("s3://models/data"), LOOPBACK, dataclasses.replace(named, platform=platform))
        for _ in range(2):
            assert [entry.name for entry in bucket.entries()] == ["a.csv"]
        assert len(seen) == asked
        assert seen[0].startswith("POST /eu-test-1/amazonaws.com")
        assert "WebIdentityToken=canary-of-kubernetes" in seen[0]
        assert "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx" in seen[0]
        assert b"X-Amz-Security-Token=canary-session" in origin.seen[0]


def test_a_signature_with_a_session_is_the_one_that_obstore_makes() -> None:
    keys = {"access_key_id": "id", "secret_access_key": "secret/+", "session_token": "session/+="}
    store = S3Store("models", config={"region": "eu-test-1", "endpoint": "https://h.example.com", **keys})
    theirs = urlsplit(obstore.sign(store, "GET", "data/a=1/b c.csv", timedelta(hours=1)))
    query = dict(parse_qsl(theirs.query))
    moment = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    base = f"https://h.example.com{theirs.path}"
    ours = signatures.amazon(base, {}, ("id", "secret/+"), "session/+=", "eu-test-1", moment)
    assert dict(parse_qsl(urlsplit(ours).query)) == query


@pytest.mark.parametrize("answer", ["", "<x/>", "{}", sts(key=""), sts(ends="never"), "<!DOCTYPE x><x/>"])
def test_keys_that_are_none_are_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    (tmp_path / "token").write_text("canary-of-kubernetes")
    with token_service(answer) as (url, _):
        monkeypatch.setattr(amazon, "STS", url)
        with pytest.raises(BundleError, match="no keys") as caught:
            amazon.of_role("role", f"{tmp_path}/token", "eu-test-1", "amazonaws.com", LOOPBACK)
    assert caught.value.reason == "AccessDenied"


def test_the_agent_of_eks_is_asked_with_its_token_and_by_its_address_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("canary-of-kubernetes")
    said = {"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "c", "Expiration": "2099-01-01T00:00:00Z"}
    with token_service(json.dumps(said)) as (url, seen):
        keys = amazon.of_agent(f"{url}/v1/credentials", f"{tmp_path}/token", Web())
        assert keys[:3] == ("a", "b", "c")
        assert "Authorization: canary-of-kubernetes" in seen[0]
    with token_service(json.dumps(said | {"Token": None})) as (url, _), pytest.raises(BundleError, match="no keys"):
        amazon.of_agent(f"{url}/v1/credentials", f"{tmp_path}/token", Web())


@pytest.mark.parametrize(
    "page", [b"", b"<html>", b"<a/>" * 2, b'<!DOCTYPE x [<!ENTITY e "e">]><x>&e;</x>', b"<x><Contents/></x>"]
)
def test_what_is_no_list_of_a_store_is_refused(tmp_path: Path, page: bytes) -> None:
    with serve() as origin, shelf(origin, page) as credentials:
        assert refusal("s3://models/data", credentials(tmp_path)).reason == "Invalid"


@pytest.mark.parametrize(
    "name", ["../evil.csv", "a/../../evil.csv", "/etc/evil.csv", "a//b.csv", "./a.csv", "a\\b.csv", "a\u202eb.csv"]
)
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    page = f"<x><Contents><Key>data/{name}</Key><Size>1</Size><ETag>1</ETag></Contents></x>".encode()
    with serve() as origin, shelf(origin, page) as credentials:
        error = refusal("s3://models/data", credentials(tmp_path))
        assert (error.reason, "cannot be that of a file" in error.message) == ("Invalid", True)
        with pytest.raises(BundleError, match="leads out of it"):
            fetch_files(parse("s3://models/data"), [name], tmp_path / "in", web=LOOPBACK)
    assert not (tmp_path / "in").exists()


def test_a_list_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_MAX_PAGES", 3)
    page = b"<x><NextContinuationToken>again</NextContinuationToken></x>"
    with serve() as origin, shelf(origin, page) as credentials:
        assert "does not end" in refusal("s3://models/data", credentials(tmp_path)).message
        assert len(origin.seen) == 4  # one of them the head of an object of that name


@contextlib.contextmanager
def shelf(origin: Any, page: bytes) -> Iterator[Callable[[Path], Credentials]]:
    """Answers every list with the page, and leads there."""

    class Pages(dict[str, Any]):
        def get(self, target: str, default: Any = None) -> Any:
            return answer(page) if "list-type=2" in target else default

    origin.pages = Pages()
    yield lambda folder: secret(
        folder / "secret",
        AWS_ENDPOINT_URL=origin.url("").rstrip("/"),
        AWS_ACCESS_KEY_ID=servers.KEY_ID,
        AWS_SECRET_ACCESS_KEY=servers.KEY,
    )


# --- claims and web servers


def test_a_claim_is_listed_to_its_depths_and_links_do_not_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "lake" / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.csv").write_text("1")
    (folder / "inner" / "b.csv").write_text("22")
    first = listed("pvc://lake/data", claims=tmp_path)
    assert (first.single, names(first), [e.size for e in first.entries]) == (False, ["a.csv", "inner/b.csv"], [1, 2])
    os.utime(folder / "a.csv", ns=(1, 1))
    assert listed("pvc://lake/data", claims=tmp_path) != first
    assert listed("pvc://lake/data/a.csv", claims=tmp_path).single
    (folder / "out.csv").symlink_to("/etc/passwd")
    assert "leads out of its claim" in refusal("pvc://lake/data", claims=tmp_path).message
    (folder / "out.csv").unlink()
    (folder / "again").symlink_to("../data")
    assert "does a link lead back" in refusal("pvc://lake/data", claims=tmp_path).message


@pytest.mark.parametrize(
    ("headers", "stamp"),
    [
        (['ETag: W/"7"', "Last-Modified: Wed, 25 Nov 2026 00:00:00 GMT"], 'W/"7"'),
        (["Last-Modified: Wed, 25 Nov 2026 00:00:00 GMT"], "Wed, 25 Nov 2026 00:00:00 GMT"),
        ([], ""),
    ],
)
def test_a_web_server_is_asked_for_the_head_alone(headers: list[str], stamp: str) -> None:
    with serve() as origin:
        origin.pages["/data.csv"] = answer(b"", "200 OK", *headers, length=12)
        [entry] = listed(origin.url("/data.csv")).entries
        assert (entry.name, entry.size, entry.stamp) == ("data.csv", 12, stamp)
        assert origin.seen[0].startswith(b"HEAD /data.csv ")
        assert refusal(origin.url("/none.csv")).reason == "NotFound"
        assert "does not list a folder" in refusal(origin.url("/data/")).message
        origin.pages["/data.csv"] = answer(b"", "405 Method Not Allowed")
        assert refusal(origin.url("/data.csv")).reason == "Unreachable"
        assert origin.seen[-1].startswith(b"GET /data.csv ")

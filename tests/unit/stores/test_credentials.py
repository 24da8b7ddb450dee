"""Who a pod says it is, and to whom."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.bundle.loopback import LOOPBACK
from tests.unit.bundle.ranges import shop
from tests.unit.stores.servers import secret

from holdfast_bundle.credentials import Credentials, basic, taken_from
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_model


@pytest.mark.parametrize(
    ("keys", "header"),
    [
        ({"username": "me", "password": "canary"}, basic("me", "canary")),
        ({"token": "canary\n"}, "Bearer canary"),
        ({"ca__crt": ""}, None),
    ],
)
def test_a_web_server_is_told_and_nobody_after_it(tmp_path: Path, keys: dict[str, str], header: str | None) -> None:
    with shop(b"model") as origin:
        credentials = secret(tmp_path / "secret", **keys) if header else Credentials()
        origin.location = origin.url("/elsewhere")
        fetch_model(origin.url(), tmp_path / "m", web=LOOPBACK, credentials=credentials)
        assert [header is not None and header in head for head in origin.heads] == [header is not None, False]
        assert "Authorization" not in origin.heads[1]


def test_a_web_server_that_refuses_names_the_secret(tmp_path: Path) -> None:
    with shop(b"model") as origin:
        origin.status = 401
        with pytest.raises(BundleError) as caught:
            fetch_model(
                origin.url(), tmp_path / "m", web=LOOPBACK, credentials=secret(tmp_path / "secret", token="canary")
            )
    assert caught.value.message == f"{origin.url()}: the server answered 401 (keys of Secret models-read)"


@pytest.mark.parametrize(
    ("keys", "reason", "words"),
    [
        ({"username": "me"}, "SecretNotFound", "no key password"),
        ({"username": "m:e", "password": "canary"}, "SecretInvalid", "key username of Secret models-read"),
        ({"token": "cana\nry"}, "SecretInvalid", "key token of Secret models-read"),
        ({"token": "x" * (1 << 20) + "y"}, "SecretInvalid", "at most 1 MiB"),
    ],
)
def test_a_key_that_cannot_be_sent_is_named_and_not_repeated(
    tmp_path: Path, keys: dict[str, str], reason: str, words: str
) -> None:
    with shop(b"model") as origin, pytest.raises(BundleError) as caught:
        fetch_model(origin.url(), tmp_path / "m", web=LOOPBACK, credentials=secret(tmp_path / "secret", **keys))
    assert (caught.value.reason, words in caught.value.message) == (reason, True)
    assert "canary" not in caught.value.message
    assert origin.heads == []


def test_identities_and_proxies_leave_the_environment() -> None:
    identity = {"AWS_ROLE_ARN": "a", "AZURE_CLIENT_ID": "b", "GOOGLE_APPLICATION_CREDENTIALS": "c"}
    other = {"PATH": "/bin", "LOG_LEVEL": "x"}
    environment = identity | other | {"https_proxy": "http://p", "NO_PROXY": "*"}
    assert taken_from(environment) == identity
    assert environment == other


def test_credentials_do_not_show_what_they_hold(tmp_path: Path) -> None:
    credentials = Credentials(secret="models-read", folder=tmp_path, platform={"AWS_ROLE_ARN": "canary"})
    assert "canary" not in repr(credentials)

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import obstore
import pytest
from obstore.store import AzureStore
from tests.unit.bundle.test_fetch import bundle_pages
from tests.unit.stores import servers

CANARIES = ("canary", "c2VjcmV0", "X-Amz-Signature", "X-Goog-Signature", "sig=")
"""What no log and no message may hold."""

PART = 64 << 10

Put = Callable[[str, bytes], None]


def upload(put: Callable[[str, bytes], Any], folder: str, model: bytes = b"model") -> None:
    """A small bundle into a store."""
    for target, content in bundle_pages(folder, model).items():
        put(target, content)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    with servers.s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def put(s3: servers.S3) -> Put:
    return s3.put


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Google]:
    with servers.google(tmp_path_factory.mktemp("google")) as made:
        yield made


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Azure]:
    with servers.azure(tmp_path_factory.mktemp("azure")) as made:
        config = {"account_name": made.account, "account_key": made.key, "endpoint": made.endpoint}
        store = AzureStore("models", config=config, client_options={"allow_http": True})
        servers.make_container(made)
        upload(lambda key, content: obstore.put(store, key, content), "/wine/3", os.urandom(5 * PART + 7))
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_given_away(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG, "holdfast_bundle")
    yield
    for canary in CANARIES:
        assert canary not in caplog.text

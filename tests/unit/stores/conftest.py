from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.unit.bundle.test_fetch import bundle_pages
from tests.unit.stores import servers

CANARIES = ("canary", "c2VjcmV0", "X-Amz-Signature", "X-Goog-Signature", "sig=")
"""What no log and no message may hold."""

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


@pytest.fixture(autouse=True)
def _nothing_is_given_away(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG, "holdfast_bundle")
    yield
    for canary in CANARIES:
        assert canary not in caplog.text

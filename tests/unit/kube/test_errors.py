"""What an answer with an error means."""

import json
from typing import Any

import pytest

from holdfast.kube import errors


def answer(status: int, **fields: Any) -> errors.ApiError:
    return errors.from_answer(status, json.dumps({"kind": "Status", **fields}).encode(), {})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequest),
        (401, errors.Unavailable),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (410, errors.Expired),
        (422, errors.Invalid),
        (429, errors.Unavailable),
        (500, errors.Unavailable),
        (503, errors.Unavailable),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[errors.ApiError]) -> None:
    assert type(answer(status, message="words")) is kind


def test_a_409_for_an_object_that_exists_is_told_apart() -> None:
    assert type(answer(409, reason="AlreadyExists")) is errors.AlreadyExists


def test_what_is_refused_is_told_apart_from_what_may_be_tried_again() -> None:
    assert isinstance(answer(403), errors.Refused)
    assert not isinstance(answer(503), errors.Refused)
    assert not isinstance(answer(409), errors.Refused)


def test_a_quota_is_the_users_business_and_a_missing_right_is_not() -> None:
    quota = 'deployments.apps "wine" is forbidden: exceeded quota: none, requested: count/deployments.apps=1'
    right = 'deployments.apps "wine" is forbidden: User "system:serviceaccount:a:b" cannot patch resource "deployments"'
    assert isinstance(answer(403, message=quota), errors.Refused)
    assert type(answer(403, message=right)) is errors.NotPermitted
    assert not issubclass(errors.NotPermitted, errors.Refused)


def test_the_servers_words_and_fields_are_kept() -> None:
    error = answer(
        422, message="metadata.uid: Invalid value", reason="Invalid", details={"causes": [{"field": "metadata.uid"}]}
    )
    assert str(error) == "metadata.uid: Invalid value"
    assert error.fields == ("metadata.uid",)


def test_nothing_of_a_page_that_some_proxy_sent_is_kept() -> None:
    error = errors.from_answer(502, b"<html>token=secret</html>", {})
    assert str(error) == "HTTP status 502"
    assert str(errors.from_answer(500, b'{"kind": "Secret", "message": "x"}', {})) == "HTTP status 500"


def test_the_wait_that_the_server_asks_for_is_kept_within_a_minute() -> None:
    assert errors.from_answer(429, b"", {"Retry-After": "7"}).retry_after == 7
    assert errors.from_answer(429, b"", {"Retry-After": "86400"}).retry_after == 60
    assert errors.from_answer(429, b"", {}).retry_after == 0

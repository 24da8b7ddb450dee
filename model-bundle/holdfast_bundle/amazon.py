"""Keys that Amazon gives a pod for a while: for its ServiceAccount's token, or by the agent of EKS Pod Identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from holdfast_bundle.addresses import Reach
from holdfast_bundle.errors import BundleError
from holdfast_bundle.uris import parse
from holdfast_bundle.web import Web, read

STS = "https://sts.{region}.{domain}/"
AGENTS = ("http://169.254.170.23/v1/credentials", "http://[fd00:ec2::23]/v1/credentials")
"""Where EKS Pod Identity answers. Asked for keys alone, never for content."""

_MAX_ANSWER_BYTES = 1 << 20
_EARLY = timedelta(minutes=5)


class Keys(NamedTuple):
    """An access key, and when it ends."""

    id: str
    secret: str
    token: str
    ends: datetime


def held(ask: Callable[[], Keys]) -> Callable[[], Keys]:
    """The same keys until they are about to end, then new ones."""
    keys: list[Keys] = []

    def current() -> Keys:
        if not keys or datetime.now(UTC) >= keys[0].ends - _EARLY:
            keys[:] = [ask()]
        return keys[0]

    return current


def of_role(role: str, token_file: str, region: str, domain: str, web: Web) -> Keys:
    """For a role that trusts the ServiceAccount. Raises BundleError."""
    from xml.etree import ElementTree

    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": role,
        "RoleSessionName": "holdfast",
        "WebIdentityToken": _token(token_file),
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    service = parse(STS.format(region=region, domain=domain))
    answer = read(service, web, _MAX_ANSWER_BYTES, headers=headers, form=urlencode(form).encode())
    try:
        if b"<!DOCTYPE" in answer:
            raise ValueError
        found = ElementTree.fromstring(answer).find(".//{*}Credentials")  # noqa: S314 - no document type, and bounded
        names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        return _keys(*(None if found is None else found.findtext(f"{{*}}{name}") for name in names))
    except (ElementTree.ParseError, ValueError):
        raise _none() from None


def of_agent(agent: str, token_file: str, web: Web) -> Keys:
    """By the agent on the pod's node, one of AGENTS. Raises BundleError."""
    place = parse(agent)
    address = ip_address(place.host)
    web = replace(web, policy=lambda found: Reach.PRIVATE if found == address else Reach.REFUSED, total_seconds=30)
    try:
        said = json.loads(read(place, web, _MAX_ANSWER_BYTES, authorization=_token(token_file)))
        return _keys(*(said.get(name) for name in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")))
    except (ValueError, AttributeError):
        raise _none() from None


def _keys(id: str | None, secret: str | None, token: str | None, ends: str | None) -> Keys:
    if not id or not secret or not token or not ends:
        raise ValueError
    moment = datetime.fromisoformat(ends)
    return Keys(id, secret, token, moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _token(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except (OSError, ValueError) as error:
        raise BundleError("AccessDenied", "the ServiceAccount's token cannot be read") from error


def _none() -> BundleError:
    return BundleError("AccessDenied", "the platform gave the ServiceAccount no keys")

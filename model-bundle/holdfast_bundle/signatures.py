"""What obstore cannot sign: a request with a query, by which a store is asked what it holds."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import quote, urlencode, urlsplit

_SECONDS = 3600


def amazon(
    url: str,
    query: Mapping[str, str],
    key: tuple[str, str],
    token: str,
    region: str,
    now: datetime,
    seconds: int = _SECONDS,
) -> str:
    """`url` with the query and a signature of version 4 for a GET of it.

    Args:
        key: the id of an access key, and its secret.
        token: of the session, for temporary keys; empty for none.
        seconds: how long it holds.
    """
    moment, parts = now.strftime("%Y%m%dT%H%M%SZ"), urlsplit(url)
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    asked = {
        **query,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key[0]}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    if token:
        asked["X-Amz-Security-Token"] = token
    canonical = urlencode(sorted(asked.items()), quote_via=quote, safe="-_.~")
    request = "\n".join(("GET", parts.path or "/", canonical, f"host:{parts.netloc}", "", "host", "UNSIGNED-PAYLOAD"))
    text = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    secret = f"AWS4{key[1]}".encode()
    for part in scope.split("/"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    return f"{url}?{canonical}&X-Amz-Signature={hmac.digest(secret, text.encode(), 'sha256').hex()}"


def azure(container: str, account: str, key: str, now: datetime) -> dict[str, str]:
    """A service SAS with which the container's blobs can be listed, as a query.

    Raises:
        ValueError: for a key that is not base64.
    """
    ends, version = (now + timedelta(seconds=_SECONDS)).strftime("%Y-%m-%dT%H:%M:%SZ"), "2020-12-06"
    # permissions, start, end, resource, policy, addresses, protocol, version, kind; then seven that are not given
    fields = ("l", "", ends, f"/blob/{account}/{container}", "", "", "", version, "c", *[""] * 7)
    try:
        secret = base64.b64decode(key, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    signature = base64.b64encode(hmac.digest(secret, "\n".join(fields).encode(), "sha256")).decode()
    return {"sp": "l", "se": ends, "sv": version, "sr": "c", "sig": signature}

"""The REST API of an MLflow server, as far as it is used here: JSON over HTTP, by our own guarded requests.

models:/NAME@ALIAS and models:/NAME/VERSION name a version of a registered model, whose source is a bundle's URI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.uris import Uri, parse
from holdfast_bundle.web import Deadline, Method, Web
from holdfast_bundle.webfile import Request, asked

MODELS = "models:/"
DIGEST_TAG = "holdfast.bundle.digest"
TRACKING_URI = "MLFLOW_TRACKING_URI"
"""Key of the Secret that names the server."""

_SOURCES = frozenset({"pvc", "s3", "gs", "az", "oci"})
"""Schemes of sources. A web server's is none: whoever registers a version would be sent the Secret's password."""
_REGISTERED = re.compile(
    r"models:/([^\x00-\x20\x7f\\/:@?#%]{1,250})(?:@([A-Za-z_-][A-Za-z0-9_-]{0,127})|/([0-9]{1,9}))"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_API = "api/2.0/mlflow"
_MAX_ANSWER_BYTES = 4 << 20
_ERRORS = (400, 403, 404, 409)
"""Statuses of answers that say in a code of MLflow's what was wrong."""
_CODE = re.compile(r"[A-Z_]{1,64}")


class MlflowError(BundleError):
    """The server understood, and refused.

    Attributes:
        code: in MLflow's words, such as RESOURCE_DOES_NOT_EXIST.
    """

    def __init__(self, code: str, message: str) -> None:
        reasons = {"RESOURCE_DOES_NOT_EXIST": "NotFound", "PERMISSION_DENIED": "AccessDenied"}
        super().__init__(reasons.get(code, "Invalid"), message)  # type: ignore[arg-type]
        self.code = code


@dataclass(frozen=True, slots=True)
class Server:
    """An MLflow server. Every method raises BundleError, or MlflowError where the server says what is wrong."""

    uri: Uri
    web: Web
    credentials: Credentials
    deadline: Deadline

    def ask(self, what: str, **arguments: str) -> dict[str, Any]:
        """The answer to a GET of `what`, like `experiments/get-by-name`."""
        uri = replace(self.uri.join(f"{_API}/{what}"), query=urlencode(arguments))
        return self._json("GET", uri)

    def tell(self, what: str, **document: Any) -> dict[str, Any]:
        """The answer to a POST of `what`, like `runs/create`."""
        return self._json("POST", self.uri.join(f"{_API}/{what}"), document)

    def keep(self, path: str, content: bytes) -> None:
        """Put a file among the artifacts that the server keeps for its clients."""
        self._send("PUT", self.uri.join(f"api/2.0/mlflow-artifacts/artifacts/{path}"), content, "text/plain")

    def _json(self, method: Method, uri: Uri, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
        content = None if document is None else json.dumps(document).encode()
        answer = self._send(method, uri, content, "application/json")
        try:
            said = json.loads(answer or b"{}")
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise BundleError("Invalid", f"{uri}: the answer is no JSON object; is it an MLflow server?")
        return said

    def _send(self, method: Method, uri: Uri, content: bytes | None, kind: str) -> bytes:
        def request() -> Request:
            headers = {"Content-Type": kind} if content is not None else {}
            return Request(uri, headers, self.credentials.authorization())

        with asked(
            uri,
            request,
            self.web,
            self.credentials,
            statuses=(200, *_ERRORS),
            method=method,
            content=content,
            deadline=self.deadline,
        ) as body:
            status, answer = body.status, body.all(_MAX_ANSWER_BYTES)
        if status != 200:
            raise self.credentials.told(_refusal(uri, status, answer))
        return answer


def server_at(uri: str, *, web: Web, credentials: Credentials = NOBODY, seconds: float = 60) -> Server:
    """The server at an http(s) URI; all that is asked of it must be answered within so many seconds.

    Raises:
        BundleError: `Invalid` for another URI, `SecretNotFound` or `SecretInvalid`.
    """
    parsed = parse(uri)
    if parsed.scheme not in ("http", "https") or parsed.query:
        raise BundleError("Invalid", f"an MLflow server is at http(s)://HOST[:PORT][/PATH], not at {parsed}")
    tls = credentials.tls()
    return Server(parsed, web if tls is None else replace(web, tls=tls), credentials, Deadline(seconds))


def registered(uri: str, *, web: Web, credentials: Credentials) -> tuple[str, str | None]:
    """(URI, digest) of the bundle that a models:/ URI leads to now; None for a digest that the registry does not tell.

    Raises:
        BundleError: `Invalid` for another URI or a source that cannot be used, `SecretNotFound` where no Secret names
            the server; else as `Server`.
    """
    named = _REGISTERED.fullmatch(uri)
    if named is None:
        raise BundleError("Invalid", "a registered model is named models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = named.groups()
    where = credentials.key(TRACKING_URI)
    if not where:
        secret = f"Secret {credentials.secret} has no key {TRACKING_URI}; add it"
        missing = secret if credentials.secret else f"name a Secret with key {TRACKING_URI} in serving.storageSecretRef"
        raise BundleError("SecretNotFound", missing)
    server = server_at(where, web=web, credentials=credentials)
    try:
        if alias:
            found = server.ask("registered-models/alias", name=name, alias=alias).get("model_version")
        else:
            found = server.ask("model-versions/get", name=name, version=version).get("model_version")
    except MlflowError as error:
        if error.code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # the latter of an alias
            raise
        raise BundleError("NotFound", f"{server.uri} has no such model, version or alias") from error
    if not isinstance(found, dict):
        raise BundleError("Invalid", f"{server.uri}: the answer names no version of {name}; is it an MLflow server?")
    source = parse(str(found.get("source", "")))
    if source.scheme not in _SOURCES:
        raise BundleError(
            "Invalid", f"its source, {source}, is on a web server; only claims, stores and registries serve"
        )
    tags = {tag.get("key"): tag.get("value") for tag in found.get("tags", ()) if isinstance(tag, dict)}
    digest = str(tags.get(DIGEST_TAG, ""))
    return str(source), digest if _DIGEST.fullmatch(digest) else None


def _refusal(uri: Uri, status: int, answer: bytes) -> BundleError:
    """By the code of the answer; its words, which may hold anything, are not repeated."""
    try:
        code = str(json.loads(answer)["error_code"])
    except (ValueError, KeyError, TypeError):
        code = ""
    if _CODE.fullmatch(code):
        return MlflowError(code, f"{uri}: the MLflow server refused ({code})")
    if status == 403:
        return BundleError("AccessDenied", f"{uri}: the server answered 403")
    return BundleError("NotFound" if status == 404 else "Invalid", f"{uri}: the server answered {status}")

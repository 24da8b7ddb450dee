"""The REST API of an MLflow server, as far as it is used here: JSON over HTTP, by our own guarded requests."""

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

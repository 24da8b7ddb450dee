"""A file behind HTTP, in parts and by version: on a web server, in an object store, in a registry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError, FinalError
from holdfast_bundle.uris import Uri
from holdfast_bundle.web import Body, Deadline, Method, Web, get


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask, and who asks.

    Attributes:
        uri: http(s). Its query may be a signature.
    """

    uri: Uri
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class WebFile:
    """A file behind HTTP.

    Attributes:
        uri: what the user calls it, for messages.
        request: made anew for each connection, for signatures and tokens end.
        digest: `sha256:` and hex that its address promises; it needs no ETag then.
    """

    uri: Uri
    web: Web
    request: Callable[[], Request]
    credentials: Credentials = NOBODY
    digest: str = ""
    _deadline: Deadline | None = field(default=None, init=False)

    @contextlib.contextmanager
    def open(self, start: int = 0, end: int | None = None, version: str | None = None) -> Iterator[Body]:
        self._deadline = self._deadline or Deadline(self.web.total_seconds)
        headers: dict[str, str] = {}
        if version is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            if not self.digest:
                headers["If-Range"] = version
        statuses = (200,) if version is None else (200, 206)
        with asked(
            self.uri,
            self.request,
            self.web,
            self.credentials,
            headers=headers,
            statuses=statuses,
            deadline=self._deadline,
        ) as body:
            if self.digest and body.ranged:
                body.version = self.digest
            if version is not None and (body.start, body.version) != (start, version):
                raise FinalError("Unreachable", f"{self.uri}: it was changed while it was fetched")
            yield body


@contextlib.contextmanager
def asked(
    uri: Uri,
    request: Callable[[], Request],
    web: Web,
    credentials: Credentials,
    *,
    headers: Mapping[str, str] | None = None,
    statuses: Collection[int] = (200,),
    method: Method = "GET",
    content: bytes | BinaryIO | None = None,
    deadline: Deadline | None = None,
) -> Iterator[Body]:
    """The answer to a request. Its failures speak of `uri`, as the user calls it, and never of a signed link."""
    link = ""
    try:
        made = request()
        link = str(made.uri)
        with get(
            made.uri,
            web,
            headers={**made.headers, **(headers or {})},
            authorization=made.authorization,
            statuses=statuses,
            method=method,
            content=content,
            deadline=deadline,
        ) as body:
            yield body
    except BundleError as error:
        if link:
            error.message = error.message.replace(link, str(uri))
        told = credentials.told(error)
        if told is error:
            raise
        raise told from error


@dataclass(frozen=True, slots=True)
class Site:
    """A file or a folder on a web server; what ends in .onnx is a file."""

    uri: Uri
    web: Web
    credentials: Credentials = NOBODY

    @property
    def single(self) -> bool:
        return self.uri.path.endswith(".onnx")

    def file(self, name: str = "") -> WebFile:
        uri = self.uri.join(name) if name else self.uri
        return WebFile(
            uri, self.web, lambda: Request(uri, authorization=self.credentials.authorization()), self.credentials
        )

    def head(self) -> Body:
        """The head of the answer to a request for the file. Raises BundleError as `get` does."""

        def request() -> Request:
            return Request(self.uri, authorization=self.credentials.authorization())

        refusals = range(400, 600)  # by servers that know no HEAD, in many words; a GET tells what they mean
        with asked(self.uri, request, self.web, self.credentials, method="HEAD", statuses=(200, *refusals)) as body:
            if body.status == 200:
                return body
        with asked(self.uri, request, self.web, self.credentials) as body:
            return body

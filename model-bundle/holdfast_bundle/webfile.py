"""A file behind HTTP, in parts and by version: on a web server, in an object store, in a registry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError, FinalError
from holdfast_bundle.uris import Uri
from holdfast_bundle.web import Body, Deadline, Web, get


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
        link = ""
        try:
            request = self.request()
            link = str(request.uri)
            headers = dict(request.headers)
            if version is not None:
                headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
                if not self.digest:
                    headers["If-Range"] = version
            with get(
                request.uri,
                self.web,
                headers=headers,
                authorization=request.authorization,
                statuses=(200,) if version is None else (200, 206),
                deadline=self._deadline,
            ) as body:
                if self.digest and body.ranged:
                    body.version = self.digest
                if version is not None and (body.start, body.version) != (start, version):
                    raise FinalError("Unreachable", f"{self.uri}: it was changed while it was fetched")
                yield body
        except BundleError as error:
            if link:
                error.message = error.message.replace(link, str(self.uri))
            told = self.credentials.told(error)
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

"""A model as an OCI artifact in a registry: one layer for each file, with its name as the layer's title.

What `oras push REGISTRY/REPOSITORY:TAG manifest.json model.onnx …` makes. The registry is asked over TLS alone. A tag
is looked up once; from then on everything is named by its digest, and held to it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from holdfast_bundle import manifest
from holdfast_bundle.addresses import Reach
from holdfast_bundle.credentials import NOBODY, Credentials, basic
from holdfast_bundle.errors import BundleError
from holdfast_bundle.uris import Uri, parse
from holdfast_bundle.web import Deadline, Web, addresses_of, get, read
from holdfast_bundle.webfile import Request, WebFile

log = logging.getLogger(__name__)

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_ACCEPT = ", ".join(("application/vnd.oci.image.manifest.v1+json", *_INDEXES))
_ALIASES = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_TITLE = "org.opencontainers.image.title"
_UNPACK = "io.deis.oras.content.unpack"
_MAX_BYTES = 4 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMETER = re.compile(r'([a-z]+)="([^"]{0,2048})"')


class Artifact:
    """An artifact in a registry."""

    def __init__(self, uri: Uri, web: Web, credentials: Credentials = NOBODY) -> None:
        self.uri = uri
        self._web = web
        self._credentials = credentials
        path, _, digest = uri.path.partition("@")
        repository, _, tag = path.partition(":")
        self._reference = digest or tag or "latest"
        self._repository = repository.removeprefix("/")
        self._base = Uri("https", _ALIASES.get(uri.host, uri.host), uri.port, "")
        self._authorization: str | None = None
        self._realm: Uri | None = None
        self._ends = float("inf")

    @property
    def single(self) -> bool:
        return manifest.MANIFEST not in self.files

    @cached_property
    def files(self) -> Mapping[str, str]:
        """The digests of the files by name. Raises BundleError."""
        try:
            return self._listed(json.loads(self._manifest()))
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            raise self._invalid("has a manifest that cannot be read") from None

    def file(self, name: str = "") -> WebFile:
        """Raises BundleError: `NotFound`; `Invalid` where there is no name and no single model either."""
        if not name:
            models = [title for title in self.files if title.endswith(".onnx")]
            if len(models) != 1:
                raise self._invalid("is no model: none of its layers has the title manifest.json, or just one in .onnx")
            name = models[0]
        digest = self.files.get(name)
        if digest is None:
            raise BundleError("NotFound", f"{self.uri}: the artifact has no {name}")
        return WebFile(self.uri, self._web, lambda: self._request(f"blobs/{digest}"), self._credentials, digest=digest)

    def _listed(self, document: dict[str, Any]) -> dict[str, str]:
        if document.get("mediaType") in _INDEXES or "manifests" in document:
            raise self._invalid("is an index of several; name the one that is meant by its digest")
        files: dict[str, str] = {}
        for layer in document["layers"]:
            annotations = layer.get("annotations") or {}
            title = annotations.get(_TITLE)
            if title is None:
                continue
            if not isinstance(title, str) or title in files or not _DIGEST.fullmatch(layer["digest"]):
                raise self._invalid(f"has {str(title)[:200]!r} twice, or without a sha256")
            if annotations.get(_UNPACK) == "true":
                raise self._invalid(f"holds {title[:200]!r} as a packed folder; push the files themselves")
            files[title] = layer["digest"]
        return files

    def _manifest(self) -> bytes:
        """The artifact's manifest; who we are is said when the registry asks for it."""
        try:
            path = f"manifests/{self._reference}"
            request = self._request(path)
            with get(request.uri, self._web, headers=request.headers, statuses=(200, 401)) as body:
                raw = body.all(_MAX_BYTES) if body.status == 200 else None
                challenge = body.challenge
            if raw is None:
                self._introduce(challenge)
                request = self._request(path)
                raw = read(
                    request.uri, self._web, _MAX_BYTES, headers=request.headers, authorization=request.authorization
                )
        except BundleError as error:
            error.message = error.message.replace(str(self._url(path)), str(self.uri))
            raise self._credentials.told(error) from None
        found = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        if self._reference.startswith("sha256:") and found != self._reference:
            raise BundleError("DigestMismatch", f"{self.uri}: the registry's manifest is {found}")
        log.info("%s is the artifact %s", self.uri, found)
        return raw

    def _request(self, path: str) -> Request:
        if self._realm is not None and time.monotonic() >= self._ends:
            self._fetch_token(self._realm)
        return Request(self._url(path), {"Accept": _ACCEPT}, self._authorization)

    def _url(self, path: str) -> Uri:
        return replace(self._base, path=f"/v2/{self._repository}/{path}")

    # --- Who we are -------------------------------------------------------------------------------------------------

    def _introduce(self, challenge: str) -> None:
        """Do what the registry's WWW-Authenticate asks for."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "bearer":
            self._realm = self._token_uri(dict(_PARAMETER.findall(rest)))
            self._fetch_token(self._realm)
        elif scheme.lower() == "basic" and (own := self._login()):
            self._authorization = own
        else:
            raise BundleError("AccessDenied", f"{self.uri}: the registry answered 401")

    def _token_uri(self, said: Mapping[str, str]) -> Uri:
        """The token service that the registry names. It may be another host, but never one without TLS."""
        try:
            realm = parse(said["realm"])
        except (KeyError, BundleError):
            raise BundleError("Unreachable", f"{self.uri}: the registry names no token service") from None
        if realm.scheme != "https":
            raise BundleError("AddressRefused", f"{self.uri}: the registry names a token service without TLS")
        asked = {"service": said.get("service", ""), "scope": f"repository:{self._repository}:pull"}
        query = urlencode({name: value for name, value in asked.items() if value})
        return replace(realm, query="&".join(filter(None, (realm.query, query))))

    def _fetch_token(self, realm: Uri) -> None:
        try:
            _, reach = addresses_of(self._base, self._web, Deadline(self._web.connect_seconds))
            public = reach is Reach.PUBLIC
            answer = read(realm, self._web, _MAX_BYTES, authorization=self._login(), from_public=public)
        except BundleError as error:
            raise BundleError(error.reason, f"{self.uri}: {error.message}") from error
        try:
            said = json.loads(answer)
            token, seconds = str(said.get("token") or said["access_token"]), float(said.get("expires_in", 60))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BundleError("Unreachable", f"{self.uri}: the registry's token service gave no token") from None
        self._authorization = f"Bearer {token}"
        self._ends = time.monotonic() + seconds * 0.8

    def _login(self) -> str | None:
        """The Secret's login for this registry."""
        key = ".dockerconfigjson"
        text = self._credentials.key(key)
        if text is None:
            return None
        try:
            for name, entry in json.loads(text)["auths"].items():
                if _registry(name) == (self._base.host, self._base.port):
                    if auth := entry.get("auth"):
                        return basic(*base64.b64decode(auth, validate=True).decode().split(":", 1))
                    return basic(entry["username"], entry["password"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._credentials.unusable(key, "it is not what `docker login` writes") from None
        return None

    def _invalid(self, what: str) -> BundleError:
        return BundleError("Invalid", f"{self.uri}: the artifact {what}")


def _registry(name: str) -> tuple[str, int] | None:
    """Host and port of a key of `auths`: HOST, HOST:PORT, or a URL."""
    try:
        uri = parse(name if "://" in name else f"https://{name}")
    except BundleError:
        return None
    return _ALIASES.get(uri.host, uri.host), uri.port

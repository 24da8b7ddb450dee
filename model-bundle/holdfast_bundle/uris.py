"""The URIs that a spec may name: on a claim, a web server, an object store, or in a registry.

pvc://CLAIM/PATH  http(s)://HOST/PATH  s3://BUCKET/KEY  gs://BUCKET/OBJECT  az://CONTAINER/BLOB  oci://HOST/REPOSITORY:TAG
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from holdfast_bundle.errors import BundleError

CLAIMS = Path("/mnt/claims")
"""Where every pod finds the claims that it mounts, by name."""

MAX_LENGTH = 1024
USABLE = "pvc://CLAIM/PATH, http(s)://HOST/PATH, s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, oci://HOST/REPOSITORY:TAG"

Scheme = Literal["pvc", "http", "https", "s3", "gs", "az", "oci"]
STORES = frozenset({"s3", "gs", "az"})
"""Object stores: a bucket (az: a container) in place of the host, and keys that are taken literally."""

_PORTS = {"http": 80, "https": 443, "oci": 443}
_CLAIM_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_BUCKET_NAME = re.compile(r"[a-z0-9][-a-z0-9._]{1,220}[a-z0-9]")
_REPOSITORY = re.compile(
    r"(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)+(:[A-Za-z0-9_][-A-Za-z0-9._]{0,127}|@sha256:[0-9a-f]{64})?"
)
_HOST_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?\.?")
_ADDRESS_6 = re.compile(r"[0-9A-Fa-f:.]+")
_UNSAFE = re.compile(r"[\s\\\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Uri:
    """A checked URI.

    Attributes:
        host: the claim's or bucket's name, or the host's name or address (IPv6 without brackets), in lower case.
        port: of http(s) and oci, the scheme's own where none is given; 0 for claims and buckets.
        path: begins with `/` or is empty. Of http(s) still percent-encoded, else taken literally; of oci with
            `:TAG` or `@DIGEST`.
        query: of http(s), without `?`.
    """

    scheme: Scheme
    host: str
    port: int
    path: str
    query: str = ""

    def __str__(self) -> str:
        """For messages: without the query, which can hold what is nobody's business."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS.get(self.scheme, 0) else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def target(self) -> str:
        """What an HTTP request line asks for."""
        target = (self.path or "/") + (f"?{self.query}" if self.query else "")
        return quote(target, safe="/?%:@!$&'()*+,;=~-._")

    @property
    def name(self) -> str:
        """The last segment of the path, decoded; empty for a host or claim alone."""
        segment = self.path.rstrip("/").rpartition("/")[2]
        return unquote(segment) if self.scheme in ("http", "https") else segment

    def join(self, name: str) -> Uri:
        """The file `name` (a relative path with `/`) in the folder that this URI is."""
        below = quote(name) if self.scheme in ("http", "https") else name
        return replace(self, path=f"{self.path.rstrip('/')}/{below}")


def parse(uri: str, *, max_length: int = MAX_LENGTH) -> Uri:
    """Read and check a URI.

    Raises:
        BundleError: `Invalid`, with what is wrong. A URI with a user name or password is not repeated in it.
    """
    if not 0 < len(uri) <= max_length:
        raise BundleError("Invalid", f"a URI must have 1 to {max_length} characters, this one has {len(uri)}")
    if _UNSAFE.search(uri) or not uri.isprintable():
        raise BundleError("Invalid", "a URI must not contain blanks, backslashes or control characters")
    scheme, _, rest = uri.partition("://")
    if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        raise BundleError("Invalid", "a URI must not carry a user name or password")
    if "#" in rest:
        raise BundleError("Invalid", f"a URI must not have a fragment (#…): {uri}")
    match scheme:
        case "pvc":
            parsed = _parse_claim(rest)
        case "s3" | "gs" | "az":
            parsed = _parse_bucket(scheme, rest)
        case "http" | "https" | "oci":
            parsed = _parse_host(scheme, uri)
        case _:
            raise BundleError("Invalid", f"not a URI that can be used here; give one of {USABLE}")
    if _climbs(parsed.path):
        raise BundleError("Invalid", f"a URI must not contain '..': {parsed}")
    return parsed


def local_path(uri: str | Uri, claims: Path = CLAIMS) -> Path:
    """Where a pvc:// URI lies in a pod that mounts its claim. Touches no file.

    Raises:
        BundleError: `Invalid`, for another scheme or an unusable URI.
    """
    parsed = parse(uri) if isinstance(uri, str) else uri
    if parsed.scheme != "pvc":
        raise BundleError("Invalid", f"{parsed} is not on a claim (pvc://CLAIM/PATH)")
    return claims / parsed.host / parsed.path.strip("/")


def _parse_claim(rest: str) -> Uri:
    claim, _, path = rest.partition("/")
    if len(claim) > 253 or not _CLAIM_NAME.fullmatch(claim):
        raise BundleError("Invalid", f"pvc://CLAIM/PATH needs a claim's name, not {claim!r}")
    if "?" in path:
        raise BundleError("Invalid", f"a pvc:// URI has no query (?…): pvc://{rest}")
    return Uri("pvc", claim, 0, f"/{path}" if path else "")


def _parse_bucket(scheme: Literal["s3", "gs", "az"], rest: str) -> Uri:
    bucket, _, path = rest.partition("/")
    if not _BUCKET_NAME.fullmatch(bucket):
        what = "CONTAINER" if scheme == "az" else "BUCKET"
        raise BundleError("Invalid", f"{scheme}://{what}/PATH needs the name of a {what.lower()}, not {bucket!r}")
    path = path.strip("/")
    if "?" in path or "//" in path or "." in path.split("/"):
        raise BundleError("Invalid", f"a {scheme}:// URI has no query (?…), and no empty or '.' segment")
    return Uri(scheme, bucket, 0, f"/{path}" if path else "")


def _parse_host(scheme: Literal["http", "https", "oci"], uri: str) -> Uri:
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BundleError("Invalid", f"not a URI that can be used here: {error}") from error
    pattern = _ADDRESS_6 if ":" in host else _HOST_NAME
    if len(host) > 253 or not pattern.fullmatch(host):
        raise BundleError("Invalid", f"{scheme}://HOST/PATH needs a host name or an address, not {host!r}")
    if port == 0:
        raise BundleError("Invalid", f"port 0 cannot be connected to: {scheme}://{host}")
    if scheme == "oci" and (parts.query or not _REPOSITORY.fullmatch(parts.path)):
        raise BundleError("Invalid", "an artifact is named oci://HOST[:PORT]/REPOSITORY[:TAG or @sha256:…]")
    return Uri(scheme, host, port or _PORTS[scheme], parts.path, parts.query)


def _climbs(path: str) -> bool:
    """Whether a segment is `..`, however often it was percent-encoded."""
    while (decoded := unquote(path)) != path:
        path = decoded
    return ".." in re.split(r"[/\\]", path) or "\x00" in path

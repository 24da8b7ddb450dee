"""Which files are the data, and in which version, without reading them.

Names that begin with `.` or `_` are marks of the programs that write data (`_SUCCESS`, `_temporary/`). One mark is
heeded: where a folder has a `_manifest.json`, the files that it lists are the data, and what else lies there is not.
A folder of a web server, which cannot be listed, needs one.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_file
from holdfast_bundle.listing import MAX_FILES, listing
from holdfast_bundle.place import Entry, is_below
from holdfast_bundle.uris import CLAIMS, Uri
from holdfast_bundle.web import Web
from holdfast_training.errors import Finding, Reason, TrainingError, data_invalid

MANIFEST = "_manifest.json"
_MAX_MANIFEST_BYTES = 16 << 20
_REASONS: dict[str, Reason] = {
    "NotFound": "DataNotFound",
    "AccessDenied": "DataAccessDenied",
    "Unreachable": "DataUnreachable",
    "AddressRefused": "AddressRefused",
    "SecretNotFound": "SecretNotFound",
    "SecretInvalid": "SecretInvalid",
}
PRODUCTION = Web()


@dataclass(frozen=True, slots=True)
class Files:
    """The data's files by name, sorted.

    Attributes:
        single: the URI is the file itself, not a folder with it.
        sizes: in bytes; None where the list does not tell.
        version: another one means other data. None where a web server tells neither an ETag nor a time of change.
        promised: digests of files that the manifest promises.
    """

    single: bool
    names: tuple[str, ...]
    sizes: tuple[int | None, ...]
    version: str | None
    promised: dict[str, str]


def files_of(uri: Uri, *, web: Web = PRODUCTION, claims: Path = CLAIMS, credentials: Credentials = NOBODY) -> Files:
    """What is there now.

    Raises:
        BundleError: as `holdfast_bundle.listing`; `Invalid` for a manifest that is none, or a folder of a web server
            that has none.
    """
    if uri.scheme in ("http", "https") and uri.path.endswith("/"):
        return _from_manifest(uri, web, claims, credentials)
    found = listing(uri, web=web, claims=claims, credentials=credentials)
    if not found.single and any(entry.name == MANIFEST for entry in found.entries):
        return _from_manifest(uri, web, claims, credentials)
    entries = found.entries if found.single else [entry for entry in found.entries if not _is_mark(entry.name)]
    names, sizes = tuple(entry.name for entry in entries), tuple(entry.size for entry in entries)
    return Files(found.single, names, sizes, _version(entries), {})


@contextmanager
def described() -> Iterator[None]:
    """A BundleError of finding or fetching data, as TrainingError."""
    try:
        yield
    except BundleError as error:
        if error.reason not in _REASONS:
            raise data_invalid([Finding("NotReadable", error.message)]) from error
        raise TrainingError(_REASONS[error.reason], error.message) from error


def _is_mark(name: str) -> bool:
    """Also what lies in a folder that is one. A partition's folder, `key=value`, is none whatever its key."""
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in name.split("/"))


def _version(entries: Sequence[Entry]) -> str | None:
    if any(not entry.stamp for entry in entries):
        return None
    lines = [json.dumps([entry.name, entry.size, entry.stamp]) for entry in entries]
    return _sha256("\n".join(lines).encode())


def _from_manifest(uri: Uri, web: Web, claims: Path, credentials: Credentials) -> Files:
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        path = Path(folder) / MANIFEST
        try:
            fetch_file(
                uri.join(MANIFEST),
                path,
                limit=_MAX_MANIFEST_BYTES,
                web=web,
                claims=claims,
                credentials=credentials,
            )
        except BundleError as error:
            if error.reason == "NotFound":
                error.message += "; a web server lists no folder, so a folder there needs this file"
            raise
        text = path.read_bytes()
    listed = _listed(uri, text)
    promised = {name: promise for name, promise in listed.items() if promise}
    return Files(False, tuple(sorted(listed)), (None,) * len(listed), _sha256(text), promised)


def _listed(uri: Uri, text: bytes) -> dict[str, str | None]:
    """Names, with the digest that the manifest promises if it does."""

    def unusable(why: str) -> BundleError:
        return BundleError("Invalid", f"{uri.join(MANIFEST)} cannot be used: {why}")

    try:
        items: Any = json.loads(text)["files"]
        pairs = [(str(item["name"]), item.get("sha256")) for item in items]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise unusable('it is not {"files": [{"name": "…"}, …]}') from None
    if not pairs or len(pairs) > MAX_FILES:
        raise unusable(f"it lists {len(pairs):,} files; 1 to {MAX_FILES:,} can be read")
    for name, promise in pairs:
        if not is_below(name):
            raise unusable("a name in it is not that of a file below its folder")
        if promise is not None and not _is_sha256(promise):
            raise unusable("a sha256 in it is not 64 hex digits")
    if len(dict(pairs)) < len(pairs):
        raise unusable("it lists a name twice")
    return {name: promise and f"sha256:{promise}" for name, promise in pairs}


def _is_sha256(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and not set(text) - set("0123456789abcdef")


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"

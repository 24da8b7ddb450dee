"""What lies where a URI leads to, without reading it: names, sizes, and what changes when the content does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from holdfast_bundle.claim import claim_path, failed
from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import place_of
from holdfast_bundle.place import Entry, is_below
from holdfast_bundle.stores import Bucket
from holdfast_bundle.uris import CLAIMS, Uri
from holdfast_bundle.web import Body, Web
from holdfast_bundle.webfile import Site

MAX_FILES = 100_000

_MAX_DEPTH = 16

_PRODUCTION = Web()


@dataclass(frozen=True, slots=True)
class Listing:
    """Files, sorted by name.

    Attributes:
        single: it is one file, not a folder with one.
    """

    single: bool
    entries: tuple[Entry, ...]


def listing(uri: Uri, *, web: Web = _PRODUCTION, claims: Path = CLAIMS, credentials: Credentials = NOBODY) -> Listing:
    """What is there now. A folder is listed to its depths; links are followed inside their claim.

    Raises:
        BundleError: `NotFound`, `AccessDenied`, `Unreachable`, `AddressRefused`, `SecretNotFound`, `SecretInvalid`,
            or `Invalid` (a folder of a web server, more than `MAX_FILES` files).
    """
    if uri.scheme == "pvc":
        root = claim_path(uri, claims)
        if root.is_dir():
            return _folder(uri, _below(uri, root, claims))
        return _file(uri, root)
    place = place_of(uri, web, claims, credentials)
    if isinstance(place, Bucket):
        if uri.path and (head := place.head()):
            return Listing(True, (_told(uri, head),))
        found = _folder(uri, place.entries())
        if not found.entries:
            raise BundleError("NotFound", f"{uri}: there is neither such an object nor one below it")
        return found
    if not isinstance(place, Site):
        raise BundleError("Invalid", f"{uri} is no place for files")
    if uri.path.endswith("/"):
        raise BundleError("Invalid", f"{uri}: a web server does not list a folder")
    return Listing(True, (_told(uri, place.head()),))


def _told(uri: Uri, head: Body) -> Entry:
    return Entry(uri.name, head.size, head.stamp)


def _folder(uri: Uri, entries: Iterable[Entry]) -> Listing:
    found = sorted(islice(entries, MAX_FILES + 1), key=lambda entry: entry.name)
    if len(found) > MAX_FILES:
        raise BundleError("Invalid", f"{uri} holds more than {MAX_FILES:,} files")
    if any(not is_below(entry.name) for entry in found):
        raise BundleError("Invalid", f"{uri} holds an object whose name cannot be that of a file")
    return Listing(False, tuple(found))


def _file(uri: Uri, path: Path) -> Listing:
    if not path.is_file():
        raise BundleError("Invalid", f"{uri} is neither a file nor a folder")
    return Listing(True, (_entry(uri.name or path.name, path),))


def _below(uri: Uri, folder: Path, claims: Path, prefix: str = "", depth: int = 0) -> Iterator[Entry]:
    if depth > _MAX_DEPTH:
        raise BundleError("Invalid", f"{uri} has folders more than {_MAX_DEPTH} deep; does a link lead back into it?")
    try:
        names = os.listdir(folder)
    except OSError as error:
        failed(uri, error)
    for name in names:
        inner = claim_path(uri.join(f"{prefix}{name}"), claims)
        if inner.is_dir():
            yield from _below(uri, inner, claims, f"{prefix}{name}/", depth + 1)
        elif inner.is_file():
            yield _entry(f"{prefix}{name}", inner)


def _entry(name: str, path: Path) -> Entry:
    status = path.stat()
    return Entry(name, status.st_size, str(status.st_mtime_ns))

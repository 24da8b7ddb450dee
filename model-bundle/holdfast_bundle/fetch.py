"""Bring a file or a model into a folder of this pod."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from holdfast_bundle import manifest
from holdfast_bundle.claim import Claim, claim_path
from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.download import Progress, Target, TooLargeError, download
from holdfast_bundle.errors import BundleError
from holdfast_bundle.onnx_safety import MAX_MODEL_BYTES
from holdfast_bundle.place import Place, is_below
from holdfast_bundle.uris import CLAIMS, STORES, Uri, parse
from holdfast_bundle.web import Web
from holdfast_bundle.webfile import Site

__all__ = ["Progress", "claim_path", "fetch_file", "fetch_files", "fetch_model", "place_of"]

MAX_FILE_BYTES = 64 << 30
MAX_MANIFEST_BYTES = 4 << 20

_PRODUCTION = Web()


def fetch_model(
    uri: str | Uri,
    folder: Path,
    *,
    progress: Progress | None = None,
    web: Web = _PRODUCTION,
    claims: Path = CLAIMS,
    credentials: Credentials = NOBODY,
) -> Path:
    """Bring a model into `folder` (made if missing) and return its path there.

    A file whose name ends in .onnx, or any file on a claim, is a bare model: the path of `model.onnx`. Everything
    else is a bundle: the folder, with manifest.json and every file that it lists. `verify` checks digests.

    Raises:
        BundleError: as `fetch_file`, `SecretNotFound` for credentials that are not there; `Invalid` when the
            manifest lists a file that is not there, `DigestMismatch` when one has another size than it says.
    """
    uri = parse(uri) if isinstance(uri, str) else uri
    place = place_of(uri, web, claims, credentials)
    if place.single:
        model = Target(place.file(), folder / manifest.MODEL, MAX_MODEL_BYTES)
        _download([model], web, progress)
        _check_promise(model)
        return model.path
    listing = Target(place.file(manifest.MANIFEST), folder / manifest.MANIFEST, MAX_MANIFEST_BYTES, _no_manifest)
    _download([listing], web)
    _check_promise(listing)
    files = manifest.read(folder).files
    targets = {name: _listed(place, uri, folder, name, file) for name, file in files.items()}
    _download(list(targets.values()), web, progress, sum(file.size for file in files.values()))
    for name, target in targets.items():
        if target.size != files[name].size:
            says = f"manifest.json says {files[name].size}"
            raise BundleError("DigestMismatch", f"{uri}: {name} has {target.size} bytes, {says}")
    return folder


def fetch_file(
    uri: str | Uri,
    destination: Path,
    *,
    progress: Progress | None = None,
    limit: int = MAX_FILE_BYTES,
    web: Web = _PRODUCTION,
    claims: Path = CLAIMS,
    credentials: Credentials = NOBODY,
) -> int:
    """Bring one file to `destination`, which appears whole or not at all; its bytes.

    Raises:
        BundleError: `NotFound`, `AccessDenied`, `Unreachable`, `AddressRefused`, `SecretNotFound`, `SecretInvalid`,
            or `Invalid` (not a file, more than `limit` bytes, encoded in a way that was not asked for).
    """
    uri = parse(uri) if isinstance(uri, str) else uri
    if uri.scheme == "oci":
        raise BundleError("Invalid", f"{uri}: a registry holds models, not files")
    target = Target(place_of(uri, web, claims, credentials).file(), destination, limit)
    _download([target], web, progress)
    return target.size


def fetch_files(
    uri: Uri,
    names: Iterable[str],
    folder: Path,
    *,
    web: Web = _PRODUCTION,
    claims: Path = CLAIMS,
    credentials: Credentials = NOBODY,
) -> None:
    """Bring files of the folder that a URI is into `folder`, all of them or none.

    Raises:
        BundleError: as `fetch_file`; `Invalid` for a name that leads out of `folder`.
    """
    names = list(names)
    if any(not is_below(name) for name in names):
        raise BundleError("Invalid", f"{uri} holds a file whose name leads out of it")
    place = place_of(uri, web, claims, credentials)
    _download([Target(place.file(name), folder / name, MAX_FILE_BYTES) for name in names], web)


def place_of(uri: Uri, web: Web, claims: Path, credentials: Credentials) -> Place:
    """What a URI leads to. Modules that only some URIs need are imported here."""
    if uri.scheme == "pvc":
        return Claim(uri, claims)
    web = _trusting(web, credentials)
    if uri.scheme in STORES:
        from holdfast_bundle.stores import Bucket

        return Bucket(uri, web, credentials)
    if uri.scheme == "oci":
        from holdfast_bundle.oci import Artifact

        return Artifact(uri, web, credentials)
    return Site(uri, web, credentials)


def _trusting(web: Web, credentials: Credentials) -> Web:
    """With the Secret's own authority, if it has one."""
    tls = credentials.tls()
    return web if tls is None else replace(web, tls=tls)


def _download(targets: Sequence[Target], web: Web, progress: Progress | None = None, total: int | None = None) -> None:
    download(targets, connections=web.connections, part_bytes=web.part_bytes, progress=progress, total=total)


def _no_manifest(error: BundleError) -> BundleError:
    if error.reason != "NotFound":
        return error
    hint = "a model is a folder with manifest.json, or a file whose name ends in .onnx"
    return BundleError("NotFound", f"{error.message}; {hint}")


def _check_promise(target: Target) -> None:
    """Whether a file is what its address promised."""
    promised = target.file.digest
    if promised and (found := manifest.digest_file(target.path)) != promised:
        raise BundleError(
            "DigestMismatch", f"{target.file.uri}: {target.path.name} is {found}, promised was {promised}"
        )


def _listed(place: Place, uri: Uri, folder: Path, name: str, listed: manifest.File) -> Target:
    """A file that the manifest lists. Its content is for `verify` to check."""

    def explain(error: BundleError) -> BundleError:
        if isinstance(error, TooLargeError):
            more = f"{name} has more than the {listed.size} bytes that manifest.json says"
            return BundleError("DigestMismatch", f"{uri}: {more}")
        if error.reason == "NotFound":
            return BundleError("Invalid", f"{uri}: manifest.json lists {name}, which is not there")
        return error

    try:
        file = place.file(name)
    except BundleError as error:
        raise explain(error) from error
    if file.digest and file.digest != f"sha256:{listed.sha256}":
        raise BundleError(
            "DigestMismatch", f"{uri}: {name} is {file.digest}, manifest.json says sha256:{listed.sha256}"
        )
    return Target(file, folder / name, listed.size, explain)

"""Is this the model that was asked for, whole and unaltered?"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from holdfast_bundle import manifest
from holdfast_bundle.errors import BundleError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def verify(path: Path, digest: str | None) -> str:
    """Check a bundle folder or a bare model file and return its digest.

    The digest pins manifest.json, and that pins every file it lists, so all of them are read. Other files
    are not looked at.

    Args:
        digest: what it must be (`sha256:` and 64 hex digits); None when that is what is to be found out.

    Raises:
        BundleError: `DigestMismatch` with both digests, or `Invalid`: no such file, not a file, no manifest.
    """
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise BundleError("Invalid", f"a digest is sha256: and 64 hex digits, not {digest!r}")
    if not path.is_dir():
        return _compare(path.name, path, digest)
    found = _compare(manifest.MANIFEST, path / manifest.MANIFEST, digest)
    for name, file in manifest.read(path).files.items():
        size = _regular(name, path / name)
        if size != file.size:
            raise BundleError("DigestMismatch", f"{name} has {size} bytes, manifest.json says {file.size}")
        actual = manifest.digest_file(path / name)
        if actual != f"sha256:{file.sha256}":
            raise BundleError("DigestMismatch", f"{name} is {actual}, manifest.json says sha256:{file.sha256}")
    return found


def _compare(name: str, path: Path, expected: str | None) -> str:
    _regular(name, path)
    actual = manifest.digest_file(path)
    if expected is not None and actual != expected:
        raise BundleError("DigestMismatch", f"{name} is {actual}, asked for was {expected}")
    return actual


def _regular(name: str, path: Path) -> int:
    """The size of a plain file; BundleError `Invalid` for everything else, links included."""
    try:
        status = path.lstat()
    except OSError as error:
        raise BundleError("Invalid", f"{name} is not there") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError("Invalid", f"{name} is not a plain file")
    return status.st_size

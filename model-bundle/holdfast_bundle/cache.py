"""Models by digest in a folder on a claim that pods share, so that one of them fetches and the others copy.

    FOLDER/HEX/manifest.json …  a bundle        FOLDER/HEX/model.onnx  a bare model

An entry appears whole, by a rename, and is verified at every use: whoever can write to the claim can spoil the time
that it saves, and nothing else. Whatever is wrong with the cache, a pod goes on without it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from holdfast_bundle import manifest
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_model
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.verify import verify

log = logging.getLogger(__name__)

FOLDER = "holdfast-models"
UNUSED_SECONDS = 30 * 86400.0
"""An entry that nobody has used for so long is removed when another one comes."""
WAIT_SECONDS = 300.0
"""So long a pod waits for another one that fetches the same model."""

_LEFTOVER_SECONDS = 86400.0
_LOCKS = 64
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Volume(NamedTuple):
    """Bytes of the claim's volume."""

    total: int
    free: int


class Cache:
    """The models on one claim."""

    def __init__(self, claim: str, claims: Path = CLAIMS) -> None:
        self._claim, self._claims = claim, claims
        self._root = claims / claim / FOLDER

    def fetch(self, digest: str | None, folder: Path, fetch: Callable[[], Path]) -> tuple[Path, str]:
        """A verified model in `folder` (made if missing), and its digest.

        Args:
            digest: that it must have. None: it is to be found out, so that nothing can be known of it here.
            fetch: brings it into `folder` from where it really is.

        Raises:
            BundleError: as `fetch` and `verify` raise it.
        """
        if digest is None or not _DIGEST.fullmatch(digest):
            path = fetch()
            found = verify(path, digest)
            self._keep(path, found)
            return path, found
        if kept := self._copied(digest, folder):
            return kept, digest
        with self._alone(digest) as waited:
            if waited and (kept := self._copied(digest, folder)):
                return kept, digest
            path = fetch()
            verify(path, digest)
            self._keep(path, digest)
            return path, digest

    def _copied(self, digest: str, folder: Path) -> Path | None:
        """The model in `folder` if it was here, whole."""
        entry = self._entry(digest)
        if not entry.is_dir():
            return None
        name = "" if (entry / manifest.MANIFEST).exists() else f"/{manifest.MODEL}"
        try:
            path = fetch_model(f"pvc://{self._claim}/{FOLDER}/{entry.name}{name}", folder, claims=self._claims)
            verify(path, digest)
        except BundleError as error:
            log.warning("what the cache has of %s cannot be used and is removed: %s", digest, error.message)
            self._remove(entry)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)
        log.info("%s comes from the cache on claim %s", digest, self._claim)
        return path

    def _keep(self, path: Path, digest: str) -> None:
        """Put a verified model here, if there is room for it or can be made."""
        entry = self._entry(digest)
        files = [path] if path.is_file() else [path / name for name in (manifest.MANIFEST, *manifest.read(path).files)]
        folder = path.parent if path.is_file() else path
        try:
            self._root.mkdir(exist_ok=True)
            if entry.exists() or not self._has_room(sum(file.stat().st_size for file in files)):
                return
            new = Path(tempfile.mkdtemp(dir=self._root, prefix=".new-"))
            try:
                for file in files:
                    _copy(file, new / file.relative_to(folder))
                new.chmod(0o755)
                new.rename(entry)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another pod was faster
                log.warning("%s is not kept in the cache on claim %s: %s", digest, self._claim, error.strerror)

    def _has_room(self, size: int) -> bool:
        """Whether `size` bytes fit, after what nobody uses, and then what was not used for longest, is gone."""
        now = time.time()
        found = [(path.stat().st_mtime, path) for path in self._root.iterdir() if path.is_dir()]
        entries = sorted((used, path) for used, path in found if not path.name.startswith("."))
        for used, path in found:
            if path.name.startswith(".") and now - used > _LEFTOVER_SECONDS:
                shutil.rmtree(path, ignore_errors=True)  # of a pod that was killed
        fits = size <= self._volume().total * 19 // 20  # else nothing needs to go for it
        while entries and (now - entries[0][0] > UNUSED_SECONDS or (fits and self._free() < size)):
            _, oldest = entries.pop(0)
            log.info("the cache on claim %s lets %s go", self._claim, oldest.name)
            self._remove(oldest)
        if self._free() >= size:
            return True
        log.warning("the cache on claim %s has no room for %d bytes", self._claim, size)
        return False

    def _free(self) -> int:
        """Bytes, with a twentieth of the volume left to others."""
        volume = self._volume()
        return volume.free - volume.total // 20

    def _volume(self) -> Volume:
        usage = shutil.disk_usage(self._root)
        return Volume(usage.total, usage.free)

    def _remove(self, entry: Path) -> None:
        """Away at once for those who come, and then the files."""
        with contextlib.suppress(OSError):
            gone = Path(tempfile.mkdtemp(dir=self._root, prefix=".old-"))
            with contextlib.suppress(OSError):
                entry.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self, digest: str) -> Iterator[bool]:
        """Be the one pod that fetches this model; whether another one was waited for.

        The kernel takes the lock from a process that dies. Where there are no locks, or after `WAIT_SECONDS`, several
        fetch the same: that costs time and nothing else.
        """
        waited = False
        with contextlib.ExitStack() as stack:
            try:
                self._root.mkdir(exist_ok=True)
                lock = self._root / f".lock-{int(self._entry(digest).name[:8], 16) % _LOCKS}"
                file = stack.enter_context(open(lock, "ab"))
                end = time.monotonic() + WAIT_SECONDS
                while time.monotonic() < end:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if not waited:
                            log.info("another pod is fetching %s for the cache; waiting for it", digest)
                        waited = True
                        time.sleep(0.2)
            except OSError as error:
                log.warning("the cache on claim %s has no locks: %s", self._claim, error.strerror)
            yield waited

    def _entry(self, digest: str) -> Path:
        return self._root / digest.removeprefix("sha256:")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(source, "rb") as read, open(target, "xb") as written:
        shutil.copyfileobj(read, written, 1 << 20)
        written.flush()
        os.fsync(written.fileno())

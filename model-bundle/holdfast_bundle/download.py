"""Several files at once, each in several parts, however often a connection breaks.

A file is asked for as a whole. Where the answer is long and says that parts of this very content can be had, the first
part is taken from it and the others are asked for beside each other. A part whose connection breaks goes on where it
stopped. What was one file at the start can never become a mixture of two: parts are asked for by version.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from holdfast_bundle.errors import BundleError, FinalError
from holdfast_bundle.uris import Uri

log = logging.getLogger(__name__)

RETRIES = 5
"""Failures in a row, without a byte between them, that one part may have."""

_CHUNK = 1 << 20
_FIRST_PAUSE_SECONDS = 0.2

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and those expected (None: not known)."""


class Part(Protocol):
    """Bytes of a file, to be read once."""

    @property
    def size(self) -> int | None:
        """Of the whole file; None when it is not known."""
        ...

    @property
    def version(self) -> str | None:
        """With which parts of this very content can be asked for; None when they cannot."""
        ...

    def read(self, amount: int, /) -> bytes:
        """At most `amount` bytes, empty at the end. Raises BundleError `Unreachable`."""
        ...


class File(Protocol):
    """A file somewhere.

    Attributes:
        digest: `sha256:` and hex that its address promises; empty where it promises nothing.
    """

    @property
    def uri(self) -> Uri: ...

    @property
    def digest(self) -> str: ...

    def open(self, start: int = 0, end: int | None = None, version: str | None = None) -> AbstractContextManager[Part]:
        """The bytes from `start` to `end`, of that version if one is given. Raises BundleError."""
        ...


class TooLargeError(BundleError):
    """A file has more bytes than it may."""


def _as_it_is(error: BundleError) -> BundleError:
    return error


@dataclass(slots=True, eq=False)
class Target:
    """A file and where it is to lie.

    Attributes:
        limit: bytes that it may have.
        explain: what its failure means to the reader.
        size: bytes that it has, once it is there.
    """

    file: File
    path: Path
    limit: int
    explain: Callable[[BundleError], BundleError] = _as_it_is
    size: int = 0
    partial: str = ""


@dataclass(slots=True, eq=False)
class _Piece:
    """Bytes of a target from `at`, where it has come to, to `end`; None: it is not known yet how many there are."""

    target: Target
    at: int = 0
    end: int | None = None
    version: str | None = None


def download(
    targets: Sequence[Target],
    *,
    connections: int,
    part_bytes: int,
    progress: Progress | None = None,
    total: int | None = None,
) -> None:
    """Bring all targets to their paths, each of which appears whole, or none of them.

    Args:
        connections: at most so many at a time; each holds about a MiB.
        total: bytes that are expected, for `progress`. Of a single file its own size will do.

    Raises:
        BundleError: that of the first target that fails, as it explains it.
    """
    try:
        for target in targets:
            with _disk(target):
                target.path.parent.mkdir(parents=True, exist_ok=True)
                descriptor, target.partial = tempfile.mkstemp(dir=target.path.parent, prefix=".partial-")
                os.close(descriptor)
        _Download(part_bytes, progress, total).run(targets, connections)
        for target in targets:
            with _disk(target):
                os.replace(target.partial, target.path)
                target.partial = ""
    finally:
        for target in targets:
            if target.partial:
                with contextlib.suppress(OSError):
                    os.unlink(target.partial)


class _Download:
    """What the pieces of one download share. Its threads call `_fetch`; the one that made it waits in `run`."""

    def __init__(self, part_bytes: int, progress: Progress | None, total: int | None) -> None:
        self._part_bytes = part_bytes
        self._progress = progress
        self._total = total
        self._received = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def run(self, targets: Sequence[Target], connections: int) -> None:
        with ThreadPoolExecutor(connections, thread_name_prefix="fetch") as pool:
            waiting = {pool.submit(self._fetch, _Piece(target)) for target in targets}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        waiting |= {pool.submit(self._fetch, piece) for piece in future.result()}
            except BaseException:
                self._stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _fetch(self, piece: _Piece) -> list[_Piece]:
        """Bring a piece; the others that its file turned out to have."""
        target, others, failures = piece.target, [], 0
        with _disk(target), open(target.partial, "r+b") as out:
            while True:
                reached = piece.at
                try:
                    with target.file.open(piece.at, piece.end, piece.version) as part:
                        if piece.end is None:
                            others = self._measured(piece, part)
                        self._copy(piece, part, out)
                    return others
                except BundleError as error:
                    failures = 1 if piece.at > reached else failures + 1
                    if failures > RETRIES or not self._may_go_on(piece, error):
                        raise target.explain(error) from error
                    log.info("%s; going on at byte %d", error.message, piece.at)
                self._stopped.wait(_FIRST_PAUSE_SECONDS * 2**failures * random.uniform(0.5, 1))  # noqa: S311

    def _may_go_on(self, piece: _Piece, error: BundleError) -> bool:
        """Whether this is a hiccup: something has come already, and the rest of the same can be asked for."""
        if error.reason != "Unreachable" or isinstance(error, FinalError) or self._stopped.is_set():
            return False
        return piece.version is not None if piece.at else self._received > 0

    def _measured(self, piece: _Piece, part: Part) -> list[_Piece]:
        """Make room for a file that has begun to come; the pieces beside `piece`, which is cut to the first."""
        target, size = piece.target, part.size
        if size is None:
            return []
        if size > target.limit:
            raise _too_large(target)
        free = shutil.disk_usage(target.path.parent).free
        if size > free:
            raise BundleError(
                "Unreachable", f"{target.file.uri}: no room for its {size} bytes on the pod's disk, which has {free}"
            )
        os.truncate(target.partial, size)
        target.size = size
        piece.version = part.version
        piece.end = min(size, self._part_bytes) if part.version else size
        starts = range(piece.end, size, self._part_bytes)
        return [_Piece(target, start, min(start + self._part_bytes, size), part.version) for start in starts]

    def _copy(self, piece: _Piece, part: Part, out: BinaryIO) -> None:
        """Read a piece to its end."""
        target = piece.target
        out.seek(piece.at)
        while piece.end is None or piece.at < piece.end:
            chunk = part.read(_CHUNK if piece.end is None else min(_CHUNK, piece.end - piece.at))
            if self._stopped.is_set():
                raise BundleError("Unreachable", f"{target.file.uri}: given up, since another file failed")
            if not chunk:
                if piece.end is None:
                    target.size = piece.at
                    return
                whole = f"it ended after {piece.at} of {target.size} bytes"
                raise BundleError("Unreachable", f"{target.file.uri}: {whole}")
            if piece.at + len(chunk) > target.limit:
                raise _too_large(target)
            out.write(chunk)
            piece.at += len(chunk)
            self._count(len(chunk), target.size or None)

    def _count(self, new: int, size: int | None) -> None:
        with self._lock:
            self._received += new
            if self._progress is not None:
                self._progress(self._received, self._total or size)


def _too_large(target: Target) -> TooLargeError:
    return TooLargeError("Invalid", f"{target.file.uri} has more than the {target.limit} bytes that are allowed")


@contextlib.contextmanager
def _disk(target: Target) -> Iterator[None]:
    """Failures of this pod's disk as BundleError."""
    try:
        yield
    except OSError as error:
        uri = target.file.uri
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise BundleError("Unreachable", f"{uri}: no room for it on the pod's disk") from error
        if error.errno in (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise BundleError("Invalid", f"{uri}: the name cannot be used ({error.strerror})") from error
        raise BundleError("Unreachable", f"{uri}: copying failed ({error.strerror})") from error

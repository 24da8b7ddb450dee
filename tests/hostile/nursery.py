"""The probe, and what the server does with a model behind it, in forks of one process that has imported everything.

Starting the interpreter and the runtime takes longer than looking at a small model. Everything else is the real
thing: the probe's own function with its own limits, and the server's own loading.

As a program it takes JSON lines {"what", "path", "seconds", "memory"} and answers each with {"code", "said", "peak"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from holdfast_bundle import manifest
from holdfast_bundle.errors import BundleError
from holdfast_serving import probe

MEMORY = 512 << 20
_REFUSED = 3


class Nursery:
    """The parent's side. One model at a time.

    Attributes:
        patience: seconds that the next probes may take.
        peak: bytes that the last fork had.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.hostile.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the runtime's complaints
            env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **probe.SINGLE},
            text=True,
        )
        self.peak = 0
        self.patience = 20.0

    def probe(self, path: Path) -> None:
        """As `holdfast_serving.probe.probe` does it. Raises BundleError `Invalid`."""
        self._judge("probe", path, self.patience)

    def serve(self, path: Path, *, seconds: float = 60) -> None:
        """Load a model that has passed the probe, with the bundle around it if there is one, and answer a request.

        Raises BundleError `Invalid` when it is refused; AssertionError when it does what would end a server.
        """
        try:
            self._judge("serve", path, seconds)
        except BundleError as error:
            if "crashes" in error.message or "takes more than" in error.message:
                raise AssertionError(error.message) from error
            raise

    def _judge(self, what: str, path: Path, seconds: float) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"what": what, "path": str(path), "seconds": seconds, "memory": MEMORY}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.peak = answer["peak"]
        if answer["code"] == -signal.SIGALRM:
            raise BundleError("Invalid", f"{what} takes more than {seconds:g} s")
        probe.judge(answer["code"], answer["said"].encode(), seconds)
        assert answer["code"] == 0, answer["said"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def _probe(path: Path, memory: int, seconds: float) -> int:
    return probe.attempt(path, memory, seconds, os.getppid())


def _serve(path: Path, memory: int, seconds: float) -> int:
    """What the server does from the probe on until it is ready, and a request."""
    from holdfast_serving import load, rows

    bundle = manifest.read(path.parent) if (path.parent / manifest.MANIFEST).exists() else None
    fetched = load.Fetched(path.parent, path, "", bundle, path.stat().st_size, {})
    try:
        loaded = load.load(fetched, "m", "1", cpus=1)
    except BundleError as error:
        print(json.dumps({"message": error.message}))
        return _REFUSED
    loaded.metadata("m", "1", 256)
    with contextlib.suppress(Exception):  # an error is an answer
        loaded.model.run(rows.made_up(loaded.model.signature, 1)[0])
    return 0


_WORK: dict[str, Callable[[Path, int, float], int]] = {"probe": _probe, "serve": _serve}


def _child(what: str, path: Path, memory: int, seconds: float, out: int) -> None:
    """Never returns."""
    os.dup2(out, 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    code = 70
    try:
        code = _WORK[what](path, memory, seconds)
        sys.stdout.flush()
    except BaseException:
        os.write(1, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _run(what: str, path: str, memory: int, seconds: float) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(what, Path(path), memory, seconds, writer)
    os.close(writer)
    ends, said, late = time.monotonic() + seconds, b"", False
    while True:
        left = ends - time.monotonic()
        ready, _, _ = select.select([reader], [], [], max(left, 0))
        if not ready:
            late = True
            os.kill(pid, signal.SIGKILL)
            break
        data = os.read(reader, 1 << 16)
        if not data:
            break
        said += data
    os.close(reader)
    _, status, used = os.wait4(pid, 0)
    code = -signal.SIGALRM if late else os.waitstatus_to_exitcode(status)
    return {"code": code, "said": said.decode(errors="replace"), "peak": used.ru_maxrss << 10}


def main() -> None:
    from holdfast_serving import load, rows, session  # noqa: F401 - imported once for all forks

    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_run(**request)), flush=True)


if __name__ == "__main__":
    main()

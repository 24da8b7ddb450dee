"""Load and try a model in a process that may die.

The runtime parses models in native code. A hostile or broken file can crash it, hang it, or make it ask for all
memory there is. Here that costs a process with limits of its own; the server sees an exit status.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_bundle.errors import BundleError
from holdfast_serving import cgroup

if TYPE_CHECKING:
    from holdfast_serving.session import Model

PROBE_SECONDS = 300
"""CPU and wall time. The largest models take a minute."""

_BASE_BYTES = 384 << 20
"""Address space of the interpreter and the runtime; about half of it is needed."""

SINGLE = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Environment of a probe: each thread and each arena would take address space."""

_INVALID_EXIT = 3
_EXTREMES_SECONDS = 2
_NO_MEMORY = re.compile("bad_alloc|[Ff]ailed to allocate")  # the runtime's ways to say so
_CRASHES = {signal.SIGFPE, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL}
_PR_SET_PDEATHSIG = 1  # the kernel ends this process with the one that started it


def probe(path: Path, *, seconds: float = PROBE_SECONDS, memory: int | None = None) -> None:
    """Load the model and try it, somewhere else.

    Args:
        memory: bytes that it may take; None for most of what the container, or else the machine, has.

    Raises:
        BundleError: `Invalid`: it cannot be loaded, crashes the runtime (also with values that any client may
            send), or takes more than these limits.
    """
    memory = memory or _allowance()
    arguments = [str(path), str(memory), str(seconds), str(os.getpid())]
    command = [sys.executable, "-P", "-m", "holdfast_serving.probe", *arguments]
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **SINGLE}
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError("Invalid", f"loading the model and trying it takes more than {seconds:g} s") from error
    judge(done.returncode, done.stdout, seconds)
    if done.returncode != 0:
        raise RuntimeError(f"the probe failed: {done.stderr.decode(errors='replace')[-2000:]}")


def judge(code: int, said: bytes, seconds: float) -> None:
    """What the end of a probe means.

    Args:
        code: its exit code, or the negative number of the signal that ended it.
        said: its standard output.

    Raises:
        BundleError: `Invalid`.
    """
    if code == _INVALID_EXIT:
        raise BundleError("Invalid", json.loads(said.splitlines()[-1])["message"])
    if code == -signal.SIGXCPU:
        raise BundleError("Invalid", f"loading the model and trying it takes more than {seconds:g} s of CPU")
    if code == -signal.SIGKILL:  # the kernel, or whoever watches over the container's memory
        raise BundleError("Invalid", "trying the model takes more memory than there is")
    if code < 0:
        name = signal.Signals(-code).name
        raise BundleError("Invalid", f"loading the model, or trying it, crashes the runtime ({name})")


def _allowance() -> int:
    limit = cgroup.memory_limit()
    if limit is None:
        limit = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return limit * 8 // 10


def attempt(path: Path, memory: int, seconds: float, parent: int) -> int:
    """Limit this process, and load and try the model in it: what `probe` starts. Returns its exit code for `judge`.

    Args:
        parent: the process that started this one, which ends with it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before this could ask to go with it
        return 1
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out all the same, it shall not be the server that goes
    resource.setrlimit(resource.RLIMIT_AS, (_BASE_BYTES + memory,) * 2)
    cpu = max(1, int(seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # SIGXCPU comes only below the hard limit
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    from holdfast_serving import session

    try:
        model = session.load(path, threads=1)
        _rehearse(model)
        _try_extremes(model)
    except MemoryError:
        message = "loading the model takes more memory than there is"
    except BundleError as error:
        message = error.message
    else:
        return 0
    print(json.dumps({"message": message}))
    return _INVALID_EXIT


def _rehearse(model: Model) -> None:
    """Run what the server will run before it is ready. Raises BundleError `Invalid` when memory does not suffice."""
    from holdfast_serving import rows

    for inputs in rows.rehearsals(model.signature):
        try:
            model.run(inputs)
        except Exception as error:
            # Not every model takes made-up values, but none may ask for all memory.
            if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
                count = max((len(values) for values in inputs.values() if values.ndim), default=1)
                what = "one row" if count == 1 else f"{count} rows"
                raise BundleError("Invalid", f"running the model on {what} takes more memory than there is") from error


def _try_extremes(model: Model) -> None:
    """Values that any client may send must not end the server. Raises BundleError `Invalid` when they would.

    Only death counts: errors are answers, and a model may well be slow or large for a number that says how much
    it shall do. So this is tried in a process of its own, for a short time.
    """
    from holdfast_serving import rows

    child = os.fork()
    if child == 0:
        try:
            signal.setitimer(signal.ITIMER_REAL, _EXTREMES_SECONDS)
            for row in rows.extremes(model.signature):
                with contextlib.suppress(Exception):
                    model.run(row)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in _CRASHES:
        name = signal.Signals(os.WTERMSIG(status)).name
        raise BundleError("Invalid", f"a value that any client may send crashes the runtime in this model ({name})")


if __name__ == "__main__":
    sys.exit(attempt(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))

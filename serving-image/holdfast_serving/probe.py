"""Load a model once in a process that may die.

The runtime parses models in native code. A hostile or broken file can crash it, hang it, or make it ask for all
memory there is. Here that costs a process with limits of its own; the server sees an exit status.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from holdfast_bundle.errors import BundleError
from holdfast_serving import cgroup

PROBE_SECONDS = 300
"""CPU and wall time. The largest models take a minute."""

_BASE_BYTES = 384 << 20
"""Address space of the interpreter and the runtime; about half of it is needed."""

_INVALID_EXIT = 3
_PR_SET_PDEATHSIG = 1  # the kernel ends this process with the one that started it


def probe(path: Path, *, seconds: float = PROBE_SECONDS, memory: int | None = None) -> None:
    """Load the model and run it once, somewhere else.

    Args:
        memory: bytes that it may take; None for most of what the container, or else the machine, has.

    Raises:
        BundleError: `Invalid`: it cannot be loaded, crashes the runtime, or takes more than these limits.
    """
    memory = memory or _allowance()
    command = [sys.executable, "-P", "-m", "holdfast_serving.probe", str(path), str(memory), str(seconds)]
    # Each thread and each arena would take address space.
    single = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **single}
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError("Invalid", f"loading the model and running it once takes more than {seconds:g} s") from error
    if done.returncode == _INVALID_EXIT:
        raise BundleError("Invalid", json.loads(done.stdout.splitlines()[-1])["message"])
    if done.returncode == -signal.SIGXCPU:
        raise BundleError("Invalid", f"loading the model and running it once takes more than {seconds:g} s of CPU")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise BundleError("Invalid", f"loading the model, or running it once, crashes the runtime ({name})")
    if done.returncode != 0:
        raise RuntimeError(f"the probe failed: {done.stderr.decode(errors='replace')[-2000:]}")


def _allowance() -> int:
    limit = cgroup.memory_limit()
    if limit is None:
        limit = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return limit * 8 // 10


def _main(path: Path, memory: int, seconds: float) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out all the same, it shall not be the server that goes
    resource.setrlimit(resource.RLIMIT_AS, (_BASE_BYTES + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (max(1, int(seconds)),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    from holdfast_serving import rows, session

    try:
        model = session.load(path, threads=1)
        try:
            model.run(rows.made_up(model.signature, 1)[0])
        except Exception as error:
            # Not every model takes made-up values, but none may ask for all memory.
            if isinstance(error, MemoryError) or "allocat" in str(error):
                raise BundleError("Invalid", "running the model once takes more memory than there is") from error
    except MemoryError:
        message = "loading the model takes more memory than there is"
    except BundleError as error:
        message = error.message
    else:
        return 0
    print(json.dumps({"message": message}))
    return _INVALID_EXIT


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))

"""The namespaces that an embedded cluster lives in, and the processes in them.

Mounts, processes and network of a cluster are all its own, held by one process: `init.py`. When that one ends,
however it ends, the kernel ends the others, and mounts, bridges and rules are gone with them. A process belongs to a
cluster when its environment says so; nothing is ever killed because of a number in a file.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from holdfast_devcluster.errors import ClusterError

MARK = "HOLDFAST_DEVCLUSTER_FOLDER"
INIT = Path(__file__).with_name("init.py")
UNSHARE = ("unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc")
SETUP_SECONDS = 90
END_SECONDS = 90


def members(folder: Path) -> Iterator[int]:
    """The processes whose environment names `folder`: init, its programs, and what these started."""
    mark = f"{MARK}={folder}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and mark in _environment(int(entry.name)):
            yield int(entry.name)


def init_pid(folder: Path) -> int | None:
    """The first process of the cluster's PID namespace, or None when the cluster does not run."""
    for pid in members(folder):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        if any(line.startswith("NSpid:") and line.split()[2:] == ["1"] for line in status.splitlines()):
            return pid
    return None


def start(folder: Path, setup: list[list[str]]) -> int:
    """Make the namespaces and run `setup` in them; returns init's process id.

    Raises ClusterError with init's last words when the setup fails.
    """
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "programs").mkdir(exist_ok=True)
    for leftover in (folder / "programs").iterdir():
        leftover.unlink()
    (folder / "prepared").unlink(missing_ok=True)
    (folder / "setup.json").write_text(json.dumps(setup))
    log = folder / "logs" / "init.log"
    with log.open("wb") as output:
        outer = subprocess.Popen(
            [*UNSHARE, sys.executable, "-I", "-S", str(INIT), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, MARK: str(folder)},
            cwd="/",
            start_new_session=True,
        )
    deadline = time.monotonic() + SETUP_SECONDS
    while not (folder / "prepared").exists():
        if outer.poll() is not None or time.monotonic() > deadline:
            stop(folder)
            raise ClusterError(f"The cluster's namespaces cannot be made:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)
    pid = init_pid(folder)
    if pid is None:
        raise ClusterError(f"The cluster's first process ended at once:\n{log.read_text()[-2000:]}")
    return pid


def run_program(folder: Path, name: str, command: list[str]) -> None:
    """Have init run `command` from now on; nothing changes when it does already."""
    file = folder / "programs" / f"{name}.json"
    content = json.dumps(command)
    if not file.exists() or file.read_text() != content:
        new = file.with_suffix(".new")
        new.write_text(content)
        new.rename(file)


def stop(folder: Path) -> None:
    """Kill init, and thereby everything in the namespaces; returns when all of it has ended."""
    deadline = time.monotonic() + END_SECONDS
    while remaining := list(members(folder)):
        for pid in remaining:
            _kill(pid, folder)
        if time.monotonic() > deadline:
            raise ClusterError(f"These processes of the cluster do not end: {remaining}.")
        time.sleep(0.02)


def _kill(pid: int, folder: Path) -> None:
    """Kill it if it is still the one that was meant: the descriptor pins the process, then we look again."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if f"{MARK}={folder}".encode() in _environment(pid):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []

"""The first process of the embedded cluster's namespaces: `python init.py FOLDER`, standard library only.

It prepares the namespaces with the commands in `FOLDER/setup.json` and then keeps running what `FOLDER/programs/*.json`
name, one command line each: a new file starts a program, a removed one stops it, a changed one does both, and a program
that ended is started again.
As process 1 of its PID namespace it takes every process of the cluster with it when it ends, containers too.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

TICK_SECONDS = 0.2
RESTART_SECONDS = 1.0


class Program:
    """One command line that is kept running."""

    def __init__(self, command: str, log: Path) -> None:
        self.command = command
        """JSON, as in its file."""
        self._log = log
        self._next_start = 0.0
        self.pid: int | None = None

    def keep(self) -> None:
        """Start it when it does not run and was not started just now."""
        if self.pid is None and time.monotonic() >= self._next_start:
            self._next_start = time.monotonic() + RESTART_SECONDS
            with self._log.open("ab") as log:
                self.pid = subprocess.Popen(
                    json.loads(self.command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                ).pid

    def stop(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)


def main(folder: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    for command in json.loads((folder / "setup.json").read_text()):
        subprocess.run(command, check=True)
    (folder / "prepared").touch()
    programs: dict[str, Program] = {}
    while True:
        _reap(programs)
        wanted = _wanted(folder / "programs")
        for name in [name for name, program in programs.items() if wanted.get(name) != program.command]:
            programs.pop(name).stop()
        for name, command in wanted.items():
            programs.setdefault(name, Program(command, folder / "logs" / f"{name}.log")).keep()
        time.sleep(TICK_SECONDS)


def _wanted(folder: Path) -> dict[str, str]:
    """Name → command line, as its file has it."""
    wanted = {}
    for file in folder.glob("*.json"):
        with suppress(FileNotFoundError):
            wanted[file.stem] = file.read_text()
    return wanted


def _reap(programs: dict[str, Program]) -> None:
    """Take note of every process that ended: ours, and the orphans that process 1 inherits."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        for program in programs.values():
            if program.pid == pid:
                program.pid = None


if __name__ == "__main__":
    main(Path(sys.argv[1]))

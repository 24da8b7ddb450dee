"""The first process of the embedded cluster's namespaces: `python init.py FOLDER`, standard library only.

It prepares the namespaces with the commands in `FOLDER/setup.json` and then keeps running what `FOLDER/programs/*.json`
name, one command line each: a new file starts a program, a removed one stops it, one that ended is started again.
As process 1 of its PID namespace it takes every process of the cluster with it when it ends, containers too.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TICK_SECONDS = 0.1
RESTART_SECONDS = 1.0


class Program:
    """One command line that is kept running."""

    def __init__(self, file: Path, logs: Path) -> None:
        self._command: list[str] = json.loads(file.read_text())
        self._log = logs / f"{file.stem}.log"
        self._next_start = 0.0
        self.pid: int | None = None

    def keep(self) -> None:
        """Start it when it does not run and was not started just now."""
        if self.pid is None and time.monotonic() >= self._next_start:
            self._next_start = time.monotonic() + RESTART_SECONDS
            with self._log.open("ab") as log:
                self.pid = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
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
        wanted = {file.name: file for file in (folder / "programs").glob("*.json")}
        for name in set(programs) - set(wanted):
            programs.pop(name).stop()
        for name in set(wanted) - set(programs):
            programs[name] = Program(wanted[name], folder / "logs")
        for program in programs.values():
            program.keep()
        time.sleep(TICK_SECONDS)


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

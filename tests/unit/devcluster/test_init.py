"""The supervisor of the embedded cluster, here without namespaces."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast_devcluster import namespaces


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name in ("logs", "programs"):
        (tmp_path / name).mkdir()
    (tmp_path / "setup.json").write_text(json.dumps([["touch", str(tmp_path / "was-set-up")]]))
    with subprocess.Popen(
        [sys.executable, str(namespaces.INIT), str(tmp_path)], env=os.environ | {namespaces.MARK: str(tmp_path)}
    ) as init:
        until(lambda: (tmp_path / "prepared").exists())
        yield tmp_path
        init.terminate()
        init.wait()
    namespaces.stop(tmp_path)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(folder: Path, name: str, text: str) -> None:
    """A program that writes `text` and its process id into a file called `name`, and sleeps."""
    script = f"echo {text} $$ > {folder / name}.new; mv {folder / name}.new {folder / name}; exec sleep 600"
    namespaces.run_program(folder, name, ["sh", "-c", script])


def said(folder: Path, name: str) -> tuple[str, int]:
    """What the program `name` wrote; empty when it has not."""
    if not (folder / name).exists():
        return "", 0
    text, pid = (folder / name).read_text().split()
    return text, int(pid)


def test_the_setup_is_done_before_anything_runs(folder: Path) -> None:
    assert (folder / "was-set-up").exists()


def test_a_program_that_ends_is_started_again(folder: Path) -> None:
    run(folder, "one", "hello")
    until(lambda: said(folder, "one")[0] == "hello")
    _, first = said(folder, "one")
    os.kill(first, signal.SIGKILL)
    until(lambda: said(folder, "one")[1] != first)


def test_a_changed_program_takes_the_place_of_the_old_one(folder: Path) -> None:
    run(folder, "one", "old")
    until(lambda: said(folder, "one")[0] == "old")
    _, old = said(folder, "one")
    run(folder, "one", "new")
    until(lambda: said(folder, "one")[0] == "new")
    until(lambda: old not in namespaces.members(folder))


def test_a_program_whose_file_is_removed_ends(folder: Path) -> None:
    run(folder, "one", "hello")
    until(lambda: said(folder, "one")[0] == "hello")
    _, pid = said(folder, "one")
    (folder / "programs" / "one.json").unlink()
    until(lambda: pid not in namespaces.members(folder))


def test_a_failed_setup_ends_init_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "setup.json").write_text(json.dumps([["false"]]))
    done = subprocess.run([sys.executable, str(namespaces.INIT), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "'false'" in done.stderr
    assert not (tmp_path / "prepared").exists()


def test_processes_of_the_cluster_are_those_with_its_mark(tmp_path: Path) -> None:
    marked = os.environ | {namespaces.MARK: str(tmp_path)}
    with subprocess.Popen(["sleep", "60"], env=marked) as ours, subprocess.Popen(["sleep", "60"]) as other:
        until(lambda: list(namespaces.members(tmp_path)) == [ours.pid])
        namespaces.stop(tmp_path)
        assert ours.wait() == -signal.SIGKILL
        assert other.poll() is None
        other.kill()

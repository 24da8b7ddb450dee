"""What the demo's steps are made of: programs that are run, and conditions that are waited for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "holdfast-demo"


class StepError(Exception):
    """A step did not reach its end; carries what to look at next."""


def run(*command: str, timeout: float = 600, quiet: bool = True, stdin: str | None = None) -> str:
    """Run a program, with `stdin` as its input, and return what it printed.

    Raises:
        StepError: with the command and its last lines, when it fails or takes longer than `timeout` seconds.
    """
    try:
        done = subprocess.run(  # noqa: S603
            command,
            cwd=ROOT,
            input=stdin,
            text=True,
            timeout=timeout,
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StepError(f"`{' '.join(command)}` took longer than {timeout:.0f} s") from error
    if done.returncode:
        tail = "\n".join((done.stdout or "").splitlines()[-15:])
        raise StepError(f"`{' '.join(command)}` ended with {done.returncode}\n{tail}".rstrip())
    return done.stdout or ""


def devcluster(*arguments: str) -> None:
    """Run devcluster in the foreground: it has progress lines of its own."""
    run(sys.executable, "-m", "holdfast_devcluster", *arguments, timeout=2400, quiet=False)


def kubectl(*arguments: str, timeout: float = 120, stdin: str | None = None) -> str:
    """Run kubectl against the demo's cluster (KUBECONFIG is set by then)."""
    return run("kubectl", *arguments, timeout=timeout, stdin=stdin)


def wait_for(what: str, condition: str, *, namespace: str = NAMESPACE, seconds: int = 300) -> None:
    """Wait until a condition of an object is true.

    Raises:
        StepError: with the object's status, its Events and its pods.
    """
    try:
        kubectl("-n", namespace, "wait", f"--for={condition}", what, f"--timeout={seconds}s", timeout=seconds + 30)
    except StepError as error:
        details = kubectl("-n", namespace, "describe", what) + kubectl("-n", namespace, "get", "pods", "-o", "wide")
        raise StepError(f"{what} did not reach {condition} in {seconds} s\n{details}") from error


def indent(text: str) -> str:
    return re.sub(r"(?m)^(?=.)", "    ", text.rstrip())

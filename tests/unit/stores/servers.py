"""Real stores on loopback: an S3 server, a registry, emulators of Google's and Microsoft's stores."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast_bundle.credentials import Credentials
from holdfast_devcluster import binaries

KEY_ID = "canary-key-id"
KEY = "canary/secret+key"
REGION = "eu-test-1"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """A server that listens on the port."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        end = time.monotonic() + 60
        while True:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class S3:
    """A server that checks signatures, with a bucket `models`."""

    url: str
    region: str


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[S3]:
    program = binaries.find("versitygw")["versitygw"].path
    data, sidecar = folder / "data", folder / "sidecar"
    for path in (data / "models", sidecar):
        path.mkdir(parents=True)
    port = free_port()
    command = [str(program), "--access", KEY_ID, "--secret", KEY, "--region", REGION, "--port", f"127.0.0.1:{port}"]
    with running([*command, "posix", "--sidecar", str(sidecar), str(data)], port, folder / "log"):
        yield S3(f"http://127.0.0.1:{port}", REGION)


def secret(folder: Path, name: str = "models-read", **keys: str) -> Credentials:
    """A Secret as the kubelet mounts it: each key a link to a file in a folder that is swapped as a whole.

    Its keys are written with `__` for what no name can hold here: `ca__crt` is ca.crt.
    """
    version = folder / f"..{time.time_ns()}"
    version.mkdir(parents=True)
    fresh = folder / "..data_tmp"
    fresh.symlink_to(version.name)
    fresh.rename(folder / "..data")
    for old in folder.iterdir():
        if not old.name.startswith(".."):
            old.unlink()
    for key, value in keys.items():
        file = key.replace("__", ".")
        (version / file).write_text(value)
        (folder / file).symlink_to(f"..data/{file}")
    return Credentials(secret=name, folder=folder)

"""The Debian packages that the embedded cluster, image builds and benchmarks need: installed only when missing."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from holdfast_devcluster import paths
from holdfast_devcluster.binaries import Report
from holdfast_devcluster.errors import ClusterError

PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "nft": "nftables",
    "sysctl": "procps",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "wrk": "wrk",
    "docker-registry": "docker-registry",
    "node": "nodejs",
    "npm": "npm",
}
"""Program → the package that has it."""
FILES = {
    "bridge": ("containernetworking-plugins", ("/usr/lib/cni/bridge", "/opt/cni/bin/bridge")),
    "torch": ("python3-torch", ("/usr/lib/python3/dist-packages/torch/__init__.py",)),
    "keyring": ("debian-archive-keyring", ("/usr/share/keyrings/debian-archive-keyring.gpg",)),
}
"""Name → the package, and where it puts its file."""


def require(programs: Iterable[str], report: Report) -> None:
    """Install the packages of those `programs` that are not there.

    Raises ClusterError with the packages' names where they cannot be installed.
    """
    missing = sorted({_package(program) for program in programs if not _is_there(program)})
    if not missing:
        return
    _require_apt(missing)
    report(f"installing Debian packages: {' '.join(missing)}")
    _apt("update")
    _apt("install", "--yes", "--no-install-recommends", *missing)


def static_busybox(report: Report) -> Path:
    """A statically linked busybox: this machine's, or Debian's unpacked into the cache without installing it."""
    if (installed := shutil.which("busybox")) and is_static(Path(installed)):
        return Path(installed)
    cached = paths.cache() / "bin" / "busybox-static" / "busybox"
    if not cached.exists():
        _require_apt(["busybox-static"])
        report("fetching Debian package: busybox-static")
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            try:
                _apt("download", "busybox-static", folder=folder)
            except ClusterError:
                _apt("update")
                _apt("download", "busybox-static", folder=folder)
            package = next(Path(folder).glob("busybox-static_*.deb"))
            subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
            (Path(folder) / "bin" / "busybox").rename(cached)
    return cached


def collect(names: Iterable[str], folder: Path, report: Report) -> None:
    """Fill `folder` with these packages and all that they need, as an archive that apt can read; nothing is installed.

    Raises ClusterError where they cannot be had.
    """
    wanted = sorted(names)
    if (folder / "Packages").exists():
        return
    _require_apt(wanted)
    report(f"collecting Debian packages: {' '.join(wanted)}, and what they need")
    (folder / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()  # of a machine that has no package
    options = (f"--option=Dir::State::status={folder / 'status'}", f"--option=Dir::Cache::archives={folder}")
    _apt("update")
    _apt("install", "--yes", "--no-install-recommends", "--download-only", *options, *wanted)
    index = "\n".join(indexed(package) for package in sorted(folder.glob("*.deb")))
    (folder / "Packages").write_text(index)  # last: its presence says that all is there


def indexed(package: Path) -> str:
    """Its paragraph in an index of packages."""
    said = subprocess.run(["dpkg-deb", "--field", package], check=True, capture_output=True, text=True).stdout
    with open(package, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{said}Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"


def is_static(program: Path) -> bool:
    """An ELF program that asks for no dynamic loader (64-bit little-endian, as all that we run on)."""
    content = program.read_bytes()
    if content[:6] != b"\x7fELF\x02\x01":
        return False
    offset = int.from_bytes(content[32:40], "little")
    size, count = int.from_bytes(content[54:56], "little"), int.from_bytes(content[56:58], "little")
    interpreter = 3
    kinds = [int.from_bytes(content[at : at + 4], "little") for at in range(offset, offset + size * count, size)]
    return interpreter not in kinds


def _is_there(program: str) -> bool:
    if program in FILES:
        return any(Path(path).exists() for path in FILES[program][1])
    return shutil.which(program) is not None


def _package(program: str) -> str:
    return FILES[program][0] if program in FILES else PROGRAMS[program]


def _require_apt(missing: list[str]) -> None:
    if shutil.which("apt-get") is None:
        raise ClusterError(
            f"These Debian packages, or what they are called here, are needed: {' '.join(missing)}. "
            "Install them and try again."
        )


def _apt(*arguments: str, folder: str | None = None) -> None:
    done = subprocess.run(
        ["apt-get", "--quiet=2", "--option=DPkg::Lock::Timeout=300", "--option=Acquire::Retries=3", *arguments],
        cwd=folder,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-10:])
        raise ClusterError(f"apt-get {' '.join(arguments)} failed:\n{last}")

"""Find the Kubernetes programs, or make them.

Looked for in this order: the folder that `HOLDFAST_BINARIES` names, the cache, the project's official release
(given up after a few seconds without internet), and at last built by `go build` from the modules pinned
in `devcluster/binaries/*/go.mod`, which are the only place where a version is written down.
"""

import functools
import hashlib
import io
import os
import platform
import re
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from holdfast_devcluster import paths
from holdfast_devcluster.errors import ClusterError
from holdfast_devcluster.golang import go
from holdfast_devcluster.reach import reachable

ENVIRONMENT = "HOLDFAST_BINARIES"
SOURCES = paths.REPOSITORY / "devcluster" / "binaries"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
CONNECT_SECONDS = 5
READ_SECONDS = 15

Report = Callable[[str], None]


@dataclass(frozen=True)
class Release:
    """Where a project publishes a program, for `{version}` (without the v), `{name}` and `{arch}`."""

    url: str
    checksum_url: str
    member: str | None = None  # the program's path when the download is a tar archive


@dataclass(frozen=True)
class Module:
    """A pinned Go module and the programs that are built from it: name → Go package."""

    folder: str
    path: str
    programs: dict[str, str]
    release: Release | None
    tags: str = ""
    """Build tags, with commas between them."""

    @functools.cached_property
    def version(self) -> str:
        """The version that go.mod requires, such as `v1.35.4`."""
        text = (SOURCES / self.folder / "go.mod").read_text()
        match = re.search(rf"^require {re.escape(self.path)} (v\S+)", text, re.MULTILINE)
        if match is None:
            raise ClusterError(f"devcluster/binaries/{self.folder}/go.mod does not require {self.path}.")
        return match[1]

    @property
    def released(self) -> str:
        """The version as the project calls it, without a v. As a Go module, Prometheus 3.13.5 is v0.313.5."""
        plain = self.version.removeprefix("v")
        return re.sub(r"^0\.(\d)0?(\d+)\.", r"\1.\2.", plain) if self.folder == "prometheus" else plain

    @property
    def cache(self) -> Path:
        return paths.cache() / "bin" / f"{self.folder}-{self.version}-{ARCHITECTURE}"


MODULES = (
    Module(
        "kubernetes",
        "k8s.io/kubernetes",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            )
        },
        Release(
            "https://dl.k8s.io/release/v{version}/bin/linux/{arch}/{name}",
            "https://dl.k8s.io/release/v{version}/bin/linux/{arch}/{name}.sha256",
        ),
    ),
    Module(
        "etcd",
        "go.etcd.io/etcd/server/v3",
        {"etcd": "go.etcd.io/etcd/server/v3"},
        Release(
            "https://github.com/etcd-io/etcd/releases/download/v{version}/etcd-v{version}-linux-{arch}.tar.gz",
            "https://github.com/etcd-io/etcd/releases/download/v{version}/SHA256SUMS",
            "etcd-v{version}-linux-{arch}/etcd",
        ),
    ),
    Module(
        "coredns",
        "github.com/coredns/coredns",
        {"coredns": "github.com/coredns/coredns"},
        Release(
            "https://github.com/coredns/coredns/releases/download/v{version}/coredns_{version}_linux_{arch}.tgz",
            "https://github.com/coredns/coredns/releases/download/v{version}/coredns_{version}_linux_{arch}.tgz.sha256",
            "coredns",
        ),
    ),
    Module(
        "kind",
        "sigs.k8s.io/kind",
        {"kind": "sigs.k8s.io/kind"},
        Release(
            "https://kind.sigs.k8s.io/dl/v{version}/kind-linux-{arch}",
            "https://kind.sigs.k8s.io/dl/v{version}/kind-linux-{arch}.sha256sum",
        ),
    ),
    # Of the ways to find what to scrape only Kubernetes' own: the others are most of the code.
    Module(
        "prometheus",
        "github.com/prometheus/prometheus",
        {name: f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool")},
        Release(
            "https://github.com/prometheus/prometheus/releases/download/v{version}/prometheus-{version}.linux-{arch}.tar.gz",
            "https://github.com/prometheus/prometheus/releases/download/v{version}/sha256sums.txt",
            "prometheus-{version}.linux-{arch}/{name}",
        ),
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
    # kwok's releases carry no checksum file, so it is always built.
    Module("kwok", "sigs.k8s.io/kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, None),
    # An S3 server on a folder, for tests of object stores.
    Module(
        "versitygw",
        "github.com/versity/versitygw",
        {"versitygw": "github.com/versity/versitygw/cmd/versitygw"},
        None,
    ),
    # What stands for Google Cloud Storage in these tests.
    Module(
        "fake-gcs-server",
        "github.com/fsouza/fake-gcs-server",
        {"fake-gcs-server": "github.com/fsouza/fake-gcs-server"},
        None,
    ),
)


def module(folder: str) -> Module:
    """The one that is pinned in this folder below `devcluster/binaries`."""
    return next(each for each in MODULES if each.folder == folder)


@dataclass(frozen=True)
class Found:
    path: Path
    source: str
    """In words: where the program was taken from."""


def find(*names: str, report: Report = print) -> dict[str, Found]:
    """Every named program, made when it has to be. `report` hears of what takes long.

    Raises ClusterError when a program can be had by none of the four ways.
    """
    found: dict[str, Found] = {}
    for module in MODULES:
        wanted = [name for name in names if name in module.programs]
        for name in wanted:
            if at_hand := _in_named_folder(name) or _in_cache(module, name):
                found[name] = at_hand
        if missing := [name for name in wanted if name not in found]:
            found |= _make(module, missing, report)
    if unknown := set(names) - set(found):
        raise ClusterError(f"devcluster has no pinned source for {', '.join(sorted(unknown))}.")
    return found


def kubectl(report: Report = print) -> Path:
    """The kubectl of this machine when there is one, else ours."""
    if at_hand := shutil.which("kubectl"):
        return Path(at_hand)
    return find("kubectl", report=report)["kubectl"].path


def _in_named_folder(name: str) -> Found | None:
    if not (folder := os.environ.get(ENVIRONMENT)):
        return None
    path = Path(folder).expanduser().resolve() / name
    return Found(path, f"from {ENVIRONMENT}={folder}") if os.access(path, os.X_OK) else None


def _in_cache(module: Module, name: str) -> Found | None:
    path = module.cache / name
    return Found(path, "from the cache") if path.exists() else None


def _make(module: Module, names: list[str], report: Report) -> dict[str, Found]:
    with paths.locked(module.cache / ".lock"):  # two test runs must not build the same thing side by side
        found = {name: hit for name in names if (hit := _in_cache(module, name))}
        missing = [name for name in names if name not in found]
        linux = platform.system() == "Linux"
        if missing and linux and module.release and _download(module, missing, report):
            return found | {name: Found(module.cache / name, "from the official release") for name in missing}
        if missing:
            _build(module, missing, report)
        return found | {
            name: Found(module.cache / name, f"built from {module.path} {module.version}") for name in missing
        }


def _download(module: Module, names: list[str], report: Report) -> bool:
    """True when all of `names` came from the release with the right checksum."""
    assert module.release is not None
    for name in names:
        values = {"version": module.released, "name": name, "arch": ARCHITECTURE}
        url = module.release.url.format(**values)
        if not reachable(urlsplit(url).netloc):
            return False
        try:
            expected = checksum_for(url.rsplit("/", 1)[-1], _get(module.release.checksum_url.format(**values)).decode())
            report(f"downloading {name} {module.version}")
            content = _get(url)
        except (OSError, ValueError, urllib.error.URLError) as error:
            report(f"no download of {name} ({getattr(error, 'reason', error)}); building it instead")
            return False
        if (actual := hashlib.sha256(content).hexdigest()) != expected:
            raise ClusterError(
                f"{url} has sha256 {actual}, its project says {expected}. "
                f"Try again, or put {name} {module.version} in a folder and name it in {ENVIRONMENT}."
            )
        if module.release.member:
            content = _member(content, module.release.member.format(**values))
        _install(content, module.cache / name)
    return True


def checksum_for(file: str, listing: str) -> str:
    """The sha256 of `file` out of a checksum file: one bare digest, or lines of digest and name."""
    for line in listing.splitlines():
        digest, _, name = line.strip().partition(" ")
        if re.fullmatch(r"[0-9a-f]{64}", digest) and name.strip().lstrip("*").rsplit("/", 1)[-1] in (
            "",
            file,
        ):
            return digest
    raise ValueError(f"no checksum of {file} is published")


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as response:  # noqa: S310 - https, from the table above
        if sock := getattr(getattr(response.fp, "raw", None), "_sock", None):
            sock.settimeout(READ_SECONDS)
        content: bytes = response.read()
        return content


def _member(archive: bytes, member: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(member)
        if file is None:
            raise ClusterError(f"The release archive holds no {member}.")
        return file.read()


def _install(content: bytes, path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).chmod(0o755)
    Path(file.name).rename(path)


def build_command(module: Module, names: list[str], output: Path) -> list[str]:
    """The arguments of the `go` that puts `names` into the folder `output`."""
    flags = ["-s", "-w"]
    if module.folder == "kubernetes":
        major, minor, _ = module.version.removeprefix("v").split(".", 2)
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += [
                f"-X {package}.gitVersion={module.version}",
                f"-X {package}.gitMajor={major}",
                f"-X {package}.gitMinor={minor}",
            ]
    return [
        "build",
        "-trimpath",
        "-buildvcs=false",
        *(["-tags", module.tags] if module.tags else []),
        "-ldflags",
        " ".join(flags),
        "-o",
        f"{output}/",
    ] + [module.programs[name] for name in names]


def _build(module: Module, names: list[str], report: Report) -> None:
    if shutil.which("go") is None:
        raise ClusterError(
            f"{', '.join(names)} must be built, and there is no Go on this machine. Install Go 1.21 "
            f"or newer, or put the programs ({module.path} {module.version}) in a folder that "
            f"{ENVIRONMENT} names."
        )
    report(f"building {', '.join(names)} {module.version} with go (minutes, once)")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=module.cache) as output:
        command = build_command(module, names, Path(output))
        go(*command, folder=SOURCES / module.folder, environment={"CGO_ENABLED": "0"})
        for name in names:
            built_path(Path(output), module.programs[name]).rename(module.cache / name)
    report(f"built {', '.join(names)} in {time.monotonic() - started:.0f} s")


def built_path(output: Path, package: str) -> Path:
    """go names a program after its package's last element that is no major version."""
    last = [element for element in package.split("/") if not re.fullmatch(r"v\d+", element)][-1]
    return output / last

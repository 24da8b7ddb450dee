"""Build the images, without network and only when something they are made of has changed."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from packaging.markers import Marker

from holdfast_devcluster import binaries, oci, packages, paths
from holdfast_devcluster.binaries import Report
from holdfast_devcluster.errors import ClusterError
from holdfast_devcluster.reach import reachable

BASE_IMAGE = "docker.io/library/python:3.11-slim-bookworm"
PYTHON_VERSION = "3.11"
GLIBC_MINOR = 36  # Debian 12's, the oldest base that is used
WHEELS = paths.REPOSITORY / ".build" / "wheels"
PULL_SECONDS = 300
OUTSIDE = Path("/var/lib/containers")


@dataclass(frozen=True)
class Image:
    """An image of ours and what it is made of; paths are relative to the repository."""

    name: str
    dockerfile: str
    distributions: tuple[str, ...]
    """Folders with a pyproject.toml whose wheels go in."""
    sources: tuple[str, ...]
    """Files and folders that those wheels are made from."""
    programs: tuple[str, ...] = ()
    """Static programs, in place of all this: the image has these and nothing else."""
    tag: str = ""
    """Of an image that others publish, and ours stands in for."""
    on: str = ""
    """The name of the image of ours that this one adds to."""
    debian: tuple[str, ...] = ()
    """Debian packages that go in, with all that they need; such an image has no lock."""

    @property
    def reference(self) -> str:
        return self.tag or f"localhost/holdfast-{self.name}:dev"

    @property
    def lock(self) -> Path:
        return paths.REPOSITORY / "requirements" / f"{self.name}.txt"

    @property
    def archive(self) -> Path:
        """The image as a docker archive."""
        return paths.cache() / "images" / f"{self.name}.tar"


IMAGES = {
    image.name: image
    for image in (
        Image("operator", "Dockerfile", (".",), ("pyproject.toml", "operator/holdfast")),
        Image(
            "serving",
            "serving-image/Dockerfile",
            ("model-bundle", "serving-image"),
            ("model-bundle", "serving-image"),
        ),
        Image(
            "training",
            "training-image/Dockerfile",
            ("model-bundle", "training-image"),
            ("model-bundle", "training-image"),
        ),
        Image(
            "prometheus",
            dockerfile="",
            distributions=(),
            sources=(),
            programs=("prometheus", "promtool"),
            tag=f"docker.io/prom/prometheus:v{binaries.module('prometheus').released}",
        ),
    )
}


OPTIONAL = {
    image.name: image
    for image in (
        Image("training-tensorflow", "training-image/tensorflow.Dockerfile", (), (), on="training"),
        Image(
            "training-torch", "training-image/torch-debian.Dockerfile", (), (), on="training", debian=("python3-torch",)
        ),
    )
}
"""Images that are large, and that most clusters do without."""


class Builder(Protocol):
    """What turns a Dockerfile into an image."""

    def base(self, reference: str) -> str:
        """Have the base image at hand; returns an id that changes with its content."""
        ...

    def has(self, reference: str) -> bool:
        """Whether another image can be built on this one."""
        ...

    def build(self, image: Image, base: str) -> None:
        """Build `image` from the repository, without network."""
        ...

    def save(self, image: Image, archive: Path) -> None:
        """Write the built image as an uncompressed docker archive."""
        ...


def build(image: Image, builder: Builder, report: Report, *, to_build_on: bool = False) -> bool:
    """Bring `image.archive` up to date. True when it had to be built.

    to_build_on: the archive alone will not do; the builder must have the image.

    Raises ClusterError with the last lines of the step that failed.
    """
    if image.programs:
        return _write_programs(image, report)
    if image.on:
        build(IMAGES[image.on], builder, report, to_build_on=True)
    reference = os.environ.get("HOLDFAST_BASE_IMAGE", BASE_IMAGE)
    with paths.locked(paths.cache() / "images" / ".lock"):
        digest = inputs_digest(image, f"{reference} {builder.base(reference)}")
        if built_from(image) == digest and (not to_build_on or builder.has(image.reference)):
            report(f"image {image.name} is up to date")
            return False
        if image.debian:
            packages.collect(image.debian, WHEELS / image.name / "debian", report)
        else:
            collect_wheels(image, report)
        report(f"building image {image.name}")
        builder.build(image, reference)
        report(f"saving image {image.name}")
        _stamp(image).unlink(missing_ok=True)
        new = image.archive.with_suffix(".new")
        new.unlink(missing_ok=True)
        builder.save(image, new)
        new.rename(image.archive)
        _stamp(image).write_text(digest)
    return True


def _write_programs(image: Image, report: Report) -> bool:
    programs = {name: found.path for name, found in binaries.find(*image.programs, report=report).items()}
    with paths.locked(paths.cache() / "images" / ".lock"):
        digest = hashlib.sha256(image.reference.encode())
        for program in programs.values():
            digest.update(program.read_bytes())
        if built_from(image) == digest.hexdigest():
            report(f"image {image.name} is up to date")
            return False
        report(f"writing image {image.name}")
        _stamp(image).unlink(missing_ok=True)
        oci.write_programs(image.archive, image.reference, programs)
        _stamp(image).write_text(digest.hexdigest())
    return True


def load(image: Image, folder: Path, load_archive: Callable[[Path], None], report: Report) -> None:
    """Hand the image's archive to a cluster unless it has this very one; `folder` is where that is remembered."""
    digest = built_from(image)
    if digest is None:
        raise ClusterError(f"Image {image.name} has not been built; `build-image {image.name}` does that.")
    if not folder.exists():
        raise ClusterError("There is no cluster to load images into; `up` makes it.")
    stamp = _loaded(image, folder)
    if _text(stamp) == digest:
        report(f"image {image.name} is loaded already")
        return
    report(f"loading image {image.name}")
    load_archive(image.archive)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(digest)


def forget(image: Image, folder: Path) -> None:
    """The cluster that remembers in `folder` does not have this image any more."""
    _loaded(image, folder).unlink(missing_ok=True)


def built_from(image: Image) -> str | None:
    """The digest of what the archive was built from; None when there is no archive."""
    stamp = _stamp(image)
    return stamp.read_text() if stamp.exists() and image.archive.exists() else None


def inputs_digest(image: Image, base: str) -> str:
    """sha256 over all that goes into `image`: its sources, lock, Dockerfile, base, and the image that it adds to."""
    digest = hashlib.sha256(base.encode())
    if image.on:
        digest.update((built_from(IMAGES[image.on]) or "").encode())
    digest.update(" ".join(image.debian).encode())
    locks = () if image.debian else (image.lock,)
    for file in (*locks, paths.REPOSITORY / image.dockerfile, *source_files(image)):
        digest.update(f"{file.relative_to(paths.REPOSITORY)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def source_files(image: Image) -> Iterator[Path]:
    """The files that the image's own wheels are made from, in a fixed order."""
    for source in image.sources:
        path = paths.REPOSITORY / source
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (file for file in files if file.is_file() and "__pycache__" not in file.parts)


def requirements_for(lock: str, python_version: str) -> str:
    """The lock with only what that Python installs on Linux, and without markers.

    pip would judge the markers by the Python that runs it, not by the one in the image.
    """
    target = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": _machine(),
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": python_version,
        "python_version": python_version,
        "sys_platform": "linux",
    }
    kept = []
    for block in re.split(r"\n(?=\S)", lock.strip()):
        requirement, separator, rest = block.partition(" ;")
        marker, _, hashes = rest.partition(" \\\n")
        if not separator:
            kept.append(block)
        elif Marker(marker).evaluate(target):
            kept.append(f"{requirement} \\\n{hashes}")
    return "\n".join(kept) + "\n"


def download_command(requirements: Path, folder: Path, machine: str) -> list[str]:
    """pip's download of every wheel in `requirements`, for the image's Python and not for ours."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 4, -1)]
    tags += [f"{legacy}_{machine}" for legacy in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--require-hashes", "--only-binary", ":all:", "--no-deps"),
        *("--implementation", "cp", "--python-version", PYTHON_VERSION),
        *(option for tag in tags for option in ("--platform", tag)),
        *("--dest", str(folder), "--requirement", str(requirements)),
    ]


def collect_wheels(image: Image, report: Report) -> None:
    """Fill `.build/wheels/NAME`: the locked wheels, checked against their hashes, and our own."""
    folder = WHEELS / image.name
    folder.mkdir(parents=True, exist_ok=True)
    requirements = requirements_for(image.lock.read_text(), PYTHON_VERSION)
    if not (folder / "locked").exists() or _text(folder / "requirements.txt") != requirements:
        report(f"collecting the wheels of image {image.name}")
        shutil.rmtree(folder / "locked", ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            wanted = Path(fresh) / "requirements.txt"
            wanted.write_text(requirements)
            _run(*download_command(wanted, Path(fresh) / "locked", _machine()))
            wanted.rename(folder / "requirements.txt")
            (Path(fresh) / "locked").rename(folder / "locked")  # last: its presence says that all is there
    shutil.rmtree(folder / "ours", ignore_errors=True)
    for distribution in image.distributions:
        _run(
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "ours")),
            str(paths.REPOSITORY / distribution),
        )


class DockerBuilder:
    """Builds with the Docker daemon."""

    def base(self, reference: str) -> str:
        if not self.has(reference):
            _run("docker", "pull", "--quiet", reference)
        return _run("docker", "image", "inspect", "--format", "{{.Id}}", reference).strip()

    def has(self, reference: str) -> bool:
        return subprocess.run(("docker", "image", "inspect", reference), capture_output=True).returncode == 0

    def build(self, image: Image, base: str) -> None:
        _run(
            *("docker", "build", "--network", "none", "--build-arg", f"BASE_IMAGE={base}"),
            *("--file", str(paths.REPOSITORY / image.dockerfile), "--tag", image.reference),
            str(paths.REPOSITORY),
            environment={"DOCKER_BUILDKIT": "1"},
        )

    def save(self, image: Image, archive: Path) -> None:
        _run("docker", "save", "--output", str(archive), image.reference)


class BuildahBuilder:
    """Builds with buildah, whose storage is in our cache folder and whose mounts are in a namespace."""

    def __init__(self, report: Report) -> None:
        packages.require(("buildah",), report)
        self._report = report

    def base(self, reference: str) -> str:
        if existing := self._id(reference):
            return existing
        if not self._pull(reference):
            self._make_stand_in(reference)
        return self._id(reference)

    def has(self, reference: str) -> bool:
        return bool(self._id(reference))

    def build(self, image: Image, base: str) -> None:
        self._buildah("rm", "--all")  # what failed and killed builds left; nobody else builds in this storage
        self._buildah(
            *("bud", "--isolation", "chroot", "--layers", "--pull-never", "--quiet"),
            *("--build-arg", f"BASE_IMAGE={base}", "--tag", image.reference),
            *("--file", str(paths.REPOSITORY / image.dockerfile), str(paths.REPOSITORY)),
        )
        self._buildah("rmi", "--prune")

    def save(self, image: Image, archive: Path) -> None:
        self._buildah("push", "--quiet", image.reference, f"docker-archive:{archive}:{image.reference}")

    def _id(self, reference: str) -> str:
        """The image's id, or nothing when it is not there."""
        try:
            return self._buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", reference).strip()
        except ClusterError:
            return ""

    def _pull(self, reference: str) -> bool:
        host, _, port = reference.partition("/")[0].partition(":")
        if not reachable(host, int(port or 443)):
            return False
        self._report(f"pulling {reference}")
        try:
            self._buildah("pull", "--quiet", reference, network=True, seconds=PULL_SECONDS)
        except ClusterError as error:
            self._report(f"no pull ({str(error).splitlines()[-1][-150:]})")
            return False
        return True

    def _make_stand_in(self, reference: str) -> None:
        """Debian's own Python under the name of the official image, where no image registry can be reached."""
        packages.require(("debootstrap", "keyring"), self._report)
        self._report(f"making a stand-in for {reference}, which cannot be pulled, with debootstrap (a minute, once)")
        with tempfile.TemporaryDirectory(dir=_storage()) as folder:
            root = Path(folder) / "root"
            _run(
                *("unshare", "--mount", "debootstrap", "--variant=minbase"),
                *("--include=python3,python3-venv,ca-certificates", "bookworm", str(root)),
            )
            for needless in (
                "usr/share/doc",
                "usr/share/man",
                "usr/share/locale",
                "var/cache/apt",
                "var/lib/apt/lists",
            ):
                shutil.rmtree(root / needless, ignore_errors=True)
            container = self._buildah("from", "scratch").strip()
            self._buildah("copy", "--quiet", container, str(root), "/")
            self._buildah("config", "--cmd", "python3", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
            self._buildah("commit", "--quiet", "--rm", container, reference)

    def _buildah(self, *arguments: str, network: bool = False, seconds: float | None = None) -> str:
        storage = _storage()
        # In a mount namespace nothing stays mounted, and what buildah keeps outside of its storage goes with it.
        shell = f'mount -t tmpfs tmpfs {OUTSIDE} && mount -t tmpfs tmpfs "$1" && shift && exec "$@"'
        run = storage / "run"
        for folder in (run, OUTSIDE):
            folder.mkdir(parents=True, exist_ok=True)
        return _run(
            *("unshare", "--mount", *([] if network else ["--net"]), "sh", "-c", shell, "sh", str(run)),
            *("buildah", "--root", str(storage / "storage"), "--runroot", str(run), *arguments),
            environment={"TMPDIR": str(storage)},
            seconds=seconds,
        )


def _storage() -> Path:
    folder = paths.cache() / "buildah"
    folder.mkdir(exist_ok=True)
    return folder


def _stamp(image: Image) -> Path:
    return image.archive.with_suffix(".inputs")


def _loaded(image: Image, folder: Path) -> Path:
    return folder / "loaded" / image.name


def _machine() -> str:
    return {"arm64": "aarch64"}.get(platform.machine(), platform.machine())


def _text(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


def _run(*command: str, environment: dict[str, str] | None = None, seconds: float | None = None) -> str:
    """What the command prints. Raises ClusterError with its last lines when it fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            cwd=paths.REPOSITORY,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(command[:12])}: no end after {seconds} s") from error
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise ClusterError(f"{' '.join(command)} failed:\n{last}")
    return done.stdout

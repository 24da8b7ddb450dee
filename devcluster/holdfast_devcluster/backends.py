"""The three ways to have a cluster, behind one interface, and the choice between them."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from holdfast_devcluster import binaries, images, paths
from holdfast_devcluster.binaries import Report
from holdfast_devcluster.embedded import Embedded
from holdfast_devcluster.errors import ClusterError
from holdfast_devcluster.images import Image

ENVIRONMENT = "HOLDFAST_CLUSTER"
NAMES = ("auto", "embedded", "kind", "current")
DOCKER_SECONDS = 10


class Backend(Protocol):
    """A cluster that can be made, used and removed. Every method raises ClusterError when it cannot do its work."""

    def up(self) -> None:
        """Bring the cluster up, from whatever state it is in."""
        ...

    def down(self, purge: bool) -> None:
        """Remove it; with `purge` also what is kept to make the next one quick."""
        ...

    def status(self) -> str:
        """Lines for a person; the last one ends in `running`, `stopped` or `none`."""
        ...

    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        ...

    def load(self, image: Image) -> None:
        """Have the nodes know a built image; quick when they do already."""
        ...


class Kind:
    """A kind cluster in Docker."""

    def __init__(self, name: str, report: Report) -> None:
        self.name = name
        self.folder = paths.cache() / "kind" / name
        self._report = report

    def up(self) -> None:
        if self.name not in self._kind("get", "clusters").split():
            self._report(f"kind cluster {self.name}")
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self._kind(*create_arguments(self.name, self.folder))
        else:
            for node in self._kind("get", "nodes", "--name", self.name).split():
                run("docker", "start", node)  # after the daemon was restarted
        self._kind("export", "kubeconfig", "--name", self.name, "--kubeconfig", str(self.folder / "kubeconfig"))
        kubectl = (str(binaries.kubectl(self._report)), f"--kubeconfig={self.folder / 'kubeconfig'}")
        run(*kubectl, "wait", "--for=condition=Ready", "node", "--all", "--timeout=180s")
        self._report(f"ready; export KUBECONFIG={self.kubeconfig()}")

    def down(self, purge: bool) -> None:
        self._kind("delete", "cluster", "--name", self.name)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._report(f"cluster {self.name} is gone")

    def status(self) -> str:
        state = "running" if self.name in self._kind("get", "clusters").split() else "none"
        return f"kubeconfig {self.folder / 'kubeconfig'}\nkind cluster {self.name}: {state}"

    def kubeconfig(self) -> Path:
        path = self.folder / "kubeconfig"
        if not path.exists():
            raise ClusterError(f"There is no kind cluster {self.name}; `up` makes it.")
        return path

    def load(self, image: Image) -> None:
        def load_archive(archive: Path) -> None:
            self._kind("load", "image-archive", str(archive), "--name", self.name)

        images.load(image, self.folder, load_archive, self._report)

    def _kind(self, *arguments: str) -> str:
        program = shutil.which("kind") or str(binaries.find("kind", report=self._report)["kind"].path)
        return run(program, *arguments)


def create_arguments(name: str, folder: Path) -> list[str]:
    """kind's arguments for a new cluster."""
    return [
        *("create", "cluster", "--name", name, "--wait", "180s"),
        *("--config", str(paths.REPOSITORY / "kind-config.yaml"), "--kubeconfig", str(folder / "kubeconfig")),
    ]


class Current:
    """The cluster that kubectl's current context names. It is the user's: nothing is made or removed."""

    def __init__(self, report: Report, environment: Mapping[str, str] = os.environ) -> None:
        self._report = report
        self._environment = environment

    def up(self) -> None:
        run(str(binaries.kubectl(self._report)), "version", "--request-timeout=10s")
        self._report(f"using the current context, {self._context()}")

    def down(self, purge: bool) -> None:
        self._report(
            f"the cluster of context {self._context()} is yours and stays; "
            "kubectl delete -k manifests/base removes Holdfast from it"
        )

    def status(self) -> str:
        return f"current context {self._context()}: running"

    def kubeconfig(self) -> Path:
        """The first file of KUBECONFIG, or kubectl's default. Raises ClusterError when there is none."""
        named = self._environment.get("KUBECONFIG", "").split(os.pathsep)[0]
        path = Path(named) if named else Path.home() / ".kube" / "config"
        if not path.exists():
            raise ClusterError(f"There is no kubeconfig at {path}.")
        return path

    def load(self, image: Image) -> None:
        self._report(
            f"{image.reference} is not loaded: devcluster does not know how your cluster gets its images. "
            f"Its archive is {image.archive}. Push it to a registry that your cluster pulls from and name it under "
            "`images:` in a kustomization over manifests/base, or load the archive into your nodes "
            "(`k3d image import`, `minikube image load`, `ctr -n k8s.io images import`)."
        )

    def _context(self) -> str:
        return run(str(binaries.kubectl(self._report)), "config", "current-context").strip()


def choose(wanted: str, *, embedded_exists: bool, docker: bool, system: str) -> str:
    """`embedded`, `kind` or `current`: as wanted, else what there is, else what this machine can do.

    The current context is never chosen unasked: it may be a cluster that matters to somebody.
    """
    if wanted not in NAMES:
        raise ClusterError(f"{ENVIRONMENT}={wanted} is none of {', '.join(NAMES)}.")
    if wanted != "auto":
        return wanted
    if embedded_exists:
        return "embedded"
    if docker:
        return "kind"
    if system == "Linux":
        return "embedded"
    raise ClusterError(
        "No Docker daemon answers, and without one only Linux can run a cluster. Start Docker, or set "
        f"{ENVIRONMENT}=current to use the cluster of kubectl's current context."
    )


def backend(name: str, report: Report) -> Backend:
    """The back end that the environment and this machine call for."""
    embedded = Embedded(name, report)
    wanted = os.environ.get(ENVIRONMENT, "auto")
    chosen = choose(
        wanted,
        embedded_exists=embedded.exists(),
        docker=wanted == "auto" and not embedded.exists() and docker_answers(),
        system=platform.system(),
    )
    if chosen == "kind":
        return Kind(name, report)
    return Current(report) if chosen == "current" else embedded


def builder(report: Report) -> images.Builder:
    """Docker where its daemon answers, else buildah."""
    return images.DockerBuilder() if docker_answers() else images.BuildahBuilder(report)


def docker_answers() -> bool:
    """Is there a Docker daemon that we may talk to?"""
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, timeout=DOCKER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def run(*command: str) -> str:
    """What the command prints. Raises ClusterError with its complaint when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=paths.REPOSITORY)
    except FileNotFoundError as error:
        raise ClusterError(f"There is no {command[0]} on this machine.") from error
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        raise ClusterError(f"{' '.join(command)} failed:\n{last}")
    return done.stdout

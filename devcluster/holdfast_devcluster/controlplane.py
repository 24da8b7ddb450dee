"""A control plane for tests: real programs on loopback, gone with the process that asked for them."""

import fcntl
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast_devcluster import binaries, components, paths, ports
from holdfast_devcluster.api import ApiError, Client
from holdfast_devcluster.certificates import Pair
from holdfast_devcluster.errors import ClusterError
from holdfast_devcluster.processes import Process

SERVICE_RANGE = "198.19.0.0/16"
FAKE_POD_RANGE = "198.18.0.1/16"
PODS_PER_FAKE_NODE = 500
READY_SECONDS = 240
STAGES = Path(__file__).with_name("stages.yaml")


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane. Every path in it is gone once it ends."""

    folder: Path
    server: str
    kubeconfig: Path
    """The administrator's."""
    certificate_authority: Path
    client: Pair
    """The administrator's certificate and key."""
    processes: dict[str, Process]
    """By program name; a test may pause, resume, stop and start them."""
    audit_log: Path | None
    settings: components.Settings

    @property
    def api(self) -> Client:
        return Client(self.server, self.certificate_authority, self.client, timeout=60)

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """What `kubectl ARGUMENTS` prints. Raises ClusterError with its complaint when it fails."""
        done = subprocess.run(
            [
                str(binaries.kubectl()),
                f"--kubeconfig={self.kubeconfig}",
                f"--cache-dir={self.folder / 'kubectl-cache'}",
                *arguments,
            ],
            input=input,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def kubeconfig_for(self, user: str, groups: Iterable[str] = ()) -> Path:
        """A kubeconfig that acts as `user` with what RBAC grants it.

        A service account is the user `system:serviceaccount:NAMESPACE:NAME` in the groups
        `system:serviceaccounts` and `system:serviceaccounts:NAMESPACE`.
        """
        file = user.replace(":", "-").replace("/", "-")
        pair = self.settings.authority.issue(f"user-{file}", user, groups)
        return self.settings.authority.kubeconfig(self.folder / f"user-{file}.kubeconfig", self.server, pair)

    def audit_events(self) -> Iterator[dict[str, Any]]:
        """Every request so far, oldest first, as audit.k8s.io/v1 events; needs `audit_log`."""
        if self.audit_log is None:
            raise ClusterError("This control plane was started without audit_log.")
        with self.audit_log.open() as log:
            for line in log:
                if line.endswith("\n"):
                    yield json.loads(line)

    def start(self, name: str, command: list[str]) -> None:
        """Start one more program; its log is `folder/NAME.log`."""
        self.processes[name] = process = Process(name, command, self.folder / f"{name}.log")
        process.start()

    def wait_ready(self) -> None:
        """Return when kube-apiserver is ready; raises ClusterError when a program ended or time is up."""
        client = self.api
        self.wait_until("kube-apiserver is ready", lambda: client.request("GET", "/readyz"))
        if "kube-controller-manager" in self.processes:
            self.wait_until(
                "the default service account exists",
                lambda: client.request("GET", "/api/v1/namespaces/default/serviceaccounts/default"),
            )

    def wait_until(self, what: str, attempt: Callable[[], object]) -> None:
        """Call `attempt` until it raises neither ApiError nor OSError."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            for process in self.processes.values():
                if not process.alive:
                    raise ClusterError(f"{process.name} ended by itself:\n{process.last_lines()}")
            try:
                attempt()
                return
            except (ApiError, OSError) as error:
                if time.monotonic() > deadline:
                    raise ClusterError(f"Waited {READY_SECONDS} s until {what}: {error}.") from error
                time.sleep(0.05)


@contextmanager
def control_plane(
    folder: Path | None = None,
    *,
    controllers: bool = True,
    kwok: bool = False,
    nodes: int = 10,
    audit_log: bool | Path = False,
    report: binaries.Report = print,
) -> Iterator[ControlPlane]:
    """Run etcd and kube-apiserver, by default with kube-controller-manager and kube-scheduler.

    folder: an empty folder for its files; None makes one and removes it at the end, or in the next run.
    controllers: start kube-controller-manager and kube-scheduler too, without their usual API limits.
    kwok: add `nodes` fake nodes with room for 500 pods each, whose pods become ready at once.
    audit_log: True (in `folder`) or a path: write one JSON line per request.

    Ready in about 5 s. Everything ends with the context, or with the thread that opened it (see `Process`).
    Raises ClusterError when it does not become ready.
    """
    names = list(components.COMMANDS)[: None if controllers else 2]
    programs = {
        name: found.path for name, found in binaries.find(*names, *(["kwok"] if kwok else []), report=report).items()
    }
    with _own_folder() if folder is None else nullcontext(folder) as place:
        place.mkdir(parents=True, exist_ok=True)
        plane = _describe(place, programs, place / "audit.log" if audit_log is True else audit_log or None)
        try:
            for name in names:
                if name == "kube-controller-manager":
                    plane.wait_ready()  # started earlier it is refused, and comes back only seconds later
                plane.start(name, components.COMMANDS[name](plane.settings))
            plane.wait_ready()
            if kwok:
                _add_fake_nodes(plane, programs["kwok"], nodes)
            yield plane
        finally:
            for process in reversed(plane.processes.values()):
                process.stop()


def _describe(folder: Path, programs: dict[str, Path], audit_log: Path | None) -> ControlPlane:
    port, etcd_port, etcd_peer_port = ports.free(3)
    settings = components.Settings(
        folder=folder,
        programs=programs,
        listen="127.0.0.1",
        server=f"https://127.0.0.1:{port}",
        port=port,
        etcd_port=etcd_port,
        etcd_peer_port=etcd_peer_port,
        service_range=SERVICE_RANGE,
        audit_log=audit_log,
    )
    admin = components.prepare(settings)
    return ControlPlane(
        folder=folder,
        server=settings.server,
        kubeconfig=settings.kubeconfig,
        certificate_authority=settings.authority.pair.certificate,
        client=admin,
        processes={},
        audit_log=audit_log,
        settings=settings,
    )


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A fresh folder, locked while its owner lives: so an unlocked one belongs to a run that was killed."""
    parent = paths.cache() / "control-planes"
    parent.mkdir(exist_ok=True)
    for leftover in parent.iterdir():
        _remove_unless_locked(leftover)
    folder = Path(tempfile.mkdtemp(dir=parent))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_unless_locked(folder: Path) -> None:
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    except FileNotFoundError:
        # Killed, or still between mkdtemp and lock: a minute tells them apart.
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > 60:
                shutil.rmtree(folder, ignore_errors=True)


def _add_fake_nodes(plane: ControlPlane, kwok: Path, count: int) -> None:
    plane.start(
        "kwok",
        [
            str(kwok),
            f"--kubeconfig={plane.kubeconfig}",
            f"--config={STAGES}",
            "--manage-nodes-with-label-selector=type=kwok",
            "--node-lease-duration-seconds=40",
            f"--cidr={FAKE_POD_RANGE}",
            "--node-ip=198.18.0.1",
        ],
    )
    room = {"cpu": "1000", "memory": "4Ti", "ephemeral-storage": "4Ti", "pods": str(PODS_PER_FAKE_NODE)}
    for number in range(count):
        plane.api.request("POST", "/api/v1/nodes", fake_node(f"fake-{number}", room))
    plane.wait_until("every fake node is Ready", lambda: _require_ready_nodes(plane.api, count))


def fake_node(name: str, room: dict[str, str]) -> dict[str, Any]:
    """A Node object that KWOK will keep Ready."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok"},
        },
        "status": {"capacity": room, "allocatable": room},
    }


def _require_ready_nodes(api: Client, count: int) -> None:
    nodes = api.request("GET", "/api/v1/nodes")["items"]
    ready = [node for node in nodes if _is_ready(node)]
    if len(ready) < count:
        raise ConnectionError(f"{len(ready)} of {count} fake nodes are Ready")


def _is_ready(node: dict[str, Any]) -> bool:
    schedulable = not node["spec"].get("taints")
    conditions = node["status"].get("conditions", [])
    return schedulable and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

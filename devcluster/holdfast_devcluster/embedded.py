"""The embedded back end: a whole single-node Kubernetes in namespaces of its own, without Docker."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from holdfast_devcluster import binaries, cgroups, components, images, namespaces, oci, packages, paths, provisioner
from holdfast_devcluster.api import ApiError, Client, Json
from holdfast_devcluster.binaries import Report
from holdfast_devcluster.certificates import Pair
from holdfast_devcluster.errors import ClusterError
from holdfast_devcluster.images import Image
from holdfast_devcluster.network import SLOTS, Network
from holdfast_devcluster.node import PAUSE_IMAGE, Node

PROGRAMS = (*components.COMMANDS, "kubelet", "kube-proxy", "coredns")
TOOLS = ("containerd", "ctr", "runc", "bridge", "ip", "nft", "sysctl")
READY_SECONDS = 240
PORT = 6443
SOCKET_PATH_LIMIT = 107  # sockaddr_un


class Embedded:
    """The cluster called `name`; all of it is in one folder below the user's cache folder."""

    def __init__(self, name: str, report: Report = print) -> None:
        self.name = name
        self.folder = (clusters() / name).resolve()
        self._images = (paths.cache() / "images" / f"node-{name}").resolve()
        self._report = report

    # --- what every back end offers -------------------------------------------------------------------

    def up(self) -> None:
        """Bring the cluster up, from whatever state it is in. Raises ClusterError when a step fails."""
        _require_root_linux()
        self._require_short_path()
        with paths.locked(clusters() / ".lock"):
            packages.require(TOOLS, self._report)
            programs = binaries.find(*PROGRAMS, report=self._report)
            sources = sorted({found.source for found in programs.values()})
            self._report(f"Kubernetes {binaries.MODULES[0].version}; programs: {', '.join(sources)}")
            network = Network(self._slot())
            network.require_free(str(self.folder))
            paths_of = {name: found.path for name, found in programs.items()}
            node = Node(self.name, self.folder, self._images, paths_of, network)
            init = namespaces.init_pid(self.folder)
            if init is None:
                self._report("namespaces and network")
                init = self._start(node)
            network.connect(init, str(self.folder))
            self._run_control_plane(node)
            self._run_node(node)
        self._report(f"ready; export KUBECONFIG={self.kubeconfig()}")

    def down(self, purge: bool) -> None:
        """End and remove the cluster, whole or half made. Its images stay in the cache unless `purge`."""
        _require_root_linux()
        with paths.locked(clusters() / ".lock"):
            if purge:
                self._stop()
                shutil.rmtree(self._images, ignore_errors=True)
            if not self.exists():
                self._report(f"there is no cluster {self.name}")
                return
            self._stop()
            shutil.rmtree(self.folder)
        self._report(f"cluster {self.name} is gone")

    def status(self) -> str:
        """A few lines for a person."""
        verdict = f"embedded cluster {self.name}: "
        if not self.exists():
            return verdict + "none"
        lines = [f"folder      {self.folder}", f"kubeconfig  {self.folder / 'kubeconfig'}"]
        init = namespaces.init_pid(self.folder)
        if init is None:
            return "\n".join([*lines, verdict + "stopped"])
        lines.append(f"namespaces  nsenter --target {init} --mount --pid --net")
        try:
            nodes = self._api.request("GET", "/api/v1/nodes")["items"]
            lines += [f"node        {node['metadata']['name']}: {_readiness(node)}" for node in nodes]
        except (ApiError, OSError) as error:
            lines.append(f"API server  does not answer: {error}")
        return "\n".join([*lines, verdict + "running"])

    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig. Raises ClusterError when there is no cluster."""
        path = self.folder / "kubeconfig"
        if not path.exists():
            raise ClusterError(f"There is no cluster {self.name}; `up` makes it.")
        return path

    def load(self, image: Image) -> None:
        """Have the node know a built image; quick when it does already."""
        if namespaces.init_pid(self.folder) is None:
            raise ClusterError(f"Cluster {self.name} does not run; `up` starts it.")
        if not self._ctr("list", "--quiet", f"name=={image.reference}").strip():
            images.forget(image, self._images)
        images.load(image, self._images, lambda archive: self._import(archive, image.reference), self._report)

    def exists(self) -> bool:
        """Is there anything of it, whole or half made?"""
        return self.folder.exists()

    # --- the node's images ----------------------------------------------------------------------------

    def _import(self, archive: Path, reference: str) -> None:
        for attempts_left in (2, 1, 0):
            try:
                self._ctr("import", str(archive))
                break
            except ClusterError as error:
                # The image's older version loses its name in the same moment, and containerd's garbage collector may
                # take a snapshot that both share just before the new one is prepared on it.
                if "parent snapshot" not in str(error) or not attempts_left:
                    raise
        # The label is what makes the kubelet see it; containerd sets it too, but only a moment later.
        self._ctr("label", reference, "io.cri-containerd.image=managed")
        self._remove_unnamed()

    def _remove_unnamed(self) -> None:
        """Remove the older versions of images: they keep a name of their own, by digest, and with it their files."""
        rows = [line.split() for line in self._ctr("list").splitlines()[1:]]
        named = {row[2] for row in rows if not row[0].startswith("sha256:")}
        if older := [row[0] for row in rows if row[0].startswith("sha256:") and row[2] not in named]:
            self._ctr("remove", "--sync", *older)

    def _ctr(self, *arguments: str) -> str:
        socket_path = str(self.folder / "containerd.sock")
        command = ["ctr", "--address", socket_path, "--namespace", "k8s.io", "images", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise ClusterError(f"ctr images {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
        return done.stdout

    # --- steps ----------------------------------------------------------------------------------------

    @property
    def _api(self) -> Client:
        pki = self.folder / "pki"
        server = f"https://{Network(self._slot()).node}:{PORT}"
        return Client(server, pki / "ca.crt", Pair(pki / "admin.crt", pki / "admin.key"))

    def _require_short_path(self) -> None:
        longest = self.folder / "containerd.sock.ttrpc"
        if len(str(longest)) > SOCKET_PATH_LIMIT:
            raise ClusterError(
                f"{longest} is too long for a socket ({SOCKET_PATH_LIMIT} characters). Name a shorter folder in "
                "XDG_CACHE_HOME, or a shorter --name."
            )

    def _slot(self) -> int:
        """Which addresses it has: chosen once, the first that no other cluster of this user has."""
        file = self.folder / "cluster.json"
        if not file.exists():
            others = clusters().glob("*/cluster.json")
            taken = {json.loads(other.read_text())["slot"] for other in others}
            free = [slot for slot in range(SLOTS) if slot not in taken and not Network(slot).connected]
            if not free:
                raise ClusterError(f"There are {SLOTS} clusters already; end one with `down --name`.")
            self.folder.mkdir(parents=True, exist_ok=True)
            new = file.with_suffix(".new")
            new.write_text(json.dumps({"slot": free[0]}))
            new.rename(file)
        slot: int = json.loads(file.read_text())["slot"]
        return slot

    def _start(self, node: Node) -> int:
        self._stop()  # what a killed run or machine left
        node.write_configuration()
        cgroups.create(node.cgroup)
        return namespaces.start(self.folder, node.setup() + node.network.setup())

    def _stop(self) -> None:
        namespaces.stop(self.folder)
        if not (self.folder / "cluster.json").exists():
            return
        network = Network(self._slot())
        if network.may_touch(str(self.folder)):
            network.disconnect(str(self.folder))
            cgroups.remove(f"/{network.link}")

    def _run_control_plane(self, node: Node) -> None:
        settings = components.Settings(
            folder=self.folder,
            programs=node.programs,
            listen="0.0.0.0",  # noqa: S104 - in the cluster's own network namespace
            server=f"https://{node.network.node}:{PORT}",
            port=PORT,
            etcd_port=2379,
            etcd_peer_port=2380,
            service_range=node.network.service_range,
            hosts=(node.network.node, node.network.cluster_end),
            advertise=node.network.node,
            audit_log=self.folder / "logs" / "audit.log",
            audit_log_megabytes=200,
        )
        components.prepare(settings)
        authority = settings.authority
        for name, user, groups in (
            ("kubelet", f"system:node:{self.name}", ["system:nodes"]),
            ("kube-proxy", "system:kube-proxy", []),
            ("coredns", "system:coredns", []),
            ("provisioner", "holdfast-provisioner", ["system:masters"]),
        ):
            pair = authority.issue(name, user, groups, hosts=(self.name, node.network.node))
            authority.kubeconfig(self.folder / f"{name}.kubeconfig", settings.server, pair)
        self._report("control plane")
        for name in ("etcd", "kube-apiserver"):
            namespaces.run_program(self.folder, name, components.COMMANDS[name](settings))
        namespaces.run_program(self.folder, "containerd", node.commands()["containerd"])
        self._until("the API server is ready", lambda: self._api.request("GET", "/readyz"))
        for name in ("kube-controller-manager", "kube-scheduler"):
            namespaces.run_program(self.folder, name, components.COMMANDS[name](settings))

    def _run_node(self, node: Node) -> None:
        self._report("node, DNS, storage")
        for path, body in cluster_objects(node.network).items():
            self._api.apply(path, body)
        self._load_pause_image()
        for name in ("kubelet", "kube-proxy", "coredns"):
            namespaces.run_program(self.folder, name, node.commands()[name])
        options = (
            f"--server=https://{node.network.node}:{PORT}",
            f"--pki={self.folder / 'pki'}",
            f"--folder={self.folder / 'volumes'}",
        )
        python = ("env", f"PYTHONPATH={Path(__file__).parents[1]}", sys.executable)
        namespaces.run_program(self.folder, "provisioner", [*python, "-m", "holdfast_devcluster.provisioner", *options])
        self._until("the node is Ready", self._require_node)
        self._until(
            "the default service account exists",
            lambda: self._api.request("GET", "/api/v1/namespaces/default/serviceaccounts/default"),
        )
        # From this machine through the link and kube-proxy's rules to CoreDNS: the whole road at once.
        self._until("the cluster's DNS answers", lambda: socket.create_connection((node.network.dns, 53), 2).close())

    def _load_pause_image(self) -> None:
        archive = busybox_archive(self._report)

        def load() -> None:
            try:
                if not self._ctr("list", "--quiet", f"name=={PAUSE_IMAGE}").strip():
                    self._import(archive, PAUSE_IMAGE)
            except ClusterError as error:
                raise ConnectionError(str(error)) from error

        self._until("containerd takes images", load)

    def _require_node(self) -> None:
        if (state := _readiness(self._api.request("GET", f"/api/v1/nodes/{self.name}"))) != "Ready":
            raise ConnectionError(state)

    def _until(self, what: str, attempt: Callable[[], object]) -> None:
        """Call `attempt` until it raises neither ApiError nor OSError."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                attempt()
                return
            except (ApiError, OSError) as error:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"Waited {READY_SECONDS} s until {what}: {error}. The logs are in {self.folder / 'logs'}; "
                        "`up` again goes on, `down` and `up` start over."
                    ) from error
                time.sleep(0.1)


def clusters() -> Path:
    """The folder with one folder per embedded cluster."""
    return paths.cache() / "clusters"


def busybox_archive(report: Report) -> Path:
    """The archive of the busybox image, made when missing."""
    archive = paths.cache() / "images" / "busybox.tar"
    if not archive.exists():
        busybox = packages.static_busybox(report)
        applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        archive.parent.mkdir(exist_ok=True)
        oci.write_busybox(archive, PAUSE_IMAGE, busybox, applets)
    return archive


def cluster_objects(network: Network) -> dict[str, Json]:
    """Path → object: the default StorageClass, and the cluster's DNS, which runs beside the kubelet."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    system = {"name": "kube-dns", "namespace": "kube-system"}
    ports = [{"name": name, "port": 53, "protocol": name.upper()} for name in ("udp", "tcp")]
    return {
        f"/apis/storage.k8s.io/v1/storageclasses/{provisioner.CLASS}": provisioner.storage_class(),
        f"{rbac}/clusterroles/system:coredns": {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["endpoints", "services", "pods", "namespaces"],
                    "verbs": ["list", "watch"],
                },
                {
                    "apiGroups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "verbs": ["list", "watch"],
                },
            ],
        },
        f"{rbac}/clusterrolebindings/system:coredns": {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "system:coredns",
            },
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}],
        },
        "/api/v1/namespaces/kube-system/services/kube-dns": {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": system,
            "spec": {"clusterIP": network.dns, "ports": ports},
        },
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns": {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**system, "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [network.node], "conditions": {"ready": True}}],
            "ports": ports,
        },
    }


def _readiness(node: Json) -> str:
    """`Ready`, or why not."""
    for condition in node.get("status", {}).get("conditions", []):
        if condition["type"] == "Ready":
            return "Ready" if condition["status"] == "True" else str(condition.get("message", "not ready"))
    return "has not reported yet"


def _require_root_linux() -> None:
    if platform.system() != "Linux":
        raise ClusterError("The embedded cluster needs Linux. Start Docker and try again: kind is used then.")
    if os.geteuid() != 0:
        raise ClusterError(
            "The embedded cluster needs root. Run the command with sudo -E, or start Docker: kind is used then."
        )

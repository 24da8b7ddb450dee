"""The embedded node's configuration files and command lines: containerd, kubelet, kube-proxy, CoreDNS."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast_devcluster import paths
from holdfast_devcluster.network import Network

PAUSE_IMAGE = "localhost/holdfast-busybox:dev"
CNI_PLUGINS = ("/usr/lib/cni", "/opt/cni/bin")

# kubelet sets these for the whole machine and does not start when it cannot. In our mount namespace each one
# is a plain file with the wanted value instead.
KERNEL_SETTINGS = {
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/vm/panic_on_oom": "0",
    "/proc/sys/kernel/panic": "10",
    "/proc/sys/kernel/panic_on_oops": "1",
    "/proc/sys/kernel/keys/root_maxkeys": "1000000",
    "/proc/sys/kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True)
class Node:
    """One node: where its files are and what it is called."""

    name: str
    folder: Path
    images: Path
    """containerd's root. The images in it outlive the cluster; kubelet clears away what else is left there."""
    programs: Mapping[str, Path]
    network: Network

    @property
    def containerd_socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def cgroup(self) -> str:
        """Below this cgroup, in every hierarchy, is everything that its pods run."""
        return f"/{self.network.link}"

    def setup(self) -> list[list[str]]:
        """Commands that init runs in the fresh mount namespace."""
        values = self.folder / "kernel-settings"
        cache = str(paths.cache().resolve())
        layers = "lowerdir=/var/lib,upperdir=/run/lib/new,workdir=/run/lib/work"
        return [
            ["mount", "--make-rshared", "/"],
            # containerd, runc and the kubelet write to fixed places here, and would leave them behind.
            *(["mount", "-t", "tmpfs", "tmpfs", path] for path in ("/run", "/var/log")),
            ["mkdir", "-p", "/run/cache", "/run/lib/new", "/run/lib/work"],
            ["mount", "--bind", cache, "/run/cache"],
            ["mount", "-t", "overlay", "overlay", "-o", layers, "/var/lib"],
            ["mount", "--bind", "/run/cache", cache],  # the real one again, should it be below /var/lib
            *(["mount", "--bind", str(values / Path(path).name), path] for path in KERNEL_SETTINGS),
        ]

    def write_configuration(self) -> None:
        """Every file that the command lines refer to."""
        values = self.folder / "kernel-settings"
        values.mkdir(exist_ok=True)
        for path, value in KERNEL_SETTINGS.items():
            (values / Path(path).name).write_text(value)
        (self.folder / "cni").mkdir(exist_ok=True)
        (self.folder / "cni" / "10-bridge.conflist").write_text(json.dumps(cni(self.network)))
        (self.folder / "containerd.toml").write_text(containerd(self))
        (self.folder / "kubelet.json").write_text(json.dumps(kubelet(self), indent=2))
        (self.folder / "Corefile").write_text(corefile(self))

    def commands(self) -> dict[str, list[str]]:
        """Name → command line."""
        return {
            "containerd": ["containerd", "--config", str(self.folder / "containerd.toml")],
            "kubelet": [
                str(self.programs["kubelet"]),
                f"--config={self.folder / 'kubelet.json'}",
                f"--kubeconfig={self.folder / 'kubelet.kubeconfig'}",
                f"--root-dir={self.folder / 'kubelet'}",
                f"--cert-dir={self.folder / 'kubelet-certificates'}",
                f"--hostname-override={self.name}",
                f"--node-ip={self.network.node}",
            ],
            "kube-proxy": [
                str(self.programs["kube-proxy"]),
                f"--kubeconfig={self.folder / 'kube-proxy.kubeconfig'}",
                f"--hostname-override={self.name}",
                "--proxy-mode=nftables",
                f"--cluster-cidr={self.network.pod_range}",
                # These settings belong to the whole machine.
                "--conntrack-max-per-core=0",
                "--conntrack-min=0",
            ],
            "coredns": [str(self.programs["coredns"]), "-conf", str(self.folder / "Corefile")],
        }


def cni(network: Network) -> dict[str, object]:
    """The CNI network list: pods on a bridge, without masquerading."""
    return {
        "cniVersion": "0.4.0",
        "name": "holdfast",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": network.pod_range}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def containerd(node: Node) -> str:
    """containerd's configuration file."""
    plugins = next((path for path in CNI_PLUGINS if (Path(path) / "bridge").exists()), CNI_PLUGINS[0])
    return f"""\
version = 2
root = "{node.images}/containerd"
state = "/run/containerd"
[grpc]
  address = "{node.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without it no pod starts where CAP_SYS_RESOURCE is missing, as in many containers and virtual machines.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{node.folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def kubelet(node: Node) -> dict[str, object]:
    """The KubeletConfiguration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.network.node,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(node.folder / "pki" / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(node.folder / "pki" / "kubelet.crt"),
        "tlsPrivateKeyFile": str(node.folder / "pki" / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{node.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDomain": "cluster.local",
        "clusterDNS": [node.network.dns],
        "resolvConf": "/dev/null",  # pods see the cluster's names and no others
        "podLogsDir": str(node.folder / "pod-logs"),
        "volumePluginDir": str(node.folder / "volume-plugins"),
        "imageGCHighThresholdPercent": 100,  # images were loaded by hand and can be had from nowhere
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def corefile(node: Node) -> str:
    """CoreDNS: the cluster's names, and a clear no for every other.

    Two blocks, because within one the template would come first.
    """
    return f"""\
cluster.local in-addr.arpa {{
    bind {node.network.node}
    errors
    kubernetes {{
        kubeconfig {node.folder}/coredns.kubeconfig
        ttl 5
    }}
}}
. {{
    bind {node.network.node}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""

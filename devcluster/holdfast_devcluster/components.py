"""The control plane's command lines and credentials: the same for tests and for the embedded cluster."""

import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast_devcluster.certificates import Authority, Pair

# Their own API limits (20 requests a second) would slow every start and be what a benchmark measures.
UNLIMITED = ("--kube-api-qps=2000", "--kube-api-burst=4000", "--leader-elect=false", "--secure-port=0")


@dataclass(frozen=True)
class Settings:
    """What differs from one control plane to another."""

    folder: Path
    programs: Mapping[str, Path]
    listen: str
    """The address that kube-apiserver binds."""
    server: str
    """The URL that its clients use."""
    port: int
    etcd_port: int
    etcd_peer_port: int
    service_range: str
    hosts: tuple[str, ...] = ()
    """More names and addresses for its certificate."""
    advertise: str | None = None
    """The address behind the `kubernetes` Service; None where no pod will ever ask."""
    audit_log: Path | None = None
    audit_log_megabytes: int = 0
    """Start a new file at this size and keep one old one; 0: one file without end."""

    @property
    def authority(self) -> Authority:
        return Authority(self.folder / "pki")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "kubeconfig"

    def first_service_address(self, offset: int = 1) -> str:
        return str(ipaddress.ip_network(self.service_range)[offset])


def prepare(settings: Settings) -> Pair:
    """Write certificates, kubeconfigs and the audit policy; returns the administrator's certificate."""
    authority = settings.authority
    authority.service_account_key()
    authority.issue(
        "kube-apiserver",
        "kube-apiserver",
        hosts=(
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            settings.first_service_address(),
            *settings.hosts,
        ),
    )
    authority.issue("kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
    admin = authority.issue("admin", "holdfast-admin", ["system:masters"])
    authority.kubeconfig(settings.kubeconfig, settings.server, admin)
    for name in ("kube-controller-manager", "kube-scheduler"):
        pair = authority.issue(name, f"system:{name}")
        authority.kubeconfig(settings.folder / f"{name}.kubeconfig", settings.server, pair)
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }
    (settings.folder / "audit-policy.json").write_text(json.dumps(policy))
    return admin


def _etcd(settings: Settings) -> list[str]:
    client, peer = (f"http://127.0.0.1:{port}" for port in (settings.etcd_port, settings.etcd_peer_port))
    return [
        str(settings.programs["etcd"]),
        f"--data-dir={settings.folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # survives a killed process, not a power cut; nothing here needs to
        "--log-level=warn",
    ]


def _apiserver(settings: Settings) -> list[str]:
    pki = settings.folder / "pki"
    command = [
        str(settings.programs["kube-apiserver"]),
        f"--etcd-servers=http://127.0.0.1:{settings.etcd_port}",
        f"--bind-address={settings.listen}",
        f"--secure-port={settings.port}",
        f"--tls-cert-file={pki / 'kube-apiserver.crt'}",
        f"--tls-private-key-file={pki / 'kube-apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--service-account-key-file={pki / 'service-account.key'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=Node,RBAC",
        f"--service-cluster-ip-range={settings.service_range}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",  # a node's name is in no DNS here
        "--allow-privileged=true",
    ]
    if settings.advertise is None:
        command += [
            "--endpoint-reconciler-type=none",
            f"--advertise-address={settings.first_service_address()}",
        ]
    else:
        command += [f"--advertise-address={settings.advertise}"]
    if settings.audit_log is not None:
        command += [
            f"--audit-log-path={settings.audit_log}",
            f"--audit-policy-file={settings.folder / 'audit-policy.json'}",
            f"--audit-log-maxsize={settings.audit_log_megabytes}",
            "--audit-log-maxbackup=1",
            "--audit-log-mode=blocking",  # whoever reads it after an answer finds the request in it
        ]
    return command


def _controller_manager(settings: Settings) -> list[str]:
    pki = settings.folder / "pki"
    return [
        str(settings.programs["kube-controller-manager"]),
        f"--kubeconfig={settings.folder / 'kube-controller-manager.kubeconfig'}",
        f"--service-account-private-key-file={pki / 'service-account.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        "--use-service-account-credentials=true",
        "--horizontal-pod-autoscaler-sync-period=5s",  # of 15, which tests would wait for
        *UNLIMITED,
        *(
            f"--concurrent-{controller}-syncs=32"
            for controller in (
                "deployment",
                "replicaset",
                "job",
                "endpoint",
                "service-endpoint",
                "gc",
                "serviceaccount-token",
            )
        ),
    ]


def _scheduler(settings: Settings) -> list[str]:
    return [
        str(settings.programs["kube-scheduler"]),
        f"--kubeconfig={settings.folder / 'kube-scheduler.kubeconfig'}",
        *UNLIMITED,
    ]


COMMANDS: dict[str, Callable[[Settings], list[str]]] = {
    "etcd": _etcd,
    "kube-apiserver": _apiserver,
    "kube-controller-manager": _controller_manager,
    "kube-scheduler": _scheduler,
}
"""Name → builder of its command line, in the order in which they are best started."""

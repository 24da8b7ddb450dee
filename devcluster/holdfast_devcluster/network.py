"""Addresses of an embedded cluster, and its one link and two routes on the host.

Everything lies in 198.18.0.0/15, the range reserved for benchmarks, which no real network uses. Sixteen clusters fit
side by side: cluster `slot` has 198.18.(16·slot).0/20 for pods and its link, 198.19.(16·slot).0/20 for Services.
"""

import ipaddress
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from holdfast_devcluster.api import Json
from holdfast_devcluster.errors import ClusterError

RANGE = ipaddress.IPv4Network("198.18.0.0/15")
SLOTS = 16
UPLINK = "uplink"


@dataclass(frozen=True)
class Network:
    """The addresses of the cluster in one slot (0 to 15)."""

    slot: int

    @property
    def link(self) -> str:
        """The host's end of the veth pair."""
        return f"holdfast{self.slot}"

    @property
    def cluster_range(self) -> str:
        return f"198.18.{16 * self.slot}.0/20"

    @property
    def pod_range(self) -> str:
        return f"198.18.{16 * self.slot}.0/24"

    @property
    def service_range(self) -> str:
        return f"198.19.{16 * self.slot}.0/20"

    @property
    def node(self) -> str:
        """The node's address, on the bridge that the pods hang on."""
        return f"198.18.{16 * self.slot}.1"

    @property
    def dns(self) -> str:
        return f"198.19.{16 * self.slot}.10"

    @property
    def host_end(self) -> str:
        return f"198.18.{16 * self.slot + 15}.1"

    @property
    def cluster_end(self) -> str:
        return f"198.18.{16 * self.slot + 15}.2"

    def setup(self) -> list[list[str]]:
        """Commands that init runs in the fresh network namespace."""
        return [
            ["ip", "link", "set", "lo", "up"],
            ["ip", "link", "add", "cni0", "type", "bridge"],
            ["ip", "address", "add", f"{self.node}/24", "dev", "cni0"],
            ["ip", "link", "set", "cni0", "up"],
            ["sysctl", "-qw", "net.ipv4.ip_forward=1"],
            # A Service address must have a route before kube-proxy's rules can change it into a pod's.
            ["ip", "route", "add", self.service_range, "dev", "cni0"],
            # Nothing leaves, and whoever tries is told at once.
            ["ip", "route", "add", "unreachable", "default"],
        ]

    def connect(self, init_pid: int, owner: str) -> None:
        """Link the host with the namespaces of process `init_pid`; what is there already stays."""
        if not self.connected:
            _run("ip", "link", "add", self.link, "type", "veth", "peer", "name", UPLINK, "netns", str(init_pid))
        _run("ip", "link", "set", self.link, "alias", owner)
        inside = ("nsenter", f"--net=/proc/{init_pid}/ns/net", "ip")
        _run(*inside, "address", "replace", f"{self.cluster_end}/30", "dev", UPLINK)
        _run(*inside, "link", "set", UPLINK, "up")
        _run("ip", "address", "replace", f"{self.host_end}/30", "dev", self.link)
        _run("ip", "link", "set", self.link, "up")
        for addresses in (self.cluster_range, self.service_range):
            _run("ip", "route", "replace", addresses, "via", self.cluster_end, "dev", self.link)

    def disconnect(self, owner: str) -> None:
        """Remove the link of this owner, and its routes with it; fine when there is none."""
        if self.connected and self.may_touch(owner):
            subprocess.run(["ip", "link", "delete", self.link], stderr=subprocess.DEVNULL)

    @property
    def connected(self) -> bool:
        return (Path("/sys/class/net") / self.link).exists()

    def may_touch(self, owner: str) -> bool:
        """Is the link this owner's, or nobody's?"""
        return self._owner in ("", owner)

    @property
    def _owner(self) -> str:
        alias = Path("/sys/class/net") / self.link / "ifalias"
        return alias.read_text().strip() if alias.exists() else ""

    def require_free(self, owner: str) -> None:
        """Raise ClusterError when the link is another owner's, or another interface routes these addresses."""
        if not self.may_touch(owner):
            raise ClusterError(
                f"The addresses of this cluster are in use by the one in {self._owner}. End that one first, or choose "
                "another --name."
            )
        routes = json.loads(_run("ip", "-json", "route", "show", "table", "all") or "[]")
        if route := self.conflict(routes):
            raise ClusterError(
                f"This machine routes {route['dst']} to {route.get('dev', 'another place')} already, and the "
                f"cluster needs addresses of it. Stop what uses it (a VPN?), or start Docker to use kind."
            )

    def conflict(self, routes: list[Json]) -> Json | None:
        """The first of `ip -json route`'s routes that leads our addresses elsewhere; a default route does not."""
        ours = [ipaddress.ip_network(each) for each in (self.cluster_range, self.service_range)]
        for route in routes:
            if route.get("dst") in (None, "default") or route.get("dev") == self.link:
                continue
            other = ipaddress.ip_network(route["dst"], strict=False)
            # VPNs that take everything split the default route in halves.
            if other.version == 4 and other.prefixlen > 1 and any(other.overlaps(each) for each in ours):
                return route
        return None


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout

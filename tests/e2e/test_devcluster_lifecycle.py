"""The embedded cluster's own life: killed at any point, brought up again, removed without a trace.

A second cluster, next to the one that the other tests use.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from holdfast_devcluster import backends, binaries, cgroups, namespaces
from holdfast_devcluster.embedded import Embedded
from holdfast_devcluster.network import Network

NAME = "holdfast-lifecycle"
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "sleeper"},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"fsGroup": 65532},
        "containers": [
            {
                "name": "main",
                "image": "localhost/holdfast-busybox:dev",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "memory", "mountPath": "/memory"}],
            }
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ],
    },
}
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or backends.docker_answers(), reason="the embedded cluster is for root without Docker"
)


def devcluster(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "holdfast_devcluster", *arguments, "--name", NAME],
        env=os.environ | {backends.ENVIRONMENT: "embedded"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def kubectl(cluster: Embedded, *arguments: str, stdin: str | None = None) -> str:
    command = [str(binaries.kubectl()), f"--kubeconfig={cluster.kubeconfig()}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def try_kubectl(cluster: Embedded, *arguments: str) -> str:
    """What kubectl prints, or nothing where it fails."""
    try:
        return kubectl(cluster, *arguments)
    except AssertionError:
        return ""


def until(what: str, condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}"
        time.sleep(0.02)


def traces(folder: Path, network: Network) -> list[str]:
    """Everything on this machine that belongs to the cluster in `folder`."""
    routes = subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, text=True, check=True)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [
        *(f"process {pid}" for pid in namespaces.members(folder)),
        *(f"mount {line}" for line in mounts if str(folder) in line),
        *(f"route {line}" for line in routes.stdout.splitlines() if network.link in line),
        *(f"link {path.name}" for path in Path("/sys/class/net").iterdir() if path.name == network.link),
        *(f"cgroup {path}" for root, _ in cgroups.hierarchies() for path in root.glob(network.link)),
        *(f"folder {path}" for path in (folder,) if path.exists()),
    ]


FIXED_PLACES = [
    Path(path)
    for path in (
        "/run/containerd",
        "/run/netns",
        "/var/lib/cni",
        "/var/lib/kubelet",
        "/var/log/containers",
        "/var/log/pods",
    )
]
"""Where containerd, runc and the kubelet write, whatever they are told."""


def existing(places: list[Path]) -> list[Path]:
    return [path for path in places if path.exists()]


WERE_THERE_BEFORE = existing(FIXED_PLACES)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Embedded]:
    finish(devcluster("down", "--purge"))
    yield Embedded(NAME)
    finish(devcluster("down", "--purge"))


def network_of(cluster: Embedded) -> Network:
    return Network(json.loads((cluster.folder / "cluster.json").read_text())["slot"])


def killed_up(cluster: Embedded, reached: str) -> None:
    """An `up` that is killed as soon as the file `reached` is there."""
    process = devcluster("up")
    until(f"{reached} is there", lambda: (cluster.folder / reached).exists() or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_up_goes_on_wherever_an_earlier_one_was_killed(cluster: Embedded) -> None:
    for reached in ("cluster.json", "setup.json", "prepared", "pki/ca.crt", "kubeconfig", "programs/kubelet.json"):
        killed_up(cluster, reached)
    assert "ready" in finish(devcluster("up"))
    assert kubectl(cluster, "get", "nodes", "--output=name").strip() == f"node/{NAME}"


def test_up_of_a_running_cluster_changes_nothing(cluster: Embedded) -> None:
    before = namespaces.init_pid(cluster.folder)
    finish(devcluster("up"))
    assert before is not None
    assert namespaces.init_pid(cluster.folder) == before


def test_what_ran_in_a_cluster_comes_back_after_its_sudden_death(cluster: Embedded) -> None:
    kubectl(cluster, "apply", "-f", "-", stdin=yaml.safe_dump_all([CLAIM, POD]))
    kubectl(cluster, "wait", "--for=condition=Ready", "pod/sleeper", "--timeout=230s")
    kubectl(cluster, "exec", "sleeper", "--", "sh", "-c", "echo kept > /data/file")
    init = namespaces.init_pid(cluster.folder)
    assert init is not None
    os.kill(init, signal.SIGKILL)
    until("every process is gone", lambda: not list(namespaces.members(cluster.folder)))
    assert finish(devcluster("status")).strip().endswith("stopped")
    finish(devcluster("up"))
    until("the pod runs again", lambda: "kept" in try_kubectl(cluster, "exec", "sleeper", "--", "cat", "/data/file"))


def test_down_leaves_nothing(cluster: Embedded) -> None:
    network = network_of(cluster)
    assert traces(cluster.folder, network) != []
    finish(devcluster("down"))
    assert traces(cluster.folder, network) == []
    assert existing(FIXED_PLACES) == WERE_THERE_BEFORE
    assert finish(devcluster("status")).strip().endswith("none")


def test_down_of_a_half_made_cluster_leaves_nothing(cluster: Embedded) -> None:
    killed_up(cluster, "programs/containerd.json")
    network = network_of(cluster)
    finish(devcluster("down"))
    assert traces(cluster.folder, network) == []


def test_the_link_of_somebody_else_s_cluster_is_left_alone(cluster: Embedded) -> None:
    killed_up(cluster, "cluster.json")
    network = network_of(cluster)
    finish(devcluster("down"))
    cluster.folder.mkdir()
    (cluster.folder / "cluster.json").write_text(json.dumps({"slot": network.slot}))
    subprocess.run(["ip", "link", "add", network.link, "type", "veth", "peer", "name", "elsewhere"], check=True)
    subprocess.run(["ip", "link", "set", network.link, "alias", "another/folder"], check=True)
    try:
        refused = devcluster("up")
        output, _ = refused.communicate(timeout=240)
        assert refused.returncode == 1
        assert "in use by the one in another/folder" in output
        finish(devcluster("down"))
        assert network.connected
        assert not [trace for trace in traces(cluster.folder, network) if trace.startswith(("cgroup", "process"))]
    finally:
        subprocess.run(["ip", "link", "delete", network.link], check=True)
